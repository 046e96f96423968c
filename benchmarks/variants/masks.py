"""Two masks on every frame of a file: WAY SOURCE.npy TARGET.npy [TIMES].

Ways: penstock, numpy (on the array in memory), libertem.
"""

import json
import os
import sys
import time

if sys.argv[1] != "penstock":  # (Penstock limits them itself)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"

import numpy as np


def two_masks() -> np.ndarray:
    y, x = np.mgrid[0:64, 0:64] - 31.5
    radius = np.hypot(x, y)
    return np.stack([radius < 8, (radius >= 16) & (radius < 30)]).astype(np.float32)


def main() -> None:
    began = time.perf_counter()
    way, source, target, *times = sys.argv[1:]
    run = {"penstock": _penstock, "numpy": _numpy, "libertem": _libertem}[way](source)
    seconds: list[float] = []
    first = 0.0
    for _ in range(int(times[0]) if times else 1):
        start = time.perf_counter()
        found = run()
        seconds.append(time.perf_counter() - start)
        first = first or time.perf_counter() - began
    np.save(target, np.asarray(found))
    print(json.dumps({"seconds": min(seconds), "first": first}))


def _penstock(source):
    import penstock as ps
    from penstock.spectra import ApplyMasks, reduce

    ds = ps.open_dataset(source, dims=("y", "x", "ky", "kx"))
    masks = {"masks": ApplyMasks(two_masks())}
    return lambda: reduce(ds, masks, core_dims=("ky", "kx"), workers=2).masks.values


def _numpy(source):
    data = np.load(source).reshape(-1, 64 * 64)
    masks = np.ascontiguousarray(two_masks().reshape(2, -1).T)

    def run():
        found = np.empty((len(data), 2), np.float32)
        for start in range(0, len(data), 64):
            np.dot(data[start : start + 64], masks, out=found[start : start + 64])
        return found.reshape(128, 128, 2)

    return run


def _libertem(source):
    import libertem.api as lt

    context = lt.Context.make_with("threads", cpus=2)
    ds = context.load("npy", path=source, sig_dims=2)
    made = [lambda m=m: m for m in two_masks()]
    analysis = context.create_mask_analysis(dataset=ds, factories=made, use_sparse=False)

    def run():
        found = context.run(analysis)
        return np.stack([found[f"mask_{i}"].raw_data for i in range(2)], axis=-1)

    return run


if __name__ == "__main__":
    main()
