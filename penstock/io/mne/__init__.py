"""Recordings of MNE-Python: what its `Info` says, and `Raw` and `Epochs` objects from and back."""

BATCH_BYTES = 4 * 1024 * 1024
"""Samples of all channels, in float64, that MNE-Python is asked for, or asks for, at once."""
