"""Maskers: nilearn's answers, scikit-learn's habits, one pass over the image."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from small_images import AFFINE, image

import penstock as ps
from penstock.errors import BudgetError
from penstock.fmri import (
    MultiNiftiLabelsMasker,
    MultiNiftiMasker,
    NiftiLabelsMasker,
    NiftiMapsMasker,
    NiftiMasker,
    NiftiSpheresMasker,
    SpatialImage,
    as_volumes,
    extract,
    signal_clean,
)
from penstock.io.nifti.stream import NiftiStream, close_streams, open_streams
from penstock.memory.accounting import MIB, process_now

SEEDS = [(45.0, -35.0, -30.0), (50.0, -38.0, -26.0)]


@pytest.fixture(scope="session")
def maps() -> np.ndarray:
    x, y, z = np.ogrid[:9, :8, :7]
    centres = [(3, 3, 3), (5, 4, 3), (4, 5, 2)]
    blobs = [np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 6) for a, b, c in centres]
    return np.stack(blobs, axis=-1)


CLEANING = {
    "raw": {},
    "zscore": {"standardize": "zscore_sample"},
    "psc": {"standardize": "psc"},
    "detrend psc": {"detrend": True, "standardize": "psc"},
    "band": {
        "detrend": True, "standardize": "zscore_sample", "low_pass": 0.1, "high_pass": 0.01,
        "t_r": 2.0,
    },
    "cosine": {
        "standardize": "zscore_sample", "high_pass": 0.01, "t_r": 2.0,
        "clean_args": {"filter": "cosine"},
    },
    "order": {
        "detrend": True, "low_pass": 0.1, "t_r": 2.0, "clean_args": {"butterworth__order": 3},
    },
}  # fmt: skip
KINDS = ["voxels", "labels", "median", "maps", "maps in mask", "spheres"]


def made(kind: str, module, atlas, mask, maps, **options):
    """A masker of either package."""
    if kind == "voxels":
        return module.NiftiMasker(image(mask), **options)
    if kind in ("labels", "median"):
        strategy = "mean" if kind == "labels" else "median"
        return module.NiftiLabelsMasker(image(atlas), strategy=strategy, **options)
    if kind == "spheres":
        return module.NiftiSpheresMasker(SEEDS, radius=7.0, allow_overlap=True, **options)
    inside = image(mask) if kind == "maps in mask" else None
    return module.NiftiMapsMasker(image(maps), mask_img=inside, **options)


def peer(masker, values, **given):
    """What nilearn makes of the same image in double precision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return masker.set_params(reports=False).fit_transform(image(values), **given)


@pytest.mark.parametrize("cleaning", CLEANING)
@pytest.mark.parametrize("kind", KINDS)
def test_signals_are_those_of_nilearn(kind, cleaning, bold_values, atlas, mask, maps, confounds):
    nilearn = pytest.importorskip("nilearn.maskers")
    import penstock.fmri as own

    options = CLEANING[cleaning]
    ds = as_volumes(image(bold_values), dtype="float64")
    ours = made(kind, own, atlas, mask, maps, **options).fit().transform(ds, confounds)
    theirs = peer(
        made(kind, nilearn, atlas, mask, maps, **options), bold_values, confounds=confounds
    )
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-9 * np.abs(theirs).max())


@pytest.mark.parametrize("kind", ["voxels", "labels", "maps", "spheres"])
def test_smoothing_and_a_mask_of_another_grid_are_those_of_nilearn(
    kind, bold_values, atlas, mask, maps
):
    nilearn = pytest.importorskip("nilearn.maskers")
    import penstock.fmri as own

    ds = as_volumes(image(bold_values), dtype="float64")
    ours = made(kind, own, atlas, mask, maps, smoothing_fwhm=5.0).fit().transform(ds)
    theirs = peer(made(kind, nilearn, atlas, mask, maps, smoothing_fwhm=5.0), bold_values)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def coarse(values: np.ndarray) -> SpatialImage:
    """Every other voxel of an image, on a grid of its own."""
    affine = AFFINE @ np.diag([2.0, 2.0, 2.0, 1.0])
    return SpatialImage(values[::2, ::2, ::2], affine)


def test_labels_of_another_grid_go_to_the_data_or_the_data_to_them(bold_values, atlas):
    nilearn = pytest.importorskip("nilearn.maskers")
    from penstock.fmri.images.images import to_nibabel

    ds, other = as_volumes(image(bold_values), dtype="float64"), coarse(atlas)
    theirs = peer(nilearn.NiftiLabelsMasker(to_nibabel(other)), bold_values)
    np.testing.assert_allclose(NiftiLabelsMasker(other).fit_transform(ds), theirs, rtol=1e-12)
    masker = NiftiLabelsMasker(other, resampling_target="labels")
    theirs = peer(
        nilearn.NiftiLabelsMasker(to_nibabel(other), resampling_target="labels"), bold_values
    )
    np.testing.assert_allclose(masker.fit_transform(ds), theirs, rtol=1e-6)
    with pytest.raises(ValueError, match="grid"):
        NiftiLabelsMasker(other, resampling_target=None).fit_transform(ds)


def test_the_image_goes_to_the_grid_of_a_mask_with_a_warning(bold_values, mask):
    nilearn = pytest.importorskip("nilearn.maskers")
    from penstock.fmri.images.images import to_nibabel

    other = coarse(mask)
    with pytest.warns(UserWarning, match="different voxel grids"):
        ours = NiftiMasker(other).fit_transform(as_volumes(image(bold_values), dtype="float64"))
    theirs = peer(nilearn.NiftiMasker(to_nibabel(other)), bold_values)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


# ---------------------------------------------------------------------- one pass


def test_any_number_of_maskers_read_the_file_once(bold, atlas, mask, maps, monkeypatch):
    begun = []
    start = NiftiStream.__init__

    def counted(self, *args, **kwargs):
        begun.append(1)
        start(self, *args, **kwargs)

    monkeypatch.setattr(NiftiStream, "__init__", counted)
    maskers = [
        NiftiMasker(image(mask), standardize="psc"),
        NiftiLabelsMasker(image(atlas), detrend=True, smoothing_fwhm=4.0),
        NiftiMapsMasker(image(maps), smoothing_fwhm=4.0),
        NiftiSpheresMasker(SEEDS, radius=[4.0, 8.0], allow_overlap=True),
        NiftiLabelsMasker(image(atlas)),
        NiftiLabelsMasker(image(atlas), strategy="median"),
    ]
    together = extract(bold, maskers)
    assert len(begun) <= 1
    for masker, signals in zip(maskers, together, strict=True):
        alone = masker.fit_transform(bold)
        assert signals.dtype == alone.dtype
        # (averages of several maskers are summed together, in another order)
        np.testing.assert_allclose(signals, alone, rtol=1e-12, atol=1e-9)


def test_workers_and_budget_do_not_matter(bold, atlas, mask):
    def signals(**budget):
        return extract(bold, [NiftiLabelsMasker(image(atlas)), NiftiMasker(image(mask))], **budget)

    little = process_now() + 200 * MIB
    for a, b in zip(signals(workers=1), signals(workers=3, memory=little), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(BudgetError, match="allow"):
        signals(memory="50MiB")


def test_voxels_go_into_a_store_cleaned(bold, mask, confounds, tmp_path):
    masker = NiftiMasker(
        image(mask), detrend=True, low_pass=0.1, standardize="zscore_sample", smoothing_fwhm=4.0
    )
    made = masker.fit().transform(bold, confounds, out=tmp_path / "voxels.zarr")
    expected = masker.transform(bold, confounds)
    np.testing.assert_allclose(made.signal.values.T, expected, atol=1e-5)
    inside = np.argwhere(mask)
    found = np.stack([made[f"voxel_{axis}"].values for axis in "xyz"], axis=1)
    np.testing.assert_array_equal(found, inside)
    assert list(tmp_path.glob("*report.html"))
    with pytest.raises(ValueError, match="out= writes a store"):
        masker.set_output(transform="pandas").transform(bold, out=tmp_path / "frame.zarr")


def test_images_of_a_list_follow_each_other(bold, bold_values, atlas):
    masker = NiftiLabelsMasker(
        image(atlas), standardize="zscore_sample", runs=[0] * 120 + [1] * 120
    )
    both = masker.fit_transform([bold, image(bold_values[..., ::-1].astype("int16"))])
    one = masker.set_params(runs=None).fit_transform(bold)
    np.testing.assert_allclose(both[:120], one, atol=1e-9)
    np.testing.assert_allclose(both[120:], one[::-1], atol=1e-9)


# ---------------------------------------------------------------------- kinds of input


def test_paths_images_and_datasets_give_the_same(bold, bold_values, atlas):
    masker = NiftiLabelsMasker(image(atlas)).fit()
    expected = masker.transform(bold)
    values = bold_values.astype("int16")
    for given in (str(bold), image(values), image(values.astype("f4")), ps.open_dataset(bold)):
        np.testing.assert_allclose(masker.transform(given), expected, rtol=1e-12)
    nibabel = pytest.importorskip("nibabel")
    np.testing.assert_allclose(masker.transform(nibabel.load(bold)), expected, rtol=1e-12)


def test_a_single_volume_gives_a_single_row(bold_values, atlas, mask):
    volume = image(bold_values[..., 3].astype("f4"))
    row = NiftiLabelsMasker(image(atlas)).fit_transform(volume)
    assert row.shape == (12,)
    frame = NiftiLabelsMasker(image(atlas)).set_output(transform="pandas").fit_transform(volume)
    assert frame.shape == (1, 12)
    assert NiftiMasker(image(mask)).fit_transform(volume).shape == (int(mask.sum()),)


def test_the_repetition_time_comes_from_the_header(bold, atlas):
    masker = NiftiLabelsMasker(image(atlas), high_pass=0.02)
    given = NiftiLabelsMasker(image(atlas), high_pass=0.02, t_r=2.0)
    np.testing.assert_allclose(masker.fit_transform(bold), given.fit_transform(bold), atol=1e-8)
    with pytest.raises(ValueError, match="repetition time"):
        masker.transform(ps.open_dataset(bold).drop_vars("time"))


def test_missing_voxels_are_not_zero(bold_values, atlas):
    values = bold_values.astype("f4")
    inside = np.argwhere(atlas == 3)
    values[tuple(inside[0])] = np.nan
    rest = values[tuple(inside[1:].T)].mean(axis=0, dtype=np.float64)
    ds = as_volumes(image(values))
    np.testing.assert_allclose(NiftiLabelsMasker(image(atlas)).fit_transform(ds)[:, 0], rest)
    zero = NiftiLabelsMasker(image(atlas), nan_policy="zero").fit_transform(ds)[:, 0]
    np.testing.assert_allclose(zero, rest * (len(inside) - 1) / len(inside), rtol=1e-6)
    spoilt = NiftiLabelsMasker(image(atlas), nan_policy="propagate").fit_transform(ds)
    assert np.isnan(spoilt[:, 0]).all()
    assert np.isfinite(spoilt[:, 1:]).all()


def test_confounds_of_every_kind(bold, atlas, confounds, tmp_path):
    masker = NiftiLabelsMasker(image(atlas), detrend=True).fit()
    raw = NiftiLabelsMasker(image(atlas)).fit_transform(bold)
    expected = signal_clean(raw, confounds=confounds, standardize=None)
    frame = pd.DataFrame(confounds, columns=list("abcd"))
    frame.to_csv(tmp_path / "confounds.tsv", sep="\t", index=False)
    two = [frame[["a", "b"]], confounds[:, 2:]]
    for given in (confounds, frame, tmp_path / "confounds.tsv", two):
        np.testing.assert_allclose(masker.transform(bold, given), expected, atol=1e-9)


def test_censored_volumes_are_left_out(bold, atlas, tmp_path):
    keep = np.setdiff1d(np.arange(120), [0, 40, 41, 119])
    masker = NiftiLabelsMasker(image(atlas), standardize="zscore_sample").fit()
    raw = NiftiLabelsMasker(image(atlas)).fit_transform(bold)
    expected = signal_clean(raw[keep], detrend=False)
    before = keep.copy()
    np.testing.assert_allclose(masker.transform(bold, sample_mask=keep), expected, atol=1e-9)
    np.testing.assert_array_equal(keep, before)
    flags = np.isin(np.arange(120), keep)
    np.testing.assert_allclose(masker.transform(bold, sample_mask=flags), expected, atol=1e-9)
    for number, kept in enumerate((keep, flags)):
        made = masker.transform(bold, sample_mask=kept, out=tmp_path / f"{number}.zarr")
        np.testing.assert_allclose(made.signal.values.T, expected, atol=1e-9)
        np.testing.assert_allclose(made.time.values, 2.0 * keep)
    masker.set_params(runs=np.repeat([0, 1], 60))
    of_runs = [np.arange(1, 60), np.arange(59)]
    made = masker.transform(bold, sample_mask=of_runs, out=tmp_path / "runs.zarr")
    expected = masker.transform(bold, sample_mask=of_runs)
    np.testing.assert_allclose(made.signal.values.T, expected, atol=1e-9)


def test_a_mask_is_computed_where_none_is_given(bold_values):
    nilearn = pytest.importorskip("nilearn.maskers")
    values = bold_values.astype("f4")
    values[:2], values[-2:], values[:, :2], values[:, -2:] = 0, 0, 0, 0
    values[:, :, :2], values[:, :, -2:] = 0, 0
    ours = NiftiMasker().fit(image(values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = nilearn.NiftiMasker(reports=False).fit(image(values))
    np.testing.assert_array_equal(
        ours.mask_img_.get_fdata() != 0, theirs.mask_img_.get_fdata() != 0
    )
    with pytest.raises(ValueError, match="no mask_img is given"):
        NiftiMasker().fit()


# ---------------------------------------------------------------------- scikit-learn


@pytest.mark.parametrize("kind", ["voxels", "labels", "maps", "spheres"])
def test_habits_of_scikit_learn(kind, bold, atlas, mask, maps):
    from sklearn.base import clone

    import penstock.fmri as own

    masker = made(kind, own, atlas, mask, maps, standardize="zscore_sample")
    with pytest.raises(NotFittedError):
        masker.transform(bold)
    other = clone(masker)
    assert other.get_params().keys() == masker.get_params().keys()
    signals = masker.fit_transform(bold)
    again = pickle.loads(pickle.dumps(masker))
    np.testing.assert_array_equal(again.transform(bold), signals)
    names = masker.get_feature_names_out()
    assert len(names) == len(set(names)) == masker.n_elements_ == signals.shape[1]
    frame = other.set_output(transform="pandas").fit_transform(bold)
    assert list(frame.columns) == list(names)
    np.testing.assert_array_equal(frame.to_numpy(), signals)
    assert "standardize='zscore_sample'" in repr(masker)


def test_in_a_pipeline_and_a_grid_search(bold_values, mask):
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    images = [image(bold_values[..., i].astype("f4")) for i in range(12)]

    class Rows(MultiNiftiMasker):
        """One row for every image, as scikit-learn's estimators want them."""

        def transform(self, imgs, *args, **kwargs):
            return np.stack(super().transform(list(imgs), *args, **kwargs))

    targets = np.arange(12.0)
    search = GridSearchCV(
        make_pipeline(Rows(image(mask)), Ridge()),
        {"rows__smoothing_fwhm": [None, 4.0], "ridge__alpha": [1.0, 10.0]},
        cv=3,
    )
    search.fit(images, targets)
    assert set(search.best_params_) == {"rows__smoothing_fwhm", "ridge__alpha"}
    assert search.predict(images[:2]).shape == (2,)


def test_several_images_side_by_side(bold, bold_values, atlas, confounds):
    other = image(bold_values[..., :60].astype("int16"))
    multi = MultiNiftiLabelsMasker(image(atlas), detrend=True, n_jobs=2)
    tables = [confounds, confounds[:60]]
    found = multi.fit().transform([bold, other], tables)
    single = NiftiLabelsMasker(image(atlas), detrend=True).fit()
    for signals, img, table in zip(found, (bold, other), tables, strict=True):
        np.testing.assert_array_equal(signals, single.transform(img, table))
    with pytest.raises(ValueError, match="1 confounds for 2 images"):
        multi.transform([bold, other], [confounds])


def test_several_images_become_several_frames(bold, bold_values, atlas):
    other = image(bold_values[..., :60].astype("int16"))
    multi = MultiNiftiLabelsMasker(image(atlas), n_jobs=2).set_output(transform="pandas")
    with pytest.raises(NotFittedError):
        multi.transform([bold, other])
    for frames in (multi.fit_transform([bold, other]), multi.transform((bold, other))):
        assert [frame.shape for frame in frames] == [(120, 12), (60, 12)]
        for frame in frames:
            assert list(frame.columns) == list(multi.get_feature_names_out())
    assert list(multi.transform(bold).columns) == list(multi.get_feature_names_out())


def test_a_fitted_masker_in_another_process(bold, atlas, tmp_path):
    masker = NiftiLabelsMasker(image(atlas), detrend=True).fit()
    (tmp_path / "masker.pickle").write_bytes(pickle.dumps(masker))
    code = (
        "import pickle, sys, numpy as np\n"
        "masker = pickle.load(open('masker.pickle', 'rb'))\n"
        "np.save('signals.npy', masker.transform(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(bold)], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "signals.npy"), masker.transform(bold))


@pytest.mark.filterwarnings("ignore:ExtractLabels")
def test_images_of_different_grids_through_one_masker_at_once(bold, bold_values, atlas):
    affine = AFFINE @ np.diag([2.0, 2.0, 2.0, 1.0])
    small = image(bold_values[::2, ::2, ::2].astype("int16"), affine)
    masker = NiftiLabelsMasker(image(atlas)).fit()
    expected = [masker.transform(img) for img in (bold, small)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(masker.transform, [bold, small] * 6))
    for number, signals in enumerate(found):
        np.testing.assert_array_equal(signals, expected[number % 2])
    assert masker.inverse_transform(expected[0]).shape == (9, 8, 7, 120)
    assert masker.fit(small).inverse_transform(expected[1]).shape == (5, 4, 4, 120)


def test_images_that_hold_no_real_numbers_are_refused(bold_values, atlas):
    masker = NiftiLabelsMasker(image(atlas)).fit()
    with pytest.raises(TypeError, match="real numbers"):
        masker.transform(image(bold_values.astype("c8")))
    colours = np.zeros((9, 8, 7), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(ValueError, match="colours"):
        masker.transform(image(colours))


# ---------------------------------------------------------------------- back to an image


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_back_is_that_of_nilearn(kind, bold_values, bold, atlas, mask, maps):
    nilearn = pytest.importorskip("nilearn.maskers")
    import penstock.fmri as own

    options = {"mask_img": image(mask)} if kind == "spheres" else {}
    ours = made(kind, own, atlas, mask, maps).set_params(**options)
    theirs = made(kind, nilearn, atlas, mask, maps).set_params(**options)
    signals = ours.fit_transform(bold)[:5]
    peer(theirs, bold_values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.inverse_transform(signals).get_fdata()
        one = theirs.inverse_transform(signals[0]).get_fdata()
    found = ours.inverse_transform(signals)
    assert found.header.get_zooms()[3] == 2.0
    np.testing.assert_allclose(found.get_fdata(), expected, rtol=1e-6)
    np.testing.assert_allclose(ours.inverse_transform(signals[0]).get_fdata(), one, rtol=1e-6)
    with pytest.raises(ValueError, match=str(signals.shape[1])):
        ours.inverse_transform(signals[:, :-1])


@pytest.mark.parametrize("name", ["back.nii.gz", "back.nii", "back.zarr"])
def test_the_way_back_is_written_some_volumes_at_a_time(name, bold, atlas, tmp_path):
    masker = NiftiLabelsMasker(image(atlas))
    signals = masker.fit_transform(bold)
    path = masker.inverse_transform(signals, tmp_path / name)
    assert path == tmp_path / name
    ds = ps.open_dataset(path)
    np.testing.assert_allclose(ds.affine.values, AFFINE)
    assert ps.sampling_frequency(ds) == 0.5
    np.testing.assert_allclose(
        ds.signal.values, masker.inverse_transform(signals).get_fdata(), rtol=1e-6
    )


# ---------------------------------------------------------------------- wrong input


def test_wrong_input_is_one_sentence(bold, bold_values, atlas, mask, confounds, tmp_path):
    masker = NiftiLabelsMasker(image(atlas)).fit()
    with pytest.raises(ValueError, match=r"119.*120|120.*119"):
        masker.transform(bold, confounds[:119])
    with pytest.raises(ValueError, match=r"200|confounds"):
        masker.transform(bold, np.random.default_rng(0).normal(size=(120, 200)))
    with pytest.raises(FileNotFoundError, match="no such file"):
        NiftiLabelsMasker(tmp_path / "atlas.nii.gz").fit()
    with pytest.raises(FileNotFoundError, match="no such file"):
        masker.transform(tmp_path / "bold.nii.gz")
    with pytest.raises(ValueError, match="4"):
        NiftiLabelsMasker(image(bold_values.astype("int16"))).fit()
    with pytest.raises(ValueError, match=r"maps_img holds no map"):
        NiftiMapsMasker(image(np.zeros_like(mask))).fit()
    with pytest.raises(ValueError, match=r"empty|no voxel|zero"):
        NiftiMasker(image(np.zeros_like(mask))).fit_transform(bold)
    with pytest.raises(TypeError, match="an image is a path"):
        masker.transform(bold_values)
    with pytest.raises(ValueError, match="known are 'zscore_sample', 'psc'"):
        NiftiLabelsMasker(image(atlas), standardize="zscor").fit()
    with pytest.raises(TypeError, match="given twice"):
        NiftiLabelsMasker(image(atlas), clean_args={"detrend": True}).fit()
    with pytest.raises(ValueError, match="no labels_img"):
        NiftiLabelsMasker().fit()
    with pytest.warns(UserWarning, match="nothing is cached"):
        NiftiLabelsMasker(image(atlas), memory="nilearn_cache").fit_transform(bold)
    outside = np.zeros_like(mask)
    outside[0, 0, 0] = 1
    with pytest.raises(ValueError, match=r"no label|no region|vanish|outside"):
        NiftiLabelsMasker(image(atlas), mask_img=image(outside)).fit_transform(bold)
    some = np.zeros_like(mask)
    some[atlas == 6] = 1
    with pytest.warns(UserWarning, match="3"):
        left = NiftiLabelsMasker(image(atlas), mask_img=image(some)).fit_transform(bold)
    assert left.shape == (120, 1)


def test_a_file_that_is_cut_short_is_named(bold, atlas, tmp_path):
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(Path(bold).read_bytes()[:-2000])
    with pytest.raises(OSError, match=r"cut\.nii\.gz.*cut short"):
        NiftiLabelsMasker(image(atlas)).fit_transform(cut)


def test_real_data_with_a_slope(data):
    nilearn = pytest.importorskip("nilearn.maskers")
    path = data / "fmri/studyforrest_localizer/sub-02_task-oneback_run-1_bold.nii.gz"
    ds = ps.open_dataset(path)
    labels = np.zeros((80, 80, 35), "int16")
    labels[20:60, 20:60, 8:28] = 1 + np.arange(40 * 40 * 20).reshape(40, 40, 20) // 800
    atlas = SpatialImage(labels, ds.affine.values)
    options = {
        "detrend": True, "standardize": "zscore_sample", "low_pass": 0.1, "high_pass": 0.01,
    }  # fmt: skip
    ours = NiftiLabelsMasker(atlas, **options).fit_transform(path)
    from penstock.fmri.images.images import to_nibabel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = nilearn.NiftiLabelsMasker(
            to_nibabel(atlas), t_r=2.0, reports=False, **options
        ).fit_transform(str(path))
    assert ours.shape == (156, 40)
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * np.abs(theirs).max())
    exact = NiftiLabelsMasker(atlas, **options).fit_transform(
        ps.open_dataset(path, dtype="float64")
    )
    np.testing.assert_allclose(exact, theirs, atol=1e-10 * np.abs(theirs).max())


def test_haxby_runs_are_cleaned_one_by_one(data):
    nilearn = pytest.importorskip("nilearn.maskers")
    folder = data / "fmri/haxby_slice"
    table = pd.read_csv(folder / "attributes.txt", sep=" ", header=None)
    runs = table.iloc[:, 1].to_numpy()
    options = {"detrend": True, "standardize": "zscore_sample"}
    ours = NiftiMasker(folder / "mask.nii.gz", runs=runs, **options).fit_transform(
        folder / "bold.nii.gz"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = nilearn.NiftiMasker(
            str(folder / "mask.nii.gz"), runs=runs, reports=False, **options
        ).fit_transform(str(folder / "bold.nii.gz"))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("kind", ["voxels", "labels", "maps", "spheres"])
def test_a_page_shows_the_regions(kind, bold, atlas, mask, maps, tmp_path):
    pytest.importorskip("matplotlib")
    import penstock.fmri as own

    masker = made(kind, own, atlas, mask, maps, detrend=True)
    masker.fit_transform(bold)
    page = masker.generate_report(bold).save_as_html(tmp_path / "masker.html").read_text()
    assert f"{type(masker).__name__}: {masker.n_elements_} columns" in page
    assert "data:image/png" in page
    assert "detrend" in page
    assert "low_pass" not in page
    assert str(masker.get_feature_names_out()[-1]) in page


def test_a_page_tells_how_large_regions_are(bold, atlas):
    pytest.importorskip("matplotlib")
    masker = NiftiLabelsMasker(image(atlas)).fit()
    page = str(masker.generate_report(bold))
    counts = np.bincount(np.asarray(atlas).astype(int).ravel())[1:]
    told = re.findall(r"data-label='voxels'>(\d+)<", page)
    assert told == [str(n) for n in counts if n]
    voxel = abs(np.linalg.det(image(atlas).affine[:3, :3]))
    assert f"data-label='volume'>{counts[counts > 0][0] * voxel:.6g} mm³<" in page


def test_a_page_is_short_where_it_is_printed_and_opens_in_a_browser(bold, atlas, monkeypatch):
    pytest.importorskip("matplotlib")
    page = NiftiLabelsMasker(image(atlas)).fit().generate_report(bold)
    assert repr(page).startswith("<MaskerReport of NiftiLabelsMasker")
    assert len(repr(page)) < 120
    shown = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    path = page.open_in_browser()
    assert shown == [path.as_uri()]
    assert "data:image/png" in path.read_text()
    path.unlink()


def test_single_volumes_in_a_list_are_one_pass(bold_values, atlas, mask):
    images = [image(bold_values[..., i].astype("int16")) for i in range(7)]
    series = image(bold_values[..., :7].astype("int16"))
    single = NiftiLabelsMasker(image(atlas))
    np.testing.assert_array_equal(single.fit_transform(images), single.fit_transform(series))
    rows = MultiNiftiMasker(image(mask)).fit().transform(images)
    expected = NiftiMasker(image(mask)).fit_transform(series)
    assert [row.shape for row in rows] == [(int(mask.sum()),)] * 7
    np.testing.assert_array_equal(np.stack(rows), expected)


def test_confounds_of_images_that_follow_each_other(bold, bold_values, atlas, confounds):
    other = image(bold_values[..., :50].astype("int16"))
    masker = NiftiLabelsMasker(image(atlas), runs=[0] * 120 + [1] * 50).fit()
    tables = [confounds, confounds[:50] ** 2]
    found = masker.transform([bold, other], tables)
    np.testing.assert_allclose(found, masker.transform([bold, other], np.vstack(tables)))
    aside = NiftiLabelsMasker(image(atlas)).fit()
    halves = [confounds[:, :2], confounds[:, 2:]]
    np.testing.assert_allclose(aside.transform(bold, halves), aside.transform(bold, confounds))
    with pytest.raises(ValueError, match="120"):
        masker.transform([bold, other], [confounds, confounds])


def test_confounds_of_fmriprep_and_their_columns(bold, atlas, confounds, tmp_path):
    path = tmp_path / "sub-01_task-rest_desc-preproc_bold.nii.gz"
    path.write_bytes(Path(bold).read_bytes())
    table = pd.DataFrame(confounds, columns=["trans_x", "trans_y", "rot_z", "csf"])
    table.insert(0, "framewise_displacement", [np.nan] * 2 + [0.1] * 118)
    name = "sub-01_task-rest_desc-confounds_timeseries.tsv"
    table.to_csv(tmp_path / name, sep="\t", index=False, na_rep="n/a")
    masker = NiftiLabelsMasker(image(atlas), confound_columns=("trans_*", "rot_z"))
    expected = NiftiLabelsMasker(image(atlas)).fit_transform(bold, confounds=confounds[:, :3])
    np.testing.assert_allclose(masker.fit_transform(path, confounds="auto"), expected, atol=1e-9)
    report = masker.pipeline("auto").run(path, tmp_path / "out", format="csv", progress=False)
    assert report.ok, report.failed
    made = pd.read_csv(next((tmp_path / "out").glob("*.csv"))).drop(columns="time")
    np.testing.assert_allclose(made, expected, atol=1e-9)
    with pytest.raises(ValueError, match="framewise_displacement"):
        NiftiLabelsMasker(image(atlas)).fit_transform(path, confounds="auto")


def test_patterns_name_images_that_follow_each_other(bold, bold_values, atlas, tmp_path):
    for i in (1, 2):
        image(bold_values[..., : 10 * i].astype("int16")).to_filename(tmp_path / f"run{i}.nii.gz")
    masker = NiftiLabelsMasker(image(atlas)).fit()
    assert masker.transform(str(tmp_path / "run*.nii.gz")).shape == (30, 12)
    assert masker.fit_transform(str(tmp_path / "run*.nii.gz")).shape == (30, 12)
    multi = MultiNiftiLabelsMasker(image(atlas)).fit()
    assert [s.shape for s in multi.transform(str(tmp_path / "run*.nii.gz"))] == [(10, 12), (20, 12)]
    with pytest.raises(FileNotFoundError, match="no file matches"):
        masker.transform(str(tmp_path / "sub*.nii.gz"))


def test_double_precision_is_asked_for_by_dtype(data):
    path = data / "fmri/studyforrest_localizer/sub-02_task-oneback_run-1_bold.nii.gz"
    wide = ps.open_dataset(path, dtype="float64")
    block = np.zeros((80, 80, 35), "uint8")
    block[30:50, 30:50, 10:20] = 1
    mask = SpatialImage(block, wide.affine.values)
    signals = NiftiMasker(mask, standardize="psc", dtype="float64").fit_transform(path)
    assert signals.dtype == np.float64
    np.testing.assert_array_equal(signals, NiftiMasker(mask, standardize="psc").fit_transform(wide))


def test_slips_are_told_in_one_sentence(bold, atlas, tmp_path):
    masker = NiftiLabelsMasker(image(atlas))
    with pytest.raises(TypeError, match="takes a list of maskers"):
        extract(bold, masker)
    with pytest.raises(TypeError, match=r"NiftiLabelsMasker\(atlas\)"):
        extract(bold, ["atlas.nii.gz"])
    with pytest.raises(ValueError, match=r"list of \(x, y, z\)"):
        NiftiSpheresMasker((0, 0, 0), radius=5).fit()
    with pytest.raises(ValueError, match=r"one of 'mean', .*'variance', got 'men'"):
        NiftiLabelsMasker(image(atlas), strategy="men").fit()
    masker.fit().transform(bold, out=tmp_path / "x.zarr")
    other = NiftiLabelsMasker(image(atlas), detrend=True).fit()
    with pytest.raises(ValueError, match="overwrite"):
        other.transform(bold, out=tmp_path / "x.zarr")
    made = other.transform(bold, out=tmp_path / "x.zarr", overwrite=True)
    np.testing.assert_allclose(made.signal.values.T, other.transform(bold), atol=1e-9)
    with pytest.raises(ValueError, match=r"\(10, 5\).*12 columns"):
        masker.inverse_transform(np.zeros((10, 5)))


def test_fitted_images_are_there_as_in_nilearn(atlas, mask, bold, tmp_path):
    import nibabel

    masker = NiftiLabelsMasker(image(atlas), mask_img=image(mask)).fit(bold)
    np.testing.assert_array_equal(masker.labels_img_.get_fdata(), atlas)
    np.testing.assert_array_equal(masker.mask_img_.get_fdata(), mask)
    assert list(masker.lut_["index"]) == masker.labels_
    assert not hasattr(masker, "maps_img_")
    assert NiftiLabelsMasker(image(atlas)).fit().mask_img_ is None
    found = SpatialImage(mask.astype(bool), AFFINE)
    nibabel.save(found, tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(nibabel.load(tmp_path / "mask.nii.gz").get_fdata(), mask)


def test_components_are_computed_once_for_all_maskers(bold, atlas, mask):
    options = {"high_variance_confounds": True, "detrend": True}
    maskers = [NiftiLabelsMasker(image(atlas), **options), NiftiMasker(image(mask), **options)]
    expected = [masker.fit_transform(bold) for masker in maskers]
    close_streams(bold)
    found = extract(bold, maskers)
    (stream,) = open_streams(bold)
    # (one pass for the signals, two for the components)
    assert stream.inflated <= 3 * (352 + 9 * 8 * 7 * 120 * 2)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
