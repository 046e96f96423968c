"""Plans of many recordings, of which some cannot be planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock.memory.accounting import format_bytes
from penstock.planning.plan import Plans
from penstock.storage.store import write_store
from penstock.testing import virtual_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        ds = ps.make_dataset(np.zeros((2, 50), "f4"), sampling_frequency=10.0)
        write_store(ds, tmp_path / "in" / f"s{number:02d}.zarr")
    (tmp_path / "in" / "broken.edf").write_bytes(b"no recording")
    (tmp_path / "in" / "empty.edf").write_bytes(b"")

    return tmp_path / "in"


def test_one_that_cannot_be_planned_stops_the_others_unless_skipped(folder: Path) -> None:
    pipeline = ps.Pipeline([np.abs])
    with pytest.raises(ValueError, match=r"broken\.edf"):
        pipeline.plan(folder, memory="4 GiB", workers=2)
    plans = pipeline.plan(folder, memory="4 GiB", workers=2, skip_failed=True)
    assert isinstance(plans, Plans)
    assert [plan.name for plan in plans] == [f"s{number:02d}" for number in range(12)]
    assert sorted(plans.failed) == ["broken", "empty"]
    assert "empty (0 bytes)" in plans.failed["empty"]
    assert "12 recordings" in str(plans)
    assert "2 cannot be planned" in str(plans)
    assert "2 cannot be planned" in plans._repr_html_()


def test_nothing_left_to_plan(folder: Path) -> None:
    for number in range(12):
        (folder / f"s{number:02d}.zarr").rename(folder.parent / f"s{number:02d}.zarr")
    plans = ps.Pipeline([np.abs]).plan(folder, memory="4 GiB", skip_failed=True)
    assert plans == ()
    assert len(plans.failed) == 2
    assert str(plans) == "no recording to plan; 2 cannot be planned"
    assert plans.predicted_memory == 0
    assert "No recording to plan" in plans._repr_html_()


def test_the_command_opens_every_file_once_and_names_what_fails(
    folder: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipeline = tmp_path / "p.yaml"
    pipeline.write_text("pipeline:\n  - HighPassFilter: {freq: 1.0}\n")
    opened: list[str] = []
    from penstock import io

    real = io.open_dataset

    def counted(path: Any, **options: Any) -> Any:
        opened.append(Path(path).name)
        return real(path, **options)

    monkeypatch.setattr(io, "open_dataset", counted)
    done = run_cli("plan", str(pipeline), str(folder), "-m", "1GiB")
    assert done.code == 1
    assert "12 recordings" in done.out
    assert done.err.count("\n") == 2
    assert "broken.edf" in done.err
    assert "empty.edf" in done.err
    assert sorted(opened) == sorted(path.name for path in folder.iterdir())
    good = run_cli("plan", str(pipeline), str(folder / "s*.zarr"), "-m", "1GiB")
    assert (good.code, good.err) == (0, "")
    none = run_cli("plan", str(pipeline), str(folder / "*.edf"), "-m", "1GiB")
    assert (none.code, none.out) == (1, "")


def test_the_page_tells_the_peak_of_the_run_and_not_that_of_one_recording() -> None:
    sources = {f"s{number}": virtual_dataset((4, 200_000)) for number in range(6)}
    plans = ps.Pipeline([np.abs]).plan(sources, memory="4 GiB", workers=4)
    page, text = plans._repr_html_(), " ".join(str(plans).split())
    alone = max(plan.predicted_memory for plan in plans)
    assert plans.predicted_memory > alone
    told = f"predicted peak {format_bytes(plans.predicted_memory)}"
    assert told in text
    assert told in page
    assert f"predicted peak {format_bytes(alone)}" not in page
    assert f"alone it would take {format_bytes(alone)}" in page
