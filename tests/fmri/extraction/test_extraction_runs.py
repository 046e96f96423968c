"""Extraction as a run: of files of every kind, once, killed and resumed, on other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from digests import digests
from real_cluster import cluster as cluster  # (a scheduler and two workers)
from small_images import AFFINE, image

import penstock as ps
from penstock import events
from penstock.fmri import (
    CleanSignals,
    ExtractLabels,
    ExtractTogether,
    ExtractVoxels,
    SmoothVolumes,
    SpatialImage,
    signal_clean,
)
from penstock.io.nifti.open import close_streams
from penstock.io.nifti.stream import NiftiStream
from penstock.planning import blocks, plan
from penstock.storage.ledger import Ledger, partial_path
from penstock.storage.store import open_store, write_store

SHAPE, N_TIMES = (9, 8, 7), 120


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of some volumes, so that a small file has several."""
    for module in (blocks, plan):
        monkeypatch.setattr(module, "TARGET_BYTES", 1 << 16)
    monkeypatch.setattr(blocks, "SMALL_BYTES", 1 << 12)


@pytest.fixture
def atlas_file(atlas, tmp_path) -> str:
    image(atlas).to_filename(tmp_path / "atlas.nii")
    return str(tmp_path / "atlas.nii")


@pytest.fixture
def mask_file(mask, tmp_path) -> str:
    image(mask).to_filename(tmp_path / "mask.nii")
    return str(tmp_path / "mask.nii")


def series(seed: int, n_times: int = N_TIMES) -> np.ndarray:
    rng = np.random.default_rng(seed)
    base = rng.uniform(400, 1200, (*SHAPE, 1))
    walk = rng.normal(0, 8, (*SHAPE, n_times)).cumsum(axis=-1)
    return np.round(base + walk).astype("int16")


@pytest.fixture
def images(tmp_path) -> list[Path]:
    """Four compressed files in a folder of their own."""
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [folder / f"sub-0{i}_bold.nii.gz" for i in range(1, 5)]
    for seed, path in enumerate(paths):
        image(series(seed)).to_filename(path)
    return paths


@pytest.fixture
def inflated(monkeypatch):
    """Bytes inflated from every file since the fixture was made."""
    counts: dict[str, int] = {}
    inflate = NiftiStream._inflate

    def counted(self, n_bytes):
        data = inflate(self, n_bytes)
        path = os.path.basename(self.values.path)
        counts[path] = counts.get(path, 0) + len(data)
        return data

    monkeypatch.setattr(NiftiStream, "_inflate", counted)
    return counts


def steps(atlas_file: str) -> list:
    return [
        SmoothVolumes(5.0),
        ExtractLabels(atlas_file),
        CleanSignals(detrend=True, standardize="zscore_sample", low_pass=0.1),
    ]


def run(pipeline, source, out, **options):
    given = {"progress": False, "memory": "1GiB", "workers": 2, **options}
    return ps.Pipeline(pipeline).run(source, out, **given)


def values(path: Path) -> np.ndarray:
    return open_store(path).signal.values


# ---------------------------------------------------------------------- sources


def test_every_kind_of_file_gives_the_same_bits(
    bold, bold_values, atlas_file, tmp_path, small_blocks
):
    plain = tmp_path / "plain.nii"
    image(bold_values.astype("int16")).to_filename(plain)
    store = write_store(ps.open_dataset(bold), tmp_path / "stored.zarr")
    found = []
    for number, (path, workers) in enumerate([(bold, 1), (bold, 3), (plain, 2), (store, 2)]):
        report = run(steps(atlas_file), {"it": path}, tmp_path / str(number), workers=workers)
        assert report.ok, report.failed
        assert report.blocks > 2
        found.append(values(tmp_path / str(number) / "it.zarr"))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    raw = ps.Pipeline(steps(atlas_file)[:2]).compute(ps.open_dataset(bold)).signal.values
    expected = signal_clean(raw.T, low_pass=0.1, t_r=2.0).T
    np.testing.assert_allclose(found[0], expected, atol=2e-6)


def test_volumes_first_then_series(bold, atlas_file, mask_file, small_blocks):
    for extraction in (ExtractLabels(atlas_file), ExtractVoxels(mask_file)):
        plan = ps.Pipeline([extraction, CleanSignals(detrend=True)]).plan(bold)
        assert [stage.kind for stage in plan.stages] == ["scratch", "process"]
        assert [stage.in_order for stage in plan.stages] == [True, False]
        assert "front to back" in str(plan)
    (alone,) = ps.Pipeline([ExtractLabels(atlas_file)]).plan(bold).stages
    assert alone.in_order


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_file_is_inflated_once(images, atlas_file, tmp_path, inflated, workers, small_blocks):
    report = run(steps(atlas_file), images, tmp_path / "out", workers=workers)
    assert report.ok, report.failed
    size = 352 + 2 * np.prod((*SHAPE, N_TIMES))
    assert inflated == {path.name: size for path in images}


def test_half_of_the_work_done_before_is_inflated_to_that_place_only(
    images, atlas_file, tmp_path, inflated, small_blocks
):
    """A run that goes on reads a file at most once more, and no block that is finished."""
    seen: list[int] = []

    def stop(event: events.Event) -> None:
        if isinstance(event, events.BlockFinished):
            seen.append(event.block)
            if len(seen) == 2:
                raise KeyboardInterrupt

    pipeline = [ExtractLabels(atlas_file)]
    with pytest.raises(KeyboardInterrupt):
        run(pipeline, images[:1], tmp_path / "out", workers=1, listeners=[stop])
    close_streams()
    inflated.clear()
    after: list[int] = []
    report = run(
        pipeline, images[:1], tmp_path / "out", workers=1,
        listeners=[lambda e: after.append(e.block) if isinstance(e, events.BlockFinished) else 0],
    )  # fmt: skip
    assert report.ok
    assert not set(seen) & set(after)
    assert inflated == {images[0].name: 352 + 2 * np.prod((*SHAPE, N_TIMES))}
    expected = ps.Pipeline(pipeline).compute(ps.open_dataset(images[0])).signal.values
    np.testing.assert_allclose(values(tmp_path / "out/sub-01_bold.zarr"), expected, rtol=1e-6)


# ---------------------------------------------------------------------- results


@pytest.mark.parametrize("format", ["parquet", "csv", "tsv", "zarr"])
def test_results_in_every_format(format, images, atlas_file, tmp_path):
    out = tmp_path / "out"
    report = run(steps(atlas_file), images[:2], out, format=format)
    assert report.ok, report.failed
    assert not report.notes
    assert sorted(report.outputs) == ["sub-01_bold", "sub-02_bold"]
    expected = ps.Pipeline(steps(atlas_file)).compute(ps.open_dataset(images[1])).signal.values.T
    path = out / f"sub-02_bold.{format}"
    if format == "zarr":
        found = open_store(path)
        np.testing.assert_allclose(found.signal.values.T, expected, atol=1e-5)
        assert found.label.values.tolist() == list(range(3, 39, 3))
        assert ps.sampling_frequency(found) == 0.5
        return
    table = {
        "parquet": pd.read_parquet,
        "csv": pd.read_csv,
        "tsv": lambda p: pd.read_csv(p, sep="\t"),
    }[format](path)
    assert table.columns.tolist() == ["time", *map(str, range(3, 39, 3))]
    np.testing.assert_allclose(table["time"], 2.0 * np.arange(N_TIMES))
    np.testing.assert_allclose(table.iloc[:, 1:], expected, atol=1e-5)
    # what a table cannot say of itself lies beside it; the next run knows it again
    again = run(steps(atlas_file), images[:2], out, format=format)
    assert sorted(again.skipped) == ["sub-01_bold", "sub-02_bold"]


def test_another_pipeline_never_takes_the_place_of_a_result(images, atlas_file, tmp_path):
    out = tmp_path / "out"
    assert run(steps(atlas_file), images[:1], out, format="csv").ok
    before = (out / "sub-01_bold.csv").read_bytes()
    other = [ExtractLabels(atlas_file)]
    refused = run(other, images[:1], out, format="csv")
    assert "overwrite" in refused.failed["sub-01_bold"]
    assert (out / "sub-01_bold.csv").read_bytes() == before
    replaced = run(other, images[:1], out, format="csv", overwrite=True)
    assert replaced.ok
    assert (out / "sub-01_bold.csv").read_bytes() != before
    assert run(other, images[:1], out, format="csv").ok


def test_two_regions_of_one_name_are_two_columns(images, atlas, tmp_path):
    names = ((3, "V1"), (6, "V1"), (9, "V1_2"))
    part = ExtractLabels(SpatialImage(atlas, AFFINE), lut=names)
    assert run([part], images[:1], tmp_path / "out", format="csv").ok
    header = (tmp_path / "out/sub-01_bold.csv").read_text().splitlines()[0].split(",")
    assert header[:5] == ["time", "V1", "V1_3", "V1_2", "12"]
    assert len(set(header)) == len(header) == 13


def test_several_atlases_in_one_table(images, atlas_file, mask_file, tmp_path):
    together = ExtractTogether(
        (ExtractLabels(atlas_file), ExtractLabels(atlas_file, strategy="median"))
    )
    assert run([together, CleanSignals(detrend=True)], images[:1], tmp_path, format="parquet").ok
    table = pd.read_parquet(tmp_path / "sub-01_bold.parquet")
    assert table.shape == (N_TIMES, 25)
    assert len(set(table.columns)) == 25


def test_missing_values_are_empty_cells(atlas, tmp_path):
    spoilt = series(0).astype("f4")
    spoilt[tuple(np.argwhere(atlas == 6).T)] = np.nan
    image(spoilt).to_filename(tmp_path / "spoilt.nii.gz")
    extraction = ExtractLabels(SpatialImage(atlas, AFFINE))
    for format in ("csv", "parquet"):
        report = run(
            [extraction, CleanSignals(detrend=True)], tmp_path / "spoilt.nii.gz", tmp_path / "out",
            format=format,
        )  # fmt: skip
        assert report.ok, report.failed
    text = pd.read_csv(tmp_path / "out/spoilt.csv")
    table = pd.read_parquet(tmp_path / "out/spoilt.parquet")
    for found in (text, table):
        assert found["6"].isna().all()
        assert found.drop(columns="6").notna().all(axis=None)


# ---------------------------------------------------------------------- faults


def test_one_file_cut_short_does_not_stop_the_others(images, atlas_file, tmp_path, small_blocks):
    images[1].write_bytes(images[1].read_bytes()[:-3000])
    report = run(steps(atlas_file), images, tmp_path / "out", format="csv")
    assert not report.ok
    assert list(report.failed) == ["sub-02_bold"]
    assert "cut short" in report.failed["sub-02_bold"]
    made = sorted(path.name for path in (tmp_path / "out").glob("*.csv"))
    assert made == ["sub-01_bold.csv", "sub-03_bold.csv", "sub-04_bold.csv"]
    image(series(1)).to_filename(images[1])  # (downloaded again)
    again = run(steps(atlas_file), images, tmp_path / "out", format="csv")
    assert again.ok, again.failed
    assert len(again.skipped) == 3


def test_stopped_between_a_result_and_its_provenance(images, atlas_file, tmp_path, monkeypatch):
    replace = os.replace

    def stops(source, target, **options):
        if str(target).endswith(".penstock.json"):
            raise SystemExit("killed here")
        replace(source, target, **options)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stops)
        report = run(steps(atlas_file), images[:1], out, format="csv")
    assert "killed here" in report.failed["sub-01_bold"]
    assert (out / "sub-01_bold.csv").exists()
    again = run(steps(atlas_file), images[:1], out, format="csv")
    assert again.skipped == ["sub-01_bold"]
    assert not list(out.glob(".*"))


SCRIPT = """
import sys, time
import penstock as ps, penstock.planning.blocks, penstock.planning.plan, penstock.running.tasks
penstock.planning.blocks.SMALL_BYTES = 1 << 12
penstock.planning.blocks.TARGET_BYTES = penstock.planning.plan.TARGET_BYTES = 1 << 16
note = penstock.running.tasks.Ledger.add
def slowly(self, *args, **kwargs):
    note(self, *args, **kwargs)
    time.sleep({pause})
penstock.running.tasks.Ledger.add = slowly
pipeline = ps.Pipeline.from_yaml({pipeline!r})
report = pipeline.run({images!r}, {out!r}, memory="3 GiB", workers=2, format="csv", progress=False)
sys.exit(0 if report.ok else 1)
"""


def test_killed_in_the_middle_the_same_command_ends_with_the_same_bytes(
    images, atlas_file, tmp_path, small_blocks
):
    out = tmp_path / "out"
    text = ps.Pipeline(steps(atlas_file)).to_yaml()
    code = SCRIPT.format(
        pause=0.1, pipeline=text, images=[str(path) for path in images], out=str(out)
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    deadline = time.time() + 60
    # (the first two are under way; a third has begun: one is published)
    while len(list(out.glob("*.csv"))) < 1 or not _under_way(out):
        assert process.poll() is None, "the run ended before it was killed"
        assert time.time() < deadline, "the run never got going"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    published = {path.name: path.stat().st_mtime_ns for path in out.glob("*.csv")}
    finished = _under_way(out)
    assert 1 <= len(published) < 4

    redone: list[tuple[str, int, int]] = []
    report = run(
        steps(atlas_file), images, out, format="csv",
        listeners=[
            lambda e: redone.append((e.name, e.stage, e.block))
            if isinstance(e, events.BlockFinished) else None
        ],
    )  # fmt: skip
    assert report.ok, report.failed
    assert {f"{name}.csv" for name in report.skipped} == set(published)
    for name, changed in published.items():
        assert (out / name).stat().st_mtime_ns == changed
    assert not finished & set(redone)
    assert len(redone) == len(set(redone))
    undisturbed = tmp_path / "undisturbed"
    assert run(steps(atlas_file), images, undisturbed, format="csv").ok
    for path in undisturbed.glob("*.csv"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert not list(out.glob(".*"))


def _under_way(out: Path) -> set[tuple[str, int, int]]:
    """Blocks that unfinished results have in their ledgers."""
    found = set()
    for number in range(1, 5):
        name = f"sub-0{number}_bold"
        building = partial_path(out / f"{name}.csv")
        if building.exists():
            ledger = Ledger(building / "ledger").finished()
            found |= {(name, stage, block) for stage, done in ledger.items() for block in done}
    return found


# ---------------------------------------------------------------------- confounds


def table(seed: int) -> pd.DataFrame:
    drawn = np.random.default_rng(seed).normal(size=(N_TIMES, 3)).cumsum(axis=0)
    return pd.DataFrame(drawn, columns=["trans_x", "rot_y", "csf"])


@pytest.fixture
def derivatives(tmp_path) -> Path:
    """Two images as fMRIPrep names them, each with its table."""
    folder = tmp_path / "derivatives"
    for subject in (1, 2):
        func = folder / f"sub-0{subject}" / "func"
        func.mkdir(parents=True)
        stem = f"sub-0{subject}_task-rest"
        image(series(subject)).to_filename(
            func / f"{stem}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
        )
        image(np.ones(SHAPE, "u1")).to_filename(
            func / f"{stem}_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz"
        )
        table(subject).to_csv(func / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False)
    return folder


def test_each_image_has_its_own_confounds(derivatives, atlas_file, tmp_path):
    pipeline = [ExtractLabels(atlas_file), CleanSignals(detrend=True, confounds="auto")]
    out = tmp_path / "out"
    report = run(pipeline, derivatives, out)
    assert report.ok, report.failed
    assert len(report.outputs) == 2
    for subject in (1, 2):
        (path,) = (derivatives / f"sub-0{subject}").rglob("*_bold.nii.gz")
        raw = ps.Pipeline(pipeline[:1]).compute(ps.open_dataset(path)).signal.values.T
        expected = signal_clean(raw, confounds=table(subject).to_numpy(), standardize=None)
        found = values(out / f"{path.name.removesuffix('.nii.gz')}.zarr").T
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("confounds", ["auto", "{name}-motion.tsv"])
def test_a_table_that_changes_is_noticed(confounds, derivatives, atlas_file, tmp_path):
    (path,) = (derivatives / "sub-01").rglob("*_bold.nii.gz")
    name = path.name.removesuffix(".nii.gz")
    confounds_file = (
        path.with_name("sub-01_task-rest_desc-confounds_timeseries.tsv")
        if confounds == "auto"
        else path.with_name(f"{name}-motion.tsv")
    )
    table(1).to_csv(confounds_file, sep="\t", index=False)
    pipeline = [ExtractLabels(atlas_file), CleanSignals(confounds=confounds)]
    out = tmp_path / "out"
    assert run(pipeline, path, out).ok
    first = values(out / f"{name}.zarr")
    assert run(pipeline, path, out).skipped == [name]
    table(9).to_csv(confounds_file, sep="\t", index=False)
    refused = run(pipeline, path, out)
    assert "exists already" in refused.failed[name]
    assert run(pipeline, path, out, overwrite=True).ok
    assert not np.allclose(values(out / f"{name}.zarr"), first)


def test_a_table_that_is_missing_is_named(derivatives, atlas_file, tmp_path):
    (derivatives / "sub-02/func/sub-02_task-rest_desc-confounds_timeseries.tsv").unlink()
    pipeline = [ExtractLabels(atlas_file), CleanSignals(confounds="auto")]
    report = run(pipeline, derivatives, tmp_path / "out")
    assert len(report.outputs) == 1
    ((name, reason),) = report.failed.items()
    assert name.startswith("sub-02")
    assert "desc-confounds_timeseries.tsv" in reason


def test_a_pattern_reaches_into_other_folders(images, atlas_file, tmp_path):
    (tmp_path / "motion").mkdir()
    for number, path in enumerate(images):
        name = path.name.removesuffix(".nii.gz")
        np.savetxt(tmp_path / f"motion/{name}.csv", table(number).to_numpy(), delimiter=",")
    cleaning = CleanSignals(detrend=True, confounds="../motion/{name}.csv")
    report = run([ExtractLabels(atlas_file), cleaning], images, tmp_path / "out")
    assert report.ok, report.failed
    raw = ps.Pipeline([ExtractLabels(atlas_file)]).compute(ps.open_dataset(images[2]))
    expected = signal_clean(raw.signal.values.T, confounds=table(2).to_numpy(), standardize=None)
    np.testing.assert_allclose(values(tmp_path / "out/sub-03_bold.zarr").T, expected, atol=1e-3)


# ---------------------------------------------------------------------- other processes


def test_processes_give_the_same_values(images, atlas_file, tmp_path):
    out = tmp_path / "two"
    report = run(steps(atlas_file), images[:2], out, executor="processes", memory="2GiB")
    assert report.ok, report.failed
    expected = tmp_path / "one"
    assert run(steps(atlas_file), images[:2], expected, workers=1, memory="2GiB").ok
    for name in ("sub-01_bold.zarr", "sub-02_bold.zarr"):
        np.testing.assert_array_equal(values(out / name), values(expected / name))


def test_on_a_cluster_of_two_workers(cluster, images, atlas_file, mask_file, tmp_path):
    client = cluster.client
    together = ExtractTogether(
        ((SmoothVolumes(5.0), ExtractLabels(atlas_file)), ExtractVoxels(mask_file))
    )
    pipeline = [together, CleanSignals(detrend=True, low_pass=0.1)]
    report = run(pipeline, images, tmp_path / "out", client=client, workers=None, memory="4GiB")
    assert report.ok, report.failed
    assert report.kind == "cluster"
    assert run(pipeline, images, tmp_path / "alone", memory="4GiB").ok
    for path in images:
        name = f"{path.name.removesuffix('.nii.gz')}.zarr"
        assert digests(tmp_path / "out" / name).keys() == digests(tmp_path / "alone" / name).keys()
        np.testing.assert_array_equal(
            values(tmp_path / "out" / name), values(tmp_path / "alone" / name)
        )
