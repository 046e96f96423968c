"""MNE: SOURCE TARGET N_JOBS, raw.filter(1, 40) from file to file."""

import json
import sys
import time

import mne
import mne.filter
import mne.io
import scipy.signal  # noqa: F401 (loaded before the clock: only the work is timed)

source, target, n_jobs = sys.argv[1:]
began = time.perf_counter()
raw = mne.io.read_raw(source, preload=True, verbose="error")
raw.filter(1.0, 40.0, n_jobs=int(n_jobs), verbose="error")
raw.save(target, fmt="single", overwrite=True, verbose="error")
print(json.dumps({"seconds": time.perf_counter() - began}))
