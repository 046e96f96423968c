"""Plots of regions, signals and cleaning."""
