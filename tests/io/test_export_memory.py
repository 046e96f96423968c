"""What writing a result takes is known before: measured in fresh processes, format by format."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.io.export_memory import export_bytes
from penstock.testing import virtual_dataset

RECORDING, REGIONS, VOLUMES = "channel,time", "region,time", "x,y,z,time"
CASES: list[tuple[str, list[int], str, int]] = [
    ("edf", [4, 100_000], RECORDING, 60_000),
    ("fif", [64, 60_000], RECORDING, 20_000),
    ("csv", [20_000, 20], REGIONS, 0),
    ("parquet", [30_000, 100], REGIONS, 0),
    ("parquet", [4, 3_000_000], REGIONS, 0),
    ("nifti", [64, 64, 40, 60], VOLUMES, 0),
]
CHILD = """
import json, sys, tempfile, os
import numpy as np
import penstock as ps
from penstock.dataset import outline_of
from penstock.formats import FORMATS
from penstock.io.export_memory import EXPORT_BUFFER_BYTES, export_bytes
from penstock.memory.accounting import lean_allocator, process_base, trim_heap
from penstock.storage.store import open_store, write_store
from penstock.testing import virtual_dataset

format, shape, dims, n_events = json.loads(sys.argv[1])
dims = dims.split(",")
ds = virtual_dataset(tuple(shape), tuple(dims), sampling_frequency=250.0)
if "z" in dims:
    ds = ds.assign_coords(affine=(("affine_row", "affine_column"), np.diag([3, 3, 3, 1.0])))
else:
    names = [f"{dims[0]} {i}" for i in range(shape[0])]
    ds = ds.assign_coords({dims[0]: names})
if n_events:
    onsets = np.linspace(0, shape[-1] / 251, n_events)
    ds = ds.assign_coords(
        event_onset=("event", onsets),
        event_duration=("event", np.zeros(n_events)),
        event_label=("event", np.array(["stimulus"] * n_events)),
    )
folder = tempfile.mkdtemp(dir=sys.argv[2])
write_store(ds, os.path.join(folder, "s.zarr"))
ds = open_store(os.path.join(folder, "s.zarr"))
process_base(FORMATS[format].modules)

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))

with lean_allocator():
    trim_heap()
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # (the high-water mark begins anew)
    out = os.path.join(folder, "a_raw" + FORMATS[format].suffix)
    ps.export(ds, out, buffer_bytes=EXPORT_BUFFER_BYTES)
    rise = status("VmHWM") - before
print(json.dumps([before, rise, export_bytes(outline_of(ds), format)]))
"""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1]} {case[3]}")
def test_measured_is_below_predicted_and_near_it(case: Any, tmp_path: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("high-water marks of a stretch of time need Linux")
    if case[0] in ("parquet", "fif"):
        pytest.importorskip({"parquet": "pyarrow", "fif": "mne"}[case[0]])
    child = [sys.executable, "-c", CHILD, json.dumps(case), str(tmp_path)]
    done = subprocess.run(child, capture_output=True, text=True, check=True)
    before, rise, predicted = json.loads(done.stdout)
    assert rise <= predicted
    assert before + predicted <= 1.4 * (before + rise)


def test_wide_tables_and_many_events_take_more_than_others() -> None:
    few, many = (virtual_dataset((n, 100), ("region", "time")) for n in (10, 100_000))
    for format in ("csv", "tsv", "parquet"):
        assert export_bytes(many, format) > 10 * export_bytes(few, format)
    assert export_bytes(many, "zarr") == 0
    ds = virtual_dataset((4, 1000))
    labels = {"event_label": ("event", ["a longer label of an event"] * 1000)}
    for format in ("edf", "fif"):
        assert export_bytes(ds.assign_coords(labels), format) > export_bytes(ds, format) + 1_000_000


def test_a_table_of_many_columns_keeps_a_budget_or_is_refused_with_one(tmp_path: Path) -> None:
    ds = virtual_dataset((30_000, 20), ("region", "time"), sampling_frequency=0.5)
    pipeline = ps.Pipeline([ps.Apply(abs, core_dims=())])
    plan = pipeline.plan(ds, memory="8GiB", format="parquet")
    assert plan.export_bytes > 100 << 20
    with pytest.raises(ValueError, match=r"allow .* [MG]iB"):
        pipeline.plan(ds, memory=plan.base + plan.export_bytes // 2, format="parquet")
