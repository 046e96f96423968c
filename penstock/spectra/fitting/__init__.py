"""Curve fits at every position."""
