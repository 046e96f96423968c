"""NumPy and SciPy on the whole array: SOURCE TARGET, the same FIR filter, float32 in and out."""

import json
import sys
import time

import edfio
import numpy as np
from mne.filter import create_filter
from scipy.signal import oaconvolve

source, target = sys.argv[1:]
began = time.perf_counter()
edf = edfio.read_edf(source)
data = np.stack([signal.data.astype(np.float32) for signal in edf.signals])
rate = edf.signals[0].sampling_frequency
taps = create_filter(None, rate, 1.0, 40.0, verbose="error").astype(np.float32)
n = len(taps) - 1
left = 2 * data[:, :1] - data[:, n:0:-1]
right = 2 * data[:, -1:] - data[:, -2 : -n - 2 : -1]
padded = np.concatenate([left, data, right], axis=1)
filtered = oaconvolve(padded, taps[np.newaxis], mode="full", axes=1)
half = n // 2
np.save(target, filtered[:, n + half : n + half + data.shape[1]])
print(json.dumps({"seconds": time.perf_counter() - began}))
