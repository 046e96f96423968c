"""Filters along time, and other sampling frequencies."""
