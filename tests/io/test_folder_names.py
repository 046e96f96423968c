"""Sidecars are found in folders of thousands of files, and in folders that change."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock.io import export, folder_names
from penstock.io.bids import names as bids
from penstock.io.bids.names import find_sidecars
from penstock.running.sources import resolve_sources

LONG_AGO = time.time() - 3600


def _settled(root: Path) -> None:
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(folder, (LONG_AGO, LONG_AGO))


def _tree(root: Path, n: int, *, flat: bool) -> Path:
    """A BIDS dataset of tiny recordings."""
    root.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    (root / "task-rest_eeg.json").write_text('{"PowerLineFrequency": 50}')
    one = root.with_suffix(".edf")
    values = np.random.default_rng(0).normal(size=(2, 100)).astype("f4")
    export(ps.make_dataset(values, sampling_frequency=100.0, units="uV"), one, format="edf")
    for number in range(n):
        subject = f"sub-{number:05d}"
        folder = root if flat else root / subject / "eeg"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(one, folder / f"{subject}_task-rest_eeg.edf")
        table = folder / f"{subject}_task-rest_channels.tsv"
        table.write_text("name\ttype\tunits\nch0\tEEG\tuV\n")
    _settled(root)
    return root


@contextmanager
def _counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    counts: Counter[str] = Counter()

    def patch(of: Any, name: str) -> None:
        real = getattr(of, name)

        def counting(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return real(*arguments, **options)

        patched.setattr(of, name, counting)

    with monkeypatch.context() as patched:
        for name in ("stat", "lstat", "listdir", "scandir"):
            patch(os, name)
        patch(bids, "parse_name")
        yield counts


@pytest.mark.parametrize("flat", [True, False])
def test_work_of_planning_a_dataset_grows_with_its_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flat: bool
) -> None:
    each: list[dict[str, float]] = []
    pipeline = ps.Pipeline([np.abs])
    for n in (100, 300):
        root = _tree(tmp_path / f"d{n}", n, flat=flat)
        with _counted(monkeypatch) as counts:
            assert len(resolve_sources(root)) == n
        assert counts["listdir"] + counts["scandir"] <= 3 * n + 10
        with _counted(monkeypatch) as counts:
            plans = pipeline.plan(root, memory="4 GiB", workers=2)
        assert len(plans) == n
        each.append({name: count / n for name, count in counts.items()})
    assert each[1]["listdir"] < (0.2 if flat else 5)
    for name, few in each[0].items():
        assert each[1][name] <= 1.1 * few + 0.2, name


def test_a_file_that_comes_or_goes_is_seen_at_once(tmp_path: Path) -> None:
    data = tmp_path / "sub-1_task-rest_eeg.edf"
    for number in range(2, 50):
        (tmp_path / f"sub-{number}_task-rest_channels.tsv").write_text("")

    def found() -> list[str]:
        return [path.name for path in find_sidecars(data, ".tsv", suffix="channels")]

    mine = tmp_path / "sub-1_channels.tsv"
    for _ in range(3):
        assert found() == []
        mine.write_text("")
        assert found() == [mine.name]
        _settled(tmp_path)
        assert found() == found() == [mine.name]
        mine.unlink()


def test_a_folder_that_stays_is_listed_once_and_few_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_names, "NAMES_KEPT", 25)
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in range(10):
            (folder / f"{number}-{name}").write_text("")
    _settled(tmp_path)
    with _counted(monkeypatch) as counts:
        for number in range(5):
            for _ in range(3):
                names = folder_names.folder_at(tmp_path / str(number)).names
                assert names == tuple(f"{number}-{name}" for name in range(10))
        assert counts["listdir"] == 5
        folder_names.folder_at(tmp_path / "3")
        assert counts["listdir"] == 5
        folder_names.folder_at(tmp_path / "0")
        assert counts["listdir"] == 6
    assert folder_names.folder_at(tmp_path / "nowhere").names == ()


def test_threads_that_ask_at_once_list_a_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (tmp_path / f"{number}.txt").touch()
    _settled(tmp_path)
    all_here = threading.Barrier(8)
    calls = []

    def ask(_: int) -> int:
        all_here.wait()
        folder = folder_names.folder_at(tmp_path)
        return folder.once("n", lambda: calls.append(1) or len(folder.names))

    with _counted(monkeypatch) as counts, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [20] * 8
    assert counts["listdir"] == 1
    assert len(calls) == 1
