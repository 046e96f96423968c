"""Loads what MNE-Python needs for the samples of a recording: it imports its parts on first use.

Together they take more than 40 MiB, which belong to the process and not to its first block.
"""

from __future__ import annotations

import importlib

import mne
import numpy as np

from penstock.io.mne.raw import PlainRaw

for _name in ("mne.annotations", "mne.epochs", "mne.filter", "mne.parallel", "scipy.signal"):
    importlib.import_module(_name)

_raw = PlainRaw(np.zeros((1, 64)), mne.create_info(1, 100.0, "eeg"), verbose="error")
_raw.set_annotations(mne.Annotations([], [], []), verbose="error")
_raw.filter(None, 20.0, picks="all", method="iir", verbose="error")
del _raw
