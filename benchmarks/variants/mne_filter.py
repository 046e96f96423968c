"""MNE: SOURCE TARGET N_JOBS [TIMES], raw.filter(1, 40) from file to file."""

import json
import sys
import time

import mne

source, target, n_jobs, *times = sys.argv[1:]
seconds = []
for _ in range(int(times[0]) if times else 1):
    began = time.perf_counter()
    raw = mne.io.read_raw(source, preload=True, verbose="error")
    raw.filter(1.0, 40.0, n_jobs=int(n_jobs), verbose="error")
    raw.save(target, fmt="single", overwrite=True, verbose="error")
    seconds.append(time.perf_counter() - began)
    del raw
print(json.dumps({"seconds": min(seconds), "first": seconds[0]}))
