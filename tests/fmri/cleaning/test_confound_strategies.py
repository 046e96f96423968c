"""Confounds by strategies: the columns, values and volumes that nilearn's loader finds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from small_images import AFFINE, image

import penstock as ps
from penstock.fmri import (
    CleanSignals,
    ConfoundStrategy,
    ExtractLabels,
    ExtractSpheres,
    NiftiLabelsMasker,
    find_confounds,
    load_confounds,
    load_confounds_table,
)

fmriprep = pytest.importorskip("nilearn.interfaces.fmriprep")
TABLES = Path(fmriprep.__file__).parent / "data"
VERSIONS = {
    "20.0": ("test_desc-confounds_regressors", "desc-confounds_regressors"),
    "21": ("test-v21_desc-confounds_timeseries", "desc-confounds_timeseries"),
    "no non-steady": ("no_nonsteady_desc-confounds_regressors", "desc-confounds_regressors"),
}
SHAPE = (6, 5, 4)


def beside(folder: Path, version: str, name: str = "sub-01_task-rest") -> Path:
    """An image with one of nilearn's real tables of fMRIPrep beside it."""
    stored, suffix = VERSIONS[version]
    for extension in (".tsv", ".json"):
        source = TABLES / f"{stored}{extension}"
        if source.exists():
            shutil.copyfile(source, folder / f"{name}_{suffix}{extension}")
    n_times = len(pd.read_csv(TABLES / f"{stored}.tsv", sep="\t"))
    values = np.random.default_rng(0).normal(1000, 20, (*SHAPE, n_times))
    path = folder / f"{name}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    nibabel.save(image(values), path)
    return path


def assert_same(found: tuple[Any, Any], theirs: tuple[Any, Any]) -> None:
    table, kept = found
    expected, mask = theirs
    assert list(table.columns) == list(expected.columns)
    np.testing.assert_allclose(table.to_numpy(), expected.to_numpy(), rtol=1e-9, atol=1e-9)
    if mask is None:
        assert kept is None
    else:
        np.testing.assert_array_equal(kept, mask)


STRATEGIES: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    *((("motion",), {"motion": terms}) for terms in ("basic", "power2", "derivatives", "full")),
    *((("wm_csf",), {"wm_csf": terms}) for terms in ("basic", "power2", "derivatives", "full")),
    (("global_signal",), {"global_signal": "full"}),
    (("motion", "high_pass", "wm_csf"), {}),
    (("motion", "high_pass", "wm_csf"), {"demean": False}),
    *(
        (("motion", "scrub"), {"scrub": scrub, "fd_threshold": fd, "std_dvars_threshold": dvars})
        for scrub in (0, 3, 5)
        for fd, dvars in ((0.5, 1.5), (0.1, 3.0), (0.2, 1.05))
    ),
    (("high_pass", "compcor"), {"compcor": "anat_combined", "n_compcor": 3}),
    (("high_pass", "compcor"), {"compcor": "temporal", "n_compcor": 2}),
    (("high_pass", "compcor"), {"compcor": "temporal_anat_combined"}),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("strategy", "options"), STRATEGIES, ids=str)
def test_as_nilearn_loads_them(
    strategy: tuple[str, ...], options: dict[str, Any], version: str, tmp_path: Path
) -> None:
    if "compcor" in strategy and version == "no non-steady":
        pytest.skip("nilearn ships no JSON file with this table")
    path = beside(tmp_path, version)
    try:
        theirs = fmriprep.load_confounds(str(path), strategy=strategy, **options)
    except ValueError:
        with pytest.raises(ValueError, match="leave it out"):
            load_confounds(path, strategy, **options)
        return
    if theirs[1] is not None and not len(theirs[1]):
        with pytest.raises(ValueError, match="leaves out all volumes"):
            load_confounds(path, strategy, **options)
        return
    assert_same(load_confounds(path, strategy, **options), theirs)


def test_components_of_separate_masks(tmp_path: Path) -> None:
    path = beside(tmp_path, "20.0")
    theirs = fmriprep.load_confounds(
        str(path), strategy=("high_pass", "compcor"), compcor="anat_separated", n_compcor=2
    )
    ours = load_confounds(path, ["high_pass", "compcor"], compcor="anat_separated", n_compcor=2)
    assert_same(ours, theirs)
    (tmp_path / "sub-01_task-rest_desc-confounds_regressors.json").unlink()
    with pytest.raises(ValueError, match="compcor=temporal"):
        load_confounds(path, ["high_pass", "compcor"])


def test_images_that_aroma_has_cleaned(tmp_path: Path) -> None:
    path = beside(tmp_path, "20.0")
    basic = fmriprep.load_confounds(str(path), strategy=("wm_csf", "ica_aroma"), ica_aroma="basic")
    assert_same(load_confounds(path, ["wm_csf", "ica_aroma=basic"]), basic)
    with pytest.raises(ValueError, match="smoothAROMAnonaggr"):
        load_confounds(path, ["wm_csf", "ica_aroma"])
    cleaned = path.with_name(path.name.replace("preproc", "smoothAROMAnonaggr"))
    path.rename(cleaned)
    full = fmriprep.load_confounds(str(cleaned), strategy=("wm_csf", "ica_aroma"))
    assert_same(load_confounds(cleaned, ["wm_csf", "ica_aroma"]), full)


def test_what_is_wrong_is_told_before_a_file_is_read() -> None:
    for strategy, options, sentence in (
        (["motoin"], {}, "unknown strategy 'motoin'"),
        (["motion=ful"], {}, "motion='ful' is unknown: choose of basic"),
        (["compcor"], {}, "add 'high_pass'"),
        (["high_pass", "compcor"], {"n_compcor": 0}, "n_compcor"),
        (["scrub"], {"scrub": -1}, "number of volumes"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ConfoundStrategy(tuple(strategy), **options)
    with pytest.raises(ValueError, match="needs a table of fMRIPrep"):
        CleanSignals(strategy=("motion",))
    with pytest.raises(ValueError, match="one way of choosing"):
        CleanSignals(confounds="auto", strategy=("motion",), confound_columns="csf")
    with pytest.raises(ValueError, match="unknown fd"):
        CleanSignals(confounds="auto", strategy=("motion",), strategy_options={"fd": 1})
    with pytest.raises(ValueError, match="no stretch of volumes"):
        CleanSignals(sample_mask="4")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    values = np.zeros(SHAPE, "i2")
    values[1:3], values[4:] = 1, 2
    path = tmp_path / "atlas.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)
    return path


def test_signals_are_nilearns_everywhere(labels: Path, tmp_path: Path) -> None:
    from nilearn.maskers import NiftiLabelsMasker as Theirs

    path = beside(tmp_path, "20.0")
    chosen, options = ("motion", "wm_csf", "scrub"), {"fd_threshold": 0.2, "motion": "basic"}
    table, mask = fmriprep.load_confounds(str(path), strategy=chosen, **options)
    theirs = Theirs(str(labels), detrend=True, standardize="zscore_sample")
    expected = theirs.fit_transform(str(path), confounds=table, sample_mask=mask)
    masker = NiftiLabelsMasker(
        str(labels),
        detrend=True,
        standardize="zscore_sample",
        confound_strategy=chosen,
        confound_options=options,
    )
    np.testing.assert_allclose(masker.fit_transform(path, confounds="auto"), expected, atol=1e-6)
    masker.pipeline("auto").run(path, tmp_path / "out", workers=1, progress=False)
    (made,) = (tmp_path / "out").glob("*.zarr")
    result = ps.open_dataset(made)
    np.testing.assert_allclose(result.signal.values.T, expected, atol=1e-5)
    np.testing.assert_allclose(result.time.values, 2.0 * mask)
    own = masker.fit_transform(path, confounds="auto", sample_mask=np.arange(4, len(table)))
    kept = np.intersect1d(mask, np.arange(4, len(table)))
    np.testing.assert_allclose(own, theirs.transform(str(path), table, kept), atol=1e-6)
    with pytest.raises(ValueError, match="needs a table of fMRIPrep"):
        masker.fit_transform(path)
    assert ps.Pipeline.from_dict(masker.pipeline("auto").to_dict()) is not None


def test_on_the_command_line(labels: Path, tmp_path: Path, run_cli: Any) -> None:
    folder = tmp_path / "derivatives"
    folder.mkdir()
    path = beside(folder, "20.0")
    _, mask = fmriprep.load_confounds(str(path), strategy=("motion", "scrub"), fd_threshold=0.3)
    out = tmp_path / "signals"
    arguments = ["extract", str(folder), "--labels", str(labels), "--confounds", "auto"]
    strategy = ["--confound-strategy", "motion=basic,scrub", "--fd-threshold", "0.3"]
    ran = run_cli(*arguments, *strategy, "--filter", "cosine", "--high-pass", "0.01",
                  "--out", str(out), "--quiet")  # fmt: skip
    assert ran.code == 0, ran.err
    (table,) = out.glob("*.parquet")
    assert len(pd.read_parquet(table)) == len(mask)
    ran = run_cli(*arguments, "--confound-columns", "trans_*,rot_*", "--sample-mask", "4:",
                  "--out", str(tmp_path / "six.csv"), "--quiet")  # fmt: skip
    assert ran.code == 0, ran.err
    for limit, owner in (("fd-threshold", "scrub"), ("std-dvars-threshold", "scrub"),
                         ("n-compcor", "compcor")):  # fmt: skip
        given = ["--confound-strategy", "motion", f"--{limit}", "1"]
        ran = run_cli(*arguments, *given, "--out", str(out / "x.csv"))
        assert ran.code == 2
        assert f"--{limit} is that of {owner}, which is not in" in ran.sentence
    ran = run_cli(*arguments, "--confound-strategy", "motoin", "--out", str(out / "x.csv"))
    assert ran.code == 2
    assert "unknown strategy 'motoin'" in ran.sentence


def test_tables_saved_with_their_index(tmp_path: Path) -> None:
    table = pd.DataFrame({"csf": [1.0, 2.0, 4.0], "trans_x_derivative1": [np.nan, 0.5, 0.25]})
    expected = [[1.0, 0.5], [2.0, 0.5], [4.0, 0.25]]
    table.to_csv(tmp_path / "index.csv")
    table.to_csv(tmp_path / "plain.tsv", sep="\t", index=False, na_rep="n/a")
    table.set_axis([1, 2, 3]).to_csv(tmp_path / "from_one.csv")
    (tmp_path / "r.txt").write_text("csf trans_x_derivative1\n1 1 NA\n2 2 0.5\n3 4 0.25\n")
    for name in ("index.csv", "plain.tsv", "from_one.csv", "r.txt"):
        values, names = load_confounds_table(tmp_path / name)
        assert names == ("csf", "trans_x_derivative1"), name
        assert values.tolist() == expected, name
    later = table.assign(trans_x_derivative1=[np.nan, np.nan, 0.25])
    assert np.isnan(load_confounds_table(later)[0][:2, 1]).all()


def test_echoes_share_a_table(tmp_path: Path) -> None:
    wanted = tmp_path / "sub-01_task-rest_run-2_desc-confounds_timeseries.tsv"
    wanted.write_text("csf\n1\n")
    for name in (
        "sub-01_task-rest_run-2_echo-1_desc-preproc_bold.nii.gz",
        "sub-01_task-rest_run-2_part-mag_space-T1w_desc-preproc_bold.nii.gz",
        "sub-01_task-rest_run-2_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz",
    ):
        assert find_confounds(tmp_path / name) == str(wanted)


def test_coverage_of_regions(labels: Path) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[2:] = True  # half of label 1, all of label 2
    within = ps.fmri.SpatialImage(mask, AFFINE)
    values = np.random.default_rng(0).normal(size=(*SHAPE, 3))
    ds = ps.fmri.as_volumes(nibabel.Nifti1Image(values, AFFINE))
    found = ps.Pipeline([ExtractLabels(str(labels), mask_img=within)])(ds)
    assert found.coverage.values.tolist() == [0.5, 1.0]
    wider = ExtractLabels(str(labels), mask_img=within, min_coverage=0.6, keep_masked_labels=True)
    with pytest.warns(UserWarning, match="no voxel is left of '1'"):
        found = ps.Pipeline([wider])(ds)
    assert found.coverage.values.tolist() == [0.5, 1.0]
    assert np.isnan(found.signal.values[0]).all()
    np.testing.assert_allclose(found.signal.values[1], values[4:].mean(axis=(0, 1, 2)))
    with pytest.raises(ValueError, match="give mask_img"):
        ExtractLabels(str(labels), min_coverage=0.5)


def test_spheres_outside_stay_where_they_are_asked_for() -> None:
    values = np.random.default_rng(0).normal(size=(*SHAPE, 3))
    ds = ps.fmri.as_volumes(nibabel.Nifti1Image(values, AFFINE))
    inside = tuple((AFFINE @ [2, 2, 2, 1])[:3])
    seeds = ((900.0, 0.0, 0.0), inside)
    with pytest.raises(ValueError, match="keep_empty_spheres=True"):
        ps.Pipeline([ExtractSpheres(seeds)])(ds)
    with pytest.warns(UserWarning, match="no voxel is left"):
        found = ps.Pipeline([ExtractSpheres(seeds, keep_empty_spheres=True)])(ds)
    assert np.isnan(found.signal.values[0]).all()
    np.testing.assert_allclose(found.signal.values[1], values[2, 2, 2])
