"""Recordings of MNE-Python: what its `Info` says, and `Raw` and `Epochs` objects from and back."""
