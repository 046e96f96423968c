"""Draws what the fuzz of the promise runs: data, pipelines, formats, budgets and places."""

from __future__ import annotations

import math
import random
from typing import Any

Case = dict[str, Any]
Steps = list[Any]


def draw(number: int, seed: int, *, largest: int = 120) -> Case:
    """One case, the same for the same number and seed: data of up to `largest` MiB, two settings.

    Tight budgets are what the refusal of a far too small one names, and a little more.
    """
    rng = random.Random(f"{seed}.{number}")
    domain = rng.choices(["recordings", "correction", "positions", "volumes"], [10, 2, 4, 4])[0]
    data, steps, formats = _DOMAINS[domain](rng, largest)
    settings = [
        {
            "memory": rng.choice(["tight", "tight", rng.randint(350, 600), rng.randint(800, 2500)]),
            "factor": round(rng.uniform(1.0, 1.15), 3),
            "workers": rng.choice([1, 2, 2, 3, 4]),
            "place": rng.choices(["threads", "processes", "client", "cluster"], [8, 2, 1, 1])[0],
        }
        for _ in range(2)
    ]
    return {
        "number": number,
        "seed": seed,
        "domain": domain,
        "data": data,
        "pipeline": steps,
        "format": rng.choice(formats),
        "dtype": rng.choice([None, None, None, "float32", "float64"]),
        "settings": settings,
    }


def _mib(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _recordings(rng: random.Random, largest: int) -> tuple[Case, Steps, list[str]]:
    kind = rng.choices(["edf", "npy", "zarr", "h5", "memory", "dask", "fif"], [5, 3, 4, 2, 2, 2, 1])
    rate = rng.choice([128, 250, 256, 500, 1000, 2000, 5000])
    n = rng.choice([1, 2, 4, 8, 19, 32, 64, 128])
    samples = max(20 * rate, int(_mib(rng, 4, largest) * 2**18 / n))
    samples -= samples % rate
    data: Case = {
        "kind": kind[0],
        "shape": [n, samples],
        "dims": ["channel", "time"],
        "rate": rate,
        "dtype": rng.choice(["<f4", "<f4", "<f8", "<i2"]),
        "chunks": rng.choice(
            [[1, min(samples, 1 << rng.randint(12, 19))], [n, 1 << rng.randint(10, 16)]]
        ),
        "compressed": rng.random() < 0.5,
    }
    if data["kind"] == "fif":
        data["shape"] = [min(n, 32), min(samples, 30 * rate)]
    n = data["shape"][0]
    nyquist = rate / 2

    def one_filter() -> Any:
        low, high = rng.choice([0.1, 0.5, 1.0, 4.0]), nyquist * rng.uniform(0.3, 0.8)
        method = rng.choice(["fir", "fir", "iir"])
        return rng.choice(
            [
                {"HighPassFilter": {"freq": low, "method": method}},
                {"LowPassFilter": {"freq": high, "method": method}},
                {"BandPassFilter": {"l_freq": low, "h_freq": high, "method": method}},
                {"NotchFilter": {"freqs": [50.0 if nyquist > 60 else 20.0], "method": method}},
            ]
        )

    mne = rng.choice(
        [
            {"method": "filter", "l_freq": 1.0, "h_freq": nyquist * 0.5},
            {"method": "savgol_filter", "h_freq": nyquist * 0.3},
            {"method": "apply_hilbert", "envelope": True},
        ]
    )
    resampling = {
        "sfreq": rng.choice([100.0, 128.0, 250.0, round(rate * 0.37, 1)]),
        "method": rng.choice(["polyphase", "polyphase", "fft"]),
    }
    pool = [one_filter() for _ in range(6)]
    pool += [{"UpSample": rng.choice([2, 3])}, "Scale", {"MNE": mne}]
    pool += ["Rereference", "Rereference"] if n > 1 else []
    pool += [{"Apply": {"function": "scipy.signal:detrend"}}]
    pool += [{"Apply": {"function": "numpy:square", "core_dims": []}}]
    steps = rng.sample(pool, rng.choice([1, 1, 2, 2, 3]))
    # (filters are drawn for the rate of the file, so that other rates come last)
    last = [{"Resample": resampling}, {"DownSample": 5}, {"Crop": {"tmin": 3.3, "tmax": 15.5}}]
    last.append({"MNE": {"method": "resample", "sfreq": rate / 2}})
    if rng.random() < 0.35:
        steps.append(rng.choice(last))
    return data, steps, ["zarr"] * 7 + ["edf", "edf", "fif"]


def _correction(rng: random.Random, largest: int) -> tuple[Case, Steps, list[str]]:
    n, duration = rng.choice([(4, 40.0), (8, 60.0), (16, 60.0), (31, 40.0)])
    data = {"kind": "scanner", "n_channels": n, "duration": duration, "rate": 5000.0}
    steps: Steps = [{"TriggerDetector": "^1$"}, {"HighPassFilter": 1.0}]
    steps += [{"UpSample": 4}] if rng.random() < 0.3 else []
    alignment = rng.choice(["fractional", "integer"])
    steps.append({"AASCorrection": {"window_size": rng.choice([5, 10]), "alignment": alignment}})
    steps += rng.choice(
        [
            [],
            [{"LowPassFilter": 70.0}, {"Resample": 250.0}],
            [{"LowPassFilter": 70.0}, "Rereference"],
        ]
    )
    return data, steps, ["zarr", "zarr", "edf"]


def _positions(rng: random.Random, largest: int) -> tuple[Case, Steps, list[str]]:
    step = rng.choice(["peaks", "fit", "per position", "square", "detrend"])
    n = rng.choice([64, 119, 256, 512])
    cells = int(_mib(rng, 2, largest / 2) * 2**18 / n)
    cells = min(cells, {"fit": 20_000, "per position": 60_000}.get(step, cells))
    y = rng.choice([1, 16, 64, 100])
    x = max(1, cells // y)
    data = {
        "kind": rng.choice(["npy", "h5", "zarr", "memory", "dask"]),
        "shape": [y, x, n],
        "dims": ["y", "x", "frequency"],
        "rate": None,
        "dtype": rng.choice(["<f4", "<f8", "<u2"]),
        "chunks": rng.choice([[1, min(x, 256), n], [y, max(1, x // 10), n]]),
        "compressed": rng.random() < 0.5,
    }
    model = rng.choice(["gaussian", "lorentzian"])
    steps: dict[str, Any] = {
        "peaks": {"FindPeaksCWT": {"widths": [2.0, 4.0, 8.0]}},
        "fit": {"Fit": {"model": model, "gil": rng.choice(["held", "released"])}},
        "per position": {"PerPosition": {"function": rng.choice(["numpy:argmax", "numpy:median"])}},
        "square": {"Apply": {"function": "numpy:square", "core_dims": []}},
        "detrend": {"Apply": {"function": "scipy.signal:detrend", "core_dims": ["frequency"]}},
    }
    return data, [steps[step]], ["zarr"]


def _volumes(rng: random.Random, largest: int) -> tuple[Case, Steps, list[str]]:
    x, y, z = rng.choice([(32, 32, 20), (48, 56, 44), (64, 64, 35)])
    t = max(20, int(_mib(rng, 8, largest) * 2**18 / (x * y * z)))
    data = {
        "kind": rng.choice(["nii", "nii.gz", "nii.gz"]),
        "shape": [x, y, z, t],
        "dims": ["x", "y", "z", "time"],
        "rate": 0.5,
        "dtype": "<i2",
    }
    cleaning = rng.choice(
        [
            {"detrend": True},
            {"detrend": True, "standardize": "zscore_sample", "low_pass": 0.1, "high_pass": 0.01},
            {"standardize": "psc"},
        ]
    )
    first = rng.choice([[], [], [{"SmoothVolumes": 6.0}]])
    extract = rng.choice(
        [
            {"ExtractLabels": "{labels}"},
            {"ExtractLabels": {"labels_img": "{labels}", "strategy": "median"}},
            {"ExtractSpheres": {"seeds": [[20, 20, 20], [40, 40, 30]], "radius": 9.0}},
            {"ExtractTogether": [[{"ExtractLabels": "{labels}"}, {"ExtractVoxels": "{mask}"}]]},
            {"ExtractVoxels": "{mask}"},
            None,
        ]
    )
    if extract is None:
        return data, first or [{"SmoothVolumes": 4.0}], ["zarr", "nifti"]
    after = rng.choice([[], [{"CleanSignals": cleaning}]])
    voxels = "{mask}" in str(extract)
    return data, [*first, extract, *after], ["zarr"] if voxels else ["zarr", "csv", "parquet"]


_DOMAINS = {
    "recordings": _recordings,
    "correction": _correction,
    "positions": _positions,
    "volumes": _volumes,
}
