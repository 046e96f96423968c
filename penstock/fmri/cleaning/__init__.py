"""Cleaning of time series: confounds, filters, censoring."""
