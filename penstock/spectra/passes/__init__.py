"""Reductions and decompositions: passes over all positions."""
