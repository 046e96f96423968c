"""Methods of `mne.io.Raw` as processors."""
