"""Maskers: estimators with nilearn's names."""
