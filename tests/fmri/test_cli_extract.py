"""``penstock extract`` and ``penstock convert`` as a user types them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from digests import digests
from small_images import AFFINE, image

import penstock as ps
from penstock.fmri import (
    ExtractLabels,
    ExtractMaps,
    ExtractSpheres,
    ExtractVoxels,
    SmoothVolumes,
    signal_clean,
)
from penstock.storage.store import open_store

nibabel = pytest.importorskip("nibabel")


@pytest.fixture
def here(tmp_path, bold, atlas, mask, confounds) -> Path:
    """A folder with an image and all that one might extract from it."""
    x, y, z = np.ogrid[:9, :8, :7]
    maps = [np.exp(-((x - a) ** 2 + (y - 4) ** 2 + (z - 3) ** 2) / 6) for a in (2, 4, 6)]
    (tmp_path / "bold.nii.gz").write_bytes(bold.read_bytes())
    for name, values in {
        "atlas": atlas, "halves": np.where(atlas > 18, 2, np.minimum(atlas, 1)), "mask": mask,
        "maps": np.stack(maps, axis=-1),
    }.items():  # fmt: skip
        image(values).to_filename(tmp_path / f"{name}.nii.gz")
    pd.DataFrame(confounds, columns=["trans_x", "trans_y", "csf", "rot_x"]).to_csv(
        tmp_path / "confounds.tsv", sep="\t", index=False
    )
    pd.DataFrame({"index": range(3, 39, 3), "name": [f"area {i}" for i in range(12)]}).to_csv(
        tmp_path / "names.tsv", sep="\t", index=False
    )
    return tmp_path


def extracted(processor, here: Path, *before) -> np.ndarray:
    """What a processor makes of the image, (volumes, regions)."""
    pipeline = ps.Pipeline([*before, processor])
    return pipeline.compute(ps.open_dataset(here / "bold.nii.gz")).signal.values.T


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")


# ---------------------------------------------------------------------- extract


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "zarr"])
def test_labels_into_one_file(suffix, here, run_cli):
    done = run_cli(
        "extract", "bold.nii.gz", "--labels", "atlas.nii.gz", "--names", "names.tsv", "--quiet",
        "-o", f"signals/rest.{suffix}",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    expected = extracted(ExtractLabels(str(here / "atlas.nii.gz")), here)
    path = here / f"signals/rest.{suffix}"
    if suffix == "zarr":
        made = open_store(path)
        names, found = made.region.values.tolist(), made.signal.values.T
        assert ps.sampling_frequency(made) == 0.5
    else:
        table = read(path)
        np.testing.assert_allclose(table.pop("time"), 2.0 * np.arange(120))
        names, found = table.columns.tolist(), table.to_numpy()
    assert names == [f"area {i}" for i in range(12)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    (page,) = (here / "signals").glob("*report.html")
    assert page.name in done.out
    pytest.importorskip("matplotlib")
    assert "data:image/png;base64," in page.read_text()


def test_everything_at_once_cleaned(here, run_cli):
    done = run_cli(
        "extract", "bold.nii.gz", "--labels", "atlas.nii.gz", "--labels", "halves.nii.gz",
        "--maps", "maps.nii.gz", "--seeds", "45,-35,-30", "--seeds", "50,-38,-26", "--radius", 4,
        "--mask", "mask.nii.gz", "--smoothing", 5, "--confounds", "confounds.tsv",
        "--confound-columns", "trans_*,csf", "--detrend", "--standardize", "zscore_sample",
        "--high-pass", 0.01, "--memory", "1GiB", "--workers", 1, "--quiet", "-o", "all.csv",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    table = read(here / "all.csv").drop(columns="time")
    smooth = SmoothVolumes(5.0)
    seeds = ((45.0, -35.0, -30.0), (50.0, -38.0, -26.0))
    raw = np.concatenate(
        [
            extracted(ExtractLabels(str(here / "atlas.nii.gz")), here, smooth),
            extracted(ExtractLabels(str(here / "halves.nii.gz")), here, smooth),
            extracted(ExtractMaps(str(here / "maps.nii.gz")), here, smooth),
            extracted(ExtractVoxels(str(here / "mask.nii.gz")), here, smooth),
            extracted(ExtractSpheres(seeds, radius=4.0), here, smooth),
        ],
        axis=1,
    )
    columns = pd.read_csv(here / "confounds.tsv", sep="\t")[["trans_x", "trans_y", "csf"]]
    expected = signal_clean(raw, confounds=columns.to_numpy(), high_pass=0.01, t_r=2.0)
    np.testing.assert_allclose(table.to_numpy(), expected, atol=2e-5)
    assert len(set(table.columns)) == table.shape[1]


def test_one_image_into_a_folder_with_its_confounds(here, confounds, run_cli):
    done = run_cli(
        "extract", "bold.nii.gz", *LABELS, "--confounds", "confounds.tsv", "--quiet", "-o", "out"
    )
    assert (done.code, done.err) == (0, "")
    raw = extracted(ExtractLabels(str(here / "atlas.nii.gz")), here)
    expected = signal_clean(raw, detrend=False, standardize=None, confounds=confounds)
    np.testing.assert_allclose(
        read(here / "out/bold.parquet").iloc[:, 1:], expected, rtol=1e-5, atol=1e-3
    )


def test_a_mask_gives_a_store_of_voxels(here, mask, run_cli):
    done = run_cli("extract", "bold.nii.gz", "--mask", "mask.nii.gz", "--quiet", "-o", "voxels")
    assert (done.code, done.err) == (0, "")
    made = open_store(here / "voxels/bold.zarr")
    assert made.signal.dims == ("voxel", "time")
    np.testing.assert_array_equal(made.voxel_x.values, np.argwhere(mask)[:, 0])
    expected = extracted(ExtractVoxels(str(here / "mask.nii.gz")), here)
    np.testing.assert_array_equal(made.signal.values.T, expected)


def test_a_mask_of_another_grid_is_brought_to_the_image(here, mask, run_cli):
    coarse = AFFINE @ np.diag([2.0, 2.0, 2.0, 1.0])
    image(mask[::2, ::2, ::2], coarse).to_filename(here / "coarse.nii.gz")
    done = run_cli("extract", "bold.nii.gz", "--mask", "coarse.nii.gz", "--quiet", "-o", "v.zarr")
    assert done.code == 0, done.err
    assert open_store(here / "v.zarr").sizes["voxel"] > 0


def test_the_same_command_again_does_nothing(here, run_cli):
    command = ("extract", "bold.nii.gz", "--labels", "atlas.nii.gz", "--quiet", "-o", "out")
    assert run_cli(*command).code == 0
    before = (here / "out/bold.parquet").stat().st_mtime_ns
    again = run_cli(*command)
    assert again.code == 0
    assert "1 there already" in again.out
    other = run_cli(*command, "--detrend")
    assert other.code == 1
    assert "exists already" in other.err
    assert (here / "out/bold.parquet").stat().st_mtime_ns == before
    assert run_cli(*command, "--detrend", "--overwrite").code == 0
    assert abs(read(here / "out/bold.parquet").iloc[:, 1:].to_numpy().mean()) < 1


def test_derivatives_with_their_confounds(here, confounds, run_cli):
    for subject in (1, 2):
        func = here / f"fmriprep/sub-0{subject}/ses-a/func"
        func.mkdir(parents=True)
        stem = f"sub-0{subject}_ses-a_task-rest"
        space = "space-MNI152NLin2009cAsym"
        (func / f"{stem}_{space}_desc-preproc_bold.nii.gz").write_bytes(
            (here / "bold.nii.gz").read_bytes()
        )
        (func / f"{stem}_{space}_desc-brain_mask.nii.gz").write_bytes(
            (here / "mask.nii.gz").read_bytes()
        )
        (func / f"{stem}_{space}_boldref.nii.gz").write_bytes((here / "mask.nii.gz").read_bytes())
        pd.DataFrame(confounds * subject, columns=["trans_x", "trans_y", "csf", "rot_x"]).to_csv(
            func / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False
        )
    before = digests(here / "fmriprep")
    done = run_cli(
        "extract", "fmriprep", "--labels", "atlas.nii.gz", "--confounds", "auto",
        "--confound-columns", "trans_?,rot_*", "--format", "tsv", "--quiet", "-o", "signals",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    tables = sorted((here / "signals").glob("*.tsv"))
    assert [path.name[:6] for path in tables] == ["sub-01", "sub-02"]
    raw = extracted(ExtractLabels(str(here / "atlas.nii.gz")), here)
    expected = signal_clean(raw, detrend=False, standardize=None, confounds=confounds[:, [0, 1, 3]])
    np.testing.assert_allclose(read(tables[0]).iloc[:, 1:], expected, rtol=1e-5)
    assert digests(here / "fmriprep") == before


def test_patterns_of_confounds_for_several_images(here, confounds, run_cli):
    for name in ("a", "b"):
        (here / f"{name}_bold.nii.gz").write_bytes((here / "bold.nii.gz").read_bytes())
        np.savetxt(here / f"{name}_bold.txt", confounds)
    done = run_cli(
        "extract", "?_bold.nii.gz", "--labels", "atlas.nii.gz", "--confounds", "{name}.txt",
        "--quiet", "-o", "out",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert sorted(path.name for path in (here / "out").glob("*.parquet")) == [
        "a_bold.parquet", "b_bold.parquet",
    ]  # fmt: skip
    refused = run_cli(
        "extract", "?_bold.nii.gz", "--labels", "atlas.nii.gz", "--confounds", "confounds.tsv",
        "-o", "other",
    )  # fmt: skip
    assert refused.code == 2
    assert "{name}" in refused.sentence
    assert not (here / "other").exists()


# ---------------------------------------------------------------------- wrong usage


LABELS = ("--labels", "atlas.nii.gz")
WRONG = {
    "no such image": (("nothing.nii.gz", *LABELS, "-o", "o.csv"), "nothing.nii.gz: no such file"),
    "nothing to extract": (("bold.nii.gz", "-o", "o.csv"), "nothing to extract: give --labels"),
    "empty folder": (("empty", *LABELS, "-o", "o"), "no recordings in this folder"),
    "no file matches": (("x*.nii", *LABELS, "-o", "o"), "no file matches"),
    "several into one": (
        ("bold.nii.gz", "mask.nii.gz", *LABELS, "-o", "o.csv"), "cannot go into one file",
    ),
    "misspelt option": (
        ("bold.nii.gz", "--label", "atlas.nii.gz", "-o", "o.csv"), r"No such option.*--label",
    ),
    "no out": (("bold.nii.gz", *LABELS), "--out"),
    "seeds": (("bold.nii.gz", "--seeds", "1,2", "-o", "o.csv"), "x,y,z in mm"),
    "seeds that are words": (("bold.nii.gz", "--seeds", "a,b,c", "-o", "o.csv"), "x,y,z in mm"),
    "strategy": (
        ("bold.nii.gz", *LABELS, "--strategy", "avg", "-o", "o.csv"), "strategy.*'avg'|'avg'",
    ),
    "standardize": (
        ("bold.nii.gz", *LABELS, "--standardize", "zscore", "-o", "o.csv"), "zscore_sample",
    ),
    "nan policy": (("bold.nii.gz", *LABELS, "--nan-policy", "drop", "-o", "o.csv"), "nan_policy"),
    "band": (
        ("bold.nii.gz", *LABELS, "--low-pass", 0.01, "--high-pass", 0.1, "-o", "o.csv"),
        "must be below",
    ),
    "contradiction": (
        ("bold.nii.gz", *LABELS, "--format", "tsv", "-o", "o.csv"), "contradicts the name",
    ),
    "unknown format": (("bold.nii.gz", *LABELS, "--format", "xlsx", "-o", "o"), "'xlsx'"),
    "columns without a table": (
        ("bold.nii.gz", *LABELS, "--confound-columns", "csf", "-o", "o.csv"), "confounds",
    ),
    "amount of memory": (("bold.nii.gz", *LABELS, "-m", "much", "-o", "o.csv"), "memory"),
    "workers": (("bold.nii.gz", *LABELS, "-j", 0, "-o", "o.csv"), "workers"),
    "upper case": (("bold.nii.gz", *LABELS, "-o", "o.CSV"), r"named \*\.csv"),
    "smoothing": (("bold.nii.gz", *LABELS, "--smoothing", -3, "-o", "o.csv"), "fwhm"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_is_one_sentence(name, here, run_cli):
    (here / "empty").mkdir()
    arguments, sentence = WRONG[name]
    before = digests(here)
    done = run_cli("extract", *arguments)
    assert done.code == 2
    assert re.search(sentence, done.sentence), done.sentence
    assert digests(here) == before
    assert sorted(path.name for path in here.iterdir() if path.name.startswith(("o", "."))) == []


def broken(here: Path, bold_values) -> None:
    """Files that are not what they should be."""
    whole = (here / "bold.nii.gz").read_bytes()
    (here / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (here / "text.nii.gz").write_text("this is no image")
    (here / "none.nii.gz").write_bytes(b"")
    image(bold_values[..., 0].astype("i2")).to_filename(here / "volume.nii.gz")
    still = image(bold_values.astype("i2"))
    still.header.set_zooms((3.0, 3.0, 3.5, 0.0))
    still.to_filename(here / "still.nii.gz")
    far = AFFINE.copy()
    far[:3, 3] += 900
    image(np.ones((4, 4, 4), "i2"), far).to_filename(here / "far.nii.gz")
    image(np.zeros((9, 8, 7), "i2")).to_filename(here / "zeros.nii.gz")
    rng = np.random.default_rng(0)
    np.savetxt(here / "many.txt", rng.normal(size=(120, 130)))
    np.savetxt(here / "short.txt", rng.normal(size=(119, 2)))
    (here / "words.tsv").write_text("a\tb\n" + "x\ty\n" * 120)


UNUSABLE = {
    "cut short": (("cut.nii.gz", *LABELS), r"cut\.nii\.gz.*cut short"),
    "text": (("text.nii.gz", *LABELS), r"text\.nii\.gz"),
    "nothing in it": (("none.nii.gz", *LABELS), r"none\.nii\.gz"),
    "no atlas": (("bold.nii.gz", "--labels", "gone.nii.gz"), r"no such file: .*gone\.nii\.gz"),
    "an atlas of text": (("bold.nii.gz", "--labels", "text.nii.gz"), r"text\.nii\.gz"),
    "an atlas cut short": (("bold.nii.gz", "--labels", "cut.nii.gz"), r"cut\.nii\.gz|4"),
    "an atlas of volumes": (("bold.nii.gz", "--labels", "bold.nii.gz"), "has 4 dims"),
    "maps of nothing": (("bold.nii.gz", "--maps", "zeros.nii.gz"), "maps_img holds no map"),
    "an atlas elsewhere": (("bold.nii.gz", "--labels", "far.nii.gz"), "labels_img lies elsewhere"),
    "an empty atlas": (("bold.nii.gz", "--labels", "zeros.nii.gz"), "no label|no region"),
    "an empty mask": (("bold.nii.gz", "--mask", "zeros.nii.gz"), "mask"),
    "a mask elsewhere": (("bold.nii.gz", "--mask", "far.nii.gz"), "elsewhere|nothing|empty"),
    "a seed elsewhere": (("bold.nii.gz", "--seeds", "900,0,0"), "900"),
    "no repetition time": (("still.nii.gz", *LABELS, "--low-pass", 0.1), "t_r|repetition time"),
    "a filter on one volume": (("volume.nii.gz", *LABELS, "--detrend"), "time"),
    "many confounds": (("bold.nii.gz", *LABELS, "--confounds", "many.txt"), "130 confounds|120"),
    "short confounds": (("bold.nii.gz", *LABELS, "--confounds", "short.txt"), "119.*120"),
    "confounds of words": (("bold.nii.gz", *LABELS, "--confounds", "words.tsv"), r"words\.tsv"),
    "no confounds": (("bold.nii.gz", *LABELS, "--confounds", "gone.tsv"), r"gone\.tsv"),
    "none of fMRIPrep": (("bold.nii.gz", *LABELS, "--confounds", "auto"), "confounds"),
    "no such column": (
        ("bold.nii.gz", *LABELS, "--confounds", "confounds.tsv", "--confound-columns", "gsr"),
        "gsr",
    ),
    "no names": (("bold.nii.gz", *LABELS, "--names", "gone.tsv"), r"gone\.tsv"),
    "names without an index": (("bold.nii.gz", *LABELS, "--names", "confounds.tsv"), "index"),
    "tiny budget": (("bold.nii.gz", *LABELS, "--memory", "20MiB"), "budget|memory"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_input_is_one_sentence(name, here, bold_values, run_cli):
    broken(here, bold_values)
    arguments, sentence = UNUSABLE[name]
    before = digests(here)
    done = run_cli("extract", *arguments, "--quiet", "-o", "out/result.csv")
    assert done.code in (1, 2)
    assert re.search(sentence, done.sentence), done.sentence
    after = digests(here)
    left = {path for path in after if path not in before}
    if name == "cut short":  # (its finished blocks are kept)
        left = {path for path in left if ".result.csv.partial/" not in path}
    assert all(re.fullmatch(r"out/\S*report\.(html|json)", path) for path in left), left
    assert {path: after[path] for path in before} == before


def test_a_single_volume_gives_a_single_row(here, bold_values, run_cli):
    broken(here, bold_values)
    done = run_cli("extract", "volume.nii.gz", *LABELS, "--quiet", "-o", "one.csv")
    assert (done.code, done.err) == (0, "")
    table = read(here / "one.csv")
    expected = extracted(ExtractLabels(str(here / "atlas.nii.gz")), here)[0]
    assert table.shape == (1, 12)
    np.testing.assert_allclose(table.iloc[0], expected, rtol=1e-6)


def test_images_of_one_name_have_tables_of_their_own(here, run_cli):
    for subject in ("s1.feat", "s2.feat"):
        (here / "feat" / subject).mkdir(parents=True)
        (here / "feat" / subject / "filtered.nii.gz").symlink_to(here / "bold.nii.gz")
    common = ["--labels", "atlas.nii.gz", "--format", "csv", "--quiet"]
    assert run_cli("extract", "feat", *common, "--out", "nested").code == 0
    assert run_cli("extract", "feat/*/*.gz", *common, "-o", "flat", "--name", "{folder}").code == 0
    for subject in ("s1.feat", "s2.feat"):
        table = read(here / "nested" / subject / "filtered.csv")
        pd.testing.assert_frame_equal(table, read(here / "flat" / f"{subject}.csv"))
    ran = run_cli("extract", "feat", *common, "-o", "x", "--confounds", "confounds.tsv")
    assert "2 images cannot share one table" in ran.sentence


def test_one_image_of_several_is_broken(here, bold_values, run_cli):
    broken(here, bold_values)
    done = run_cli("extract", "bold.nii.gz", "cut.nii.gz", *LABELS, "--quiet", "-o", "out")
    assert done.code == 1
    assert done.sentence.startswith("cut: ")
    assert [path.name for path in (here / "out").glob("*.parquet")] == ["bold.parquet"]


# ---------------------------------------------------------------------- convert


def test_there_and_back_again(here, bold_values, run_cli):
    for source, target in [
        ("bold.nii.gz", "bold.zarr"), ("bold.zarr", "back/bold.nii.gz"),
        ("back/bold.nii.gz", "plain/bold.nii"), ("bold.nii.gz", "again/bold.zarr"),
    ]:  # fmt: skip
        done = run_cli("convert", source, target, "--quiet")
        assert done.code == 0, done.err
        ds = ps.open_dataset(here / target)
        np.testing.assert_array_equal(ds.signal.values, bold_values)
        np.testing.assert_allclose(ds.affine.values, AFFINE)
        assert ps.sampling_frequency(ds) == 0.5
    found = nibabel.load(here / "back/bold.nii.gz")
    np.testing.assert_array_equal(found.get_fdata(), bold_values)
    np.testing.assert_allclose(found.affine, AFFINE)
    np.testing.assert_allclose(found.header.get_zooms(), (3, 3, 3.5, 2))
    command = ("extract", "plain/bold.nii", *LABELS, "--quiet", "-o", "a.csv")
    assert run_cli(*command).code == 0
    assert run_cli("extract", "bold.zarr", *LABELS, "--quiet", "-o", "b.csv").code == 0
    assert (here / "a.csv").read_bytes() == (here / "b.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("bold.nii.gz", "bold.xyz"), "cannot tell the format of bold.xyz"),
        (("bold.nii.gz", "bold"), "cannot tell the format of bold"),
        (("gone.nii.gz", "x.zarr"), "gone.nii.gz: no such file"),
        (("bold.nii.gz", "bold.nii.gz"), "would replace the recording"),
        (("bold.nii.gz", "bold.nii.gz", "--overwrite"), "would replace the recording"),
        (("bold.nii.gz", "bold.csv"), "CSV holds tables"),
        (("bold.nii.gz", "bold.edf"), "EDF holds recordings"),
        (("text.nii.gz", "x.zarr"), r"text\.nii\.gz"),
        (("cut.nii.gz", "x.zarr"), "cut short"),
        (("bold.nii.gz", "there.zarr"), "exists already"),
    ],
    ids=str,
)
def test_conversions_that_cannot_be(arguments, sentence, here, bold_values, run_cli):
    broken(here, bold_values)
    (here / "there.zarr").mkdir()
    (here / "there.zarr/notes.txt").write_text("keep me")
    before = digests(here)
    done = run_cli("convert", *arguments, "--quiet")
    assert done.code in (1, 2)
    assert re.search(sentence, done.sentence), done.sentence
    after = digests(here)
    assert {path: after[path] for path in before} == before
    left = {path for path in set(after) - set(before) if ".x.zarr.partial/" not in path}
    assert all(re.fullmatch(r"\S*report\.(html|json)", path) for path in left), left
