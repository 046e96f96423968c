"""Simulated EEG of any length, with the artifacts of simultaneous fMRI, and with known truth."""

from penstock.eeg.simulate.recordings import SimulatedRecording, recording

__all__ = ["SimulatedRecording", "recording"]
