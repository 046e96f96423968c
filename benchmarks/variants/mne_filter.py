"""MNE: SOURCE TARGET N_JOBS, raw.filter(1, 40) from file to file."""

import sys

import mne

source, target, n_jobs = sys.argv[1:]
raw = mne.io.read_raw(source, preload=True, verbose="error")
raw.filter(1.0, 40.0, n_jobs=int(n_jobs), verbose="error")
raw.save(target, fmt="single", overwrite=True, verbose="error")
