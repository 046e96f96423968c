"""Runs: results, resume, failures kept apart, nothing overwritten, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from generic import Demean, FailsAt, Slow, SubtractMean

import penstock as ps
from penstock import events
from penstock.storage.ledger import Ledger, partial_path
from penstock.storage.store import open_store, write_store

BUDGET = "2 GiB"


def test_run_writes_what_the_lazy_dataset_computes(small: xr.Dataset, tmp_path: Path) -> None:
    pipeline = ps.Pipeline([Demean(), np.abs, SubtractMean()])
    expected = pipeline(small).signal.compute(scheduler="synchronous")
    report = pipeline.run(small, tmp_path, memory=BUDGET, workers=2, progress=False)
    assert report.ok
    made = ps.open_dataset(tmp_path / "dataset.zarr")
    assert np.array_equal(made.signal.values, expected.values)
    assert made.signal.attrs["units"] == "uV"
    assert made["channel"].values.tolist() == small["channel"].values.tolist()
    assert np.allclose(made["time"].values, small["time"].values)
    about = ps.provenance(made)
    assert about["pipeline"][0]["processor"].endswith("Demean")
    assert about["versions"]["penstock"] == ps.__version__
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "dataset.zarr",
        "penstock-report.html",
        "penstock-report.json",
    ]


def test_plain_xarray_opens_the_store(small: xr.Dataset, tmp_path: Path) -> None:
    ps.Pipeline([np.abs]).run(small, tmp_path, memory=BUDGET, progress=False)
    plain = xr.open_zarr(tmp_path / "dataset.zarr", consolidated=False)
    assert plain.signal.dims == ("channel", "time")
    assert "time" not in plain.variables  # the virtual coordinate is not stored
    assert np.array_equal(plain.signal.values, np.abs(small.signal.values))
    ours = xr.open_dataset(tmp_path / "dataset.zarr", engine="penstock")
    assert ours.signal.sel(time=slice(1, 2)).shape == (8, 201)


def test_same_command_skips_and_another_is_refused(small: xr.Dataset, tmp_path: Path) -> None:
    run = {"out": tmp_path, "memory": BUDGET, "progress": False}
    ps.Pipeline([np.abs]).run(small, **run)
    before = (tmp_path / "dataset.zarr" / "zarr.json").stat().st_mtime_ns
    again = ps.Pipeline([np.abs]).run(small, **run)
    assert again.skipped == ["dataset"]
    other = ps.Pipeline([np.square]).run(small, **run)
    assert "overwrite" in other.failed["dataset"]
    changed = small.copy()
    changed["signal"] = small.signal + 1
    assert "overwrite" in ps.Pipeline([np.abs]).run(changed, **run).failed["dataset"]
    assert (tmp_path / "dataset.zarr" / "zarr.json").stat().st_mtime_ns == before
    replaced = ps.Pipeline([np.square]).run(small, **run, overwrite=True)
    assert replaced.ok
    made = ps.open_dataset(tmp_path / "dataset.zarr").signal.values
    assert np.array_equal(made, small.signal.values**2)
    assert not list(tmp_path.glob(".*"))


def test_one_bad_recording_does_not_stop_the_others(small: xr.Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "c"):
        write_store(small, folder / f"{name}.zarr")
    (folder / "b.zarr").mkdir()
    (folder / "b.zarr" / "zarr.json").write_text("{ not json")
    report = ps.Pipeline([np.abs]).run(
        [folder / f"{n}.zarr" for n in "abc"], tmp_path / "out", memory=BUDGET, progress=False
    )
    assert sorted(report.outputs) == ["a", "c"]
    assert list(report.failed) == ["b"]
    assert "b.zarr" in report.failed["b"]
    content = json.loads((tmp_path / "out" / "penstock-report.json").read_text())
    assert content["failed"] == report.failed
    assert "b.zarr" in (tmp_path / "out" / "penstock-report.html").read_text()


def test_finished_blocks_are_not_done_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ds = ps.make_dataset(rng.standard_normal((12, 600_000)).astype("f4"), sampling_frequency=100.0)
    failing = ps.Pipeline([FailsAt(9)])
    report = failing.run(ds, tmp_path, memory=BUDGET, workers=1, progress=False)
    assert "channel 9 is out of order (in FailsAt" in report.failed["dataset"]
    building = partial_path(tmp_path / "dataset.zarr")
    finished = Ledger(building / "ledger").finished()[0]
    assert finished
    assert not (tmp_path / "dataset.zarr").exists()
    blocks: list[int] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.BlockFinished):
            blocks.append(event.block)

    FailsAt.kernel, kept = Demean.kernel, FailsAt.kernel  # the same operation, mended
    try:
        again = failing.run(
            ds, tmp_path, memory=BUDGET, workers=1, progress=False, listeners=[listen]
        )
    finally:
        FailsAt.kernel = kept
    assert again.ok
    assert not set(blocks) & finished
    assert "resumed" in again.notes["dataset"]


def test_blocks_that_may_pass_are_tried_again(tmp_path: Path, small: xr.Dataset) -> None:
    left = [2]

    def hiccup(block: np.ndarray) -> np.ndarray:
        if left[0]:
            left[0] -= 1
            raise OSError(5, "Input/output error")
        return block

    ds = ps.make_dataset(np.ones((12, 600_000), "f4"), sampling_frequency=100.0)
    report = ps.Pipeline([ps.Apply(hiccup)]).run(
        ds, tmp_path, memory=BUDGET, workers=1, progress=False
    )
    assert report.ok
    assert len(report.retries) == 2


def test_a_ledger_line_cut_short_does_not_count(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(0, 1)
    ledger.add(0, 2, low=[1.0])
    path = next(tmp_path.glob("*.jsonl"))
    path.write_bytes(path.read_bytes()[:-5])
    assert ledger.finished() == {0: {1}}


def test_unaligned_writes_are_refused(tmp_path: Path, small: xr.Dataset) -> None:
    from penstock.storage.store import create_array, write_block

    write_store(small, tmp_path / "a.zarr")
    create_array(tmp_path / "a.zarr", "x", ("t",), (100,), "f4", (20,))
    with pytest.raises(ValueError, match="not aligned"):
        write_block(tmp_path / "a.zarr", "x", {"t": slice(10, 20)}, np.zeros(10, "f4"))


def test_a_folder_in_use_is_refused(small: xr.Dataset, tmp_path: Path) -> None:
    from penstock.running.run import _exclusive

    with (
        _exclusive(tmp_path),
        pytest.raises(ValueError, match="another run is writing"),
    ):
        ps.Pipeline([np.abs]).run(small, tmp_path, memory=BUDGET, progress=False)


def test_write_store_round_trip_with_side_rates(tmp_path: Path, small: xr.Dataset) -> None:
    slow = ps.make_dataset(
        np.arange(20.0).reshape(2, 10), ("channel_1Hz", "time_1Hz")
    ).signal.variable
    ds = small.assign(signal_1Hz=slow)
    report = ps.Pipeline([np.abs]).run(ds, tmp_path, memory=BUDGET, progress=False)
    assert report.ok, report
    made = open_store(tmp_path / "dataset.zarr")
    assert np.array_equal(made.signal_1Hz.values, ds.signal_1Hz.values)


def test_processes_need_no_main_guard(tmp_path: Path) -> None:
    """A script without ``if __name__ == "__main__"`` runs a held kernel in processes."""
    import subprocess
    import sys

    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, penstock as ps\n"
        "def slow(block):\n"
        "    return block + sum(range(1000)) * 0\n"
        "ds = ps.make_dataset(np.ones((4, 1000), 'f4'), sampling_frequency=100.0)\n"
        "pipeline = ps.Pipeline([ps.Apply(slow, gil='held')])\n"
        f"report = pipeline.run(ds, r'{tmp_path}/out', memory='2GiB', workers=2, progress=False)\n"
        "assert report.ok, report\n"
        "print(report.kind, len(report.process_peaks))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "processes"
    assert "Traceback" not in done.stderr
    assert ps.open_dataset(tmp_path / "out" / "dataset.zarr").signal.values.min() == 1


def test_slow_blocks_run_side_by_side(tmp_path: Path) -> None:
    ds = ps.make_dataset(np.ones((8, 3_000_000), "f4"), sampling_frequency=100.0)
    marks = tmp_path / "marks"
    marks.mkdir()
    running: list[int] = []

    report = ps.Pipeline([Slow(0.3, str(marks))]).run(
        ds, tmp_path / "out", memory=BUDGET, workers=4, progress=False
    )
    running = sorted(int(p.name.split("-")[1]) for p in marks.iterdir())
    assert report.ok
    # four blocks begin before the first can have ended
    assert running[3] - running[0] < 0.3e9


def test_plan_predicts_within_budget(small: xr.Dataset) -> None:
    plan = ps.Pipeline([Demean()]).plan(small, memory="3 GiB", workers=2)
    assert plan.predicted_memory <= 3 << 30
    text = str(plan)
    assert "Demean" in text
    assert "predicted peak" in text
    assert "<table>" in plan._repr_html_()


def test_a_killed_clean_up_does_not_look_like_finished_work(
    small: xr.Dataset, tmp_path: Path
) -> None:
    """Between publishing and cleaning up, and with data gone but the ledger there."""
    run = {"out": tmp_path, "memory": BUDGET, "progress": False}
    pipeline = ps.Pipeline([np.abs])
    assert pipeline.run(small, **run).ok
    building = partial_path(tmp_path / "dataset.zarr")
    (building / "ledger").mkdir(parents=True)
    Ledger(building / "ledger").add(0, 0)
    (building / "plan.json").write_text(json.dumps({"key": "other", "blocks": [[8, 2000]]}))
    assert pipeline.run(small, **run, overwrite=True).ok
    made = ps.open_dataset(tmp_path / "dataset.zarr").signal.values
    assert np.array_equal(made, np.abs(small.signal.values))
    building.mkdir()
    assert pipeline.run(small, **run).skipped == ["dataset"]
    assert not building.exists()


def test_another_bound_method_is_another_operation(tmp_path: Path, small: xr.Dataset) -> None:
    class Gain:
        def __init__(self, factor: float):
            self.factor = factor

        def apply(self, block: np.ndarray) -> np.ndarray:
            return block * self.factor

    run = {"out": tmp_path, "memory": BUDGET, "progress": False}
    assert ps.Pipeline([Gain(2.0).apply]).run(small, **run).ok
    assert ps.Pipeline([Gain(3.0).apply]).run(small, **run).failed


def test_opening_is_tried_again(
    tmp_path: Path, small: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    import penstock.running.tasks as work

    left = [1]
    opened = work._open_source

    def hiccup(job: object) -> xr.Dataset:
        if left[0]:
            left[0] -= 1
            raise OSError(5, "Input/output error")
        return opened(job)  # type: ignore[arg-type]

    monkeypatch.setattr(work, "_open_source", hiccup)
    report = ps.Pipeline([np.abs]).run(small, tmp_path, memory=BUDGET, progress=False)
    assert report.ok
    assert len(report.retries) == 1


def test_a_stretch_is_exported_with_its_own_events(tmp_path: Path, small: xr.Dataset) -> None:
    import pandas as pd

    events = pd.DataFrame(
        {"onset": [0.5, 3.0, 9.0], "duration": [0.0, 0.0, 0.0], "label": ["a", "b", "c"]}
    )
    part = ps.with_events(small, events).sel(time=slice(2.0, 4.0))
    ps.export(part, tmp_path / "part.edf")
    again = ps.events_table(ps.open_dataset(tmp_path / "part.edf"))
    assert again["label"].tolist() == ["b"]
    assert again["onset"].tolist() == [1.0]


def test_the_readme_processor_keeps_the_contract(tmp_path: Path) -> None:
    from penstock.testing import check_processor

    values = np.random.default_rng(0).standard_normal((64, 20_000)).astype("f4")
    write_store(ps.make_dataset(values, sampling_frequency=200.0), tmp_path / "lazy.zarr")
    check_processor(Demean(), ps.open_dataset(tmp_path / "lazy.zarr"), in_files=False)


def test_padding_of_an_edf_is_reported(tmp_path: Path, small: xr.Dataset) -> None:
    from penstock.eeg import Crop

    ds = small.assign_coords(channel_type=("channel", ["eeg"] * 8))
    report = ps.Pipeline([Crop(1.0, 2.0)]).run(
        ds, tmp_path, memory=BUDGET, format="edf", progress=False
    )
    assert report.ok, report
    made = ps.open_dataset(tmp_path / "dataset.edf")
    if made.sizes["time"] != 201:
        assert "last data record is filled" in report.notes["dataset"]
        assert json.loads((tmp_path / "dataset.edf.penstock.json").read_text())["padded_seconds"]
