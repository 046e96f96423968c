"""One part of a case of the promise's fuzz, in a process of its own: make data, run, or compare.

``python promise_case.py make|run|compare CASE.json``; the last line said is JSON.
"""

from __future__ import annotations

import json
import math
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def noise(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Values that do not compress, from a megabyte of noise."""
    values = np.resize(np.random.default_rng(2).standard_normal(1 << 20).astype("f4"), shape)
    return (values * 1000).astype(dtype) if np.dtype(dtype).kind in "iu" else values.astype(dtype)


def make(case: dict[str, Any]) -> None:
    """Write the case's file with a library that is not ours."""
    data, path = case["data"], Path(case["path"])
    kind, shape, dtype = data["kind"], tuple(data.get("shape", ())), data.get("dtype", "")
    new = path.with_name(f"new-{path.name}")
    if kind == "edf":
        import edfio

        n, samples = shape
        signals = [
            edfio.EdfSignal(
                np.roll(noise((samples,), "f8"), i * 977),
                data["rate"],
                label=f"EEG {i}",
                physical_dimension="uV",
                physical_range=(-6, 6),
            )
            for i in range(n)
        ]
        edfio.Edf(signals).write(new)
    elif kind in ("npy", "memory", "dask"):
        np.save(new.with_suffix(".npy"), noise(shape, dtype))
        new = new.with_suffix(".npy")
    elif kind == "h5":
        import h5py

        with h5py.File(new, "w") as file:
            chunks = tuple(min(c, n) for c, n in zip(data["chunks"], shape, strict=True))
            filters = {"compression": "gzip", "compression_opts": 1} if data["compressed"] else {}
            file.create_dataset("values", data=noise(shape, dtype), chunks=chunks, **filters)
    elif kind == "zarr":
        import xarray as xr

        chunks = tuple(min(c, n) for c, n in zip(data["chunks"], shape, strict=True))
        ds = xr.Dataset({"signal": (data["dims"], noise(shape, dtype))})
        if data["rate"]:
            ds = ds.assign_coords(channel=[f"C{i}" for i in range(shape[0])])
            ds = ds.assign_coords(time=np.arange(shape[1]) / data["rate"])
        ds.to_zarr(new, zarr_format=3, consolidated=False, encoding={"signal": {"chunks": chunks}})
    elif kind in ("nii", "nii.gz"):
        import nibabel

        image = nibabel.Nifti1Image(noise(shape, dtype), np.diag([3, 3, 3, 1.0]))
        image.header.set_xyzt_units("mm", "sec")
        image.header["pixdim"][4] = 1 / data["rate"]
        nibabel.save(image, new)
        if not (path.parent / labels_name(shape)).exists():
            labels = (np.arange(math.prod(shape[:3])).reshape(shape[:3]) // 1200).astype("i2")
            for name, values in ((labels_name(shape), labels), (mask_name(shape), labels % 3 == 1)):
                image = nibabel.Nifti1Image(values.astype("i2"), np.diag([3, 3, 3, 1.0]))
                nibabel.save(image, path.parent / name)
    elif kind == "fif":
        import mne

        info = mne.create_info(shape[0], data["rate"], "eeg")
        raw = mne.io.RawArray(noise(shape, "f8") * 1e-5, info, verbose="error")
        new = path.with_name(f"new-{path.stem}_raw.fif")
        raw.save(new, overwrite=True, verbose="error")
    new.rename(path)


def labels_name(shape: Any) -> str:
    """File of labels for volumes of a shape."""
    return "labels_{}_{}_{}.nii".format(*shape[:3])


def mask_name(shape: Any) -> str:
    """File of a mask for volumes of a shape."""
    return "mask_{}_{}_{}.nii".format(*shape[:3])


def opened(case: dict[str, Any]) -> tuple[Any, dict[str, Any], Any]:
    """The case's source, options of opening, and its pipeline."""
    import penstock as ps

    data, path = case["data"], case["path"]
    text = json.dumps({"pipeline": case["pipeline"]})
    if "shape" in data and len(data["shape"]) == 4:
        folder = Path(path).parent
        text = text.replace("{labels}", str(folder / labels_name(data["shape"])))
        text = text.replace("{mask}", str(folder / mask_name(data["shape"])))
    pipeline = ps.Pipeline.from_dict(json.loads(text))
    options: dict[str, Any] = {}
    if data["kind"] == "scanner":
        from penstock.eeg import simulate

        source: Any = simulate.recording(
            n_channels=data["n_channels"],
            duration=data["duration"],
            sampling_frequency=data["rate"],
            fmri=True,
        )
    elif data["kind"] in ("memory", "dask"):
        values = np.load(path, mmap_mode="r" if data["kind"] == "dask" else None)
        if data["kind"] == "dask":
            import dask.array as da

            values = da.from_array(values, chunks=tuple(data["chunks"])) * 2 + 1
        coords = None
        if "channel" in data["dims"]:
            coords = {"channel": [f"C{i}" for i in range(data["shape"][0])]}
        source = ps.make_dataset(
            values, tuple(data["dims"]), sampling_frequency=data["rate"], coords=coords
        )
    else:
        source = path
        if data["kind"] in ("npy", "h5"):
            options["dims"] = ",".join(data["dims"])
            options |= {"sampling_frequency": data["rate"]} if data["rate"] else {}
    return source, options, pipeline


def least(
    pipeline: Any, source: Any, case: dict[str, Any], options: Any, kwargs: dict[str, Any]
) -> int:
    """The least budget, and a little more, as the refusal of a far too small one names it."""
    from penstock.errors import BudgetError
    from penstock.memory.accounting import parse_bytes

    try:
        pipeline.plan(
            source,
            memory="64 MiB",
            format=case["format"],
            dtype=case["dtype"],
            open_options=options,
            **kwargs,
        )
    except BudgetError as error:
        found = re.findall(r"allow (?:at least )?([\d.]+ [KMGT]iB)", str(error))
        return int(parse_bytes(found[-1]) * case["factor"])
    return 64 << 20


def run(case: dict[str, Any]) -> dict[str, Any]:
    """The run itself, in its place; measured from outside."""
    source, options, pipeline = opened(case)
    kwargs: dict[str, Any] = {}
    cluster = client = None
    if case["place"] in ("threads", "processes"):
        kwargs = {"executor": case["place"], "workers": case["workers"]}
    else:
        from distributed import Client, LocalCluster

        apart = case["place"] == "cluster"
        cluster = LocalCluster(
            n_workers=2 if apart else 1,
            threads_per_worker=1 if apart else 2,
            processes=apart,
            memory_limit=0,
            dashboard_address=None,
            silence_logs=50,
        )
        client = kwargs["client"] = Client(cluster, set_as_default=False)
    try:
        memory = case["memory"]
        if memory == "tight":
            memory = least(pipeline, source, case, options, kwargs)
        report = pipeline.run(
            source,
            case["out"],
            memory=memory,
            format=case["format"],
            dtype=case["dtype"],
            progress=False,
            open_options=options,
            **kwargs,
        )
    finally:
        if client is not None:
            client.close()
            cluster.close()
    return {
        "predicted": report.predicted_memory,
        "reported": report.peak_memory,
        "base": report.limits.base,
        "budget": report.limits.budget,
        "failed": report.failed,
        "ran": report.kind,
        "notes": report.notes,
    }


def compare(case: dict[str, Any]) -> dict[str, Any]:
    """Largest difference of the results of two settings, relative to the largest value."""
    import penstock as ps

    values = []
    for folder in case["outs"]:
        (path,) = [
            path for path in Path(folder).iterdir()
            if not path.name.startswith(".") and "penstock" not in path.name
        ]  # fmt: skip
        if path.suffix in (".csv", ".parquet"):
            import pandas as pd

            table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
            values.append([table.select_dtypes("number").to_numpy()])
        else:
            ds = ps.open_dataset(path)
            values.append([v.values for v in ds.data_vars.values() if v.dtype.kind in "fciu"])
    largest, exact, wide = 0.0, True, False
    for one, other in zip(*values, strict=True):
        if one.shape != other.shape or not np.array_equal(np.isnan(one), np.isnan(other)):
            return {"difference": None}
        wide |= one.dtype.itemsize // (2 if one.dtype.kind == "c" else 1) == 8
        exact &= np.array_equal(one, other, equal_nan=True)
        scale = float(np.nanmax(np.abs(one), initial=0.0)) or 1.0
        apart = np.abs(one.astype("c16") - other) / scale
        largest = max(largest, float(np.nanmax(apart, initial=0.0)))
    return {"difference": largest, "exact": exact, "float64": wide}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    role, text = sys.argv[1], Path(sys.argv[2]).read_text()
    result = {"make": make, "run": run, "compare": compare}[role](json.loads(text))
    print(json.dumps(result or {}))
