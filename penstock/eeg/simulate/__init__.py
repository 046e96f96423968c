"""Simulated EEG of any length, with the artifacts of simultaneous fMRI, and with known truth."""

from penstock.eeg.simulate.recordings import Simulation, recording

__all__ = ["Simulation", "recording"]
