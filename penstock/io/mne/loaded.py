"""Loads what MNE-Python needs to open any recording: it imports its parts on first use.

Together they take about 20 MiB, which belong to the process and not to its first recording.
"""

from __future__ import annotations

import importlib

import mne.io

for _name in mne.io.__all__:
    getattr(mne.io, _name)
importlib.import_module("mne.epochs")
