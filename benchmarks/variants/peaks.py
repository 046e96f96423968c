"""find_peaks_cwt on every spectrum of a file: WAY SOURCE.npy INDICES.npz [TIMES].

Ways: serial, joblib, pyusid, function (Penstock, SciPy's function), numpy, numba (Penstock's block
kernel). The time is that of the work on data in memory; processes, once up, are used again.
"""

import json
import sys
import time

import numpy as np

WIDTHS = np.linspace(20, 60, 30)


def find_all_peaks(vector, widths):
    from scipy.signal import find_peaks_cwt

    return find_peaks_cwt(np.abs(vector), widths)


def main() -> None:
    way, source, target, *times = sys.argv[1:]
    data = np.load(source)
    seconds, start, predicted = [], 0.0, 0
    for _ in range(int(times[0]) if times else 1):
        began = time.perf_counter()
        if way == "serial":
            found = [find_all_peaks(vector, WIDTHS) for vector in data]
        elif way == "joblib":
            import joblib

            jobs = (joblib.delayed(find_all_peaks)(vector, WIDTHS) for vector in data)
            found = joblib.Parallel(n_jobs=2)(jobs)
        elif way == "pyusid":
            from pyUSID.processing.comp_utils import parallel_compute

            began = time.perf_counter()
            found = parallel_compute(
                data, find_all_peaks, cores=2, lengthy_computation=True, func_args=[WIDTHS]
            )
        elif way == "function":
            from penstock.spectra import parallel_compute

            # the first call starts the processes, which serve the second
            quick = {"cores": 2, "func_args": [WIDTHS], "verbose": False}
            parallel_compute(data[:64], find_all_peaks, lengthy_computation=True, **quick)
            start = time.perf_counter() - began
            began = time.perf_counter()
            found = parallel_compute(data, find_all_peaks, **quick)
        elif way == "call":
            from penstock.spectra import parallel_compute

            found = parallel_compute(
                data, find_all_peaks, cores=2, func_args=[WIDTHS], verbose=False
            )
        else:
            import penstock as ps
            from penstock.spectra import FindPeaksCWT

            ds = ps.make_dataset(data, ("position", "frequency"))
            peaks = ps.Pipeline([FindPeaksCWT(tuple(WIDTHS), engine=way)])
            made = peaks(ds).compute(num_workers=2)
            count, index = made.peak_count.values, made.peak_index.values
            seconds.append(time.perf_counter() - began)
            found = [row[:n] for row, n in zip(index, count, strict=True)]
            continue
        seconds.append(time.perf_counter() - began)
    np.savez(target, count=[len(i) for i in found], index=np.concatenate(found))
    said = {"seconds": min(seconds), "first": seconds[0], "start": start, "predicted": predicted}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
