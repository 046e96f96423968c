"""What a fitted masker knows: names, attributes, and that using it does not change it."""

from __future__ import annotations

import copy
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import sklearn
from small_images import AFFINE, image

from penstock.fmri import (
    MultiNiftiLabelsMasker,
    NiftiLabelsMasker,
    NiftiMapsMasker,
    NiftiMasker,
    NiftiSpheresMasker,
    extract,
    plot_regions,
)
from penstock.fmri.images.images import SpatialImage
from penstock.fmri.maskers.regions import regions_and_names
from penstock.processor import Processor

SHAPE = (12, 12, 12)


def bold(shape=SHAPE, n=6, affine=AFFINE, seed=0):
    values = np.random.default_rng(seed).normal(100, 5, (*shape, n)).astype("f4")
    return image(values, affine)


def atlas(*values, shape=SHAPE):
    labels = np.zeros(shape, "i2")
    for i, value in enumerate(values):
        labels[1 + 2 * i : 3 + 2 * i, 2:10, 2:10] = value
    return labels


def two_grids():
    """Labels of which a small one is lost on the coarse grid, and images on both grids."""
    labels = np.zeros((20, 20, 20), "i2")
    labels[:10], labels[10:], labels[9, 9, 9] = 1, 2, 3
    coarse = AFFINE @ np.diag([2.0, 2, 2, 1])
    return image(labels), bold((20, 20, 20)), bold((10, 10, 10), affine=coarse)


def fitted(kind, img=None):
    masks = np.zeros(SHAPE, "u1")
    masks[2:9, 2:9, 2:9] = 1
    weights = np.random.default_rng(1).random((*SHAPE, 3)).astype("f4")
    return {
        "labels": lambda: NiftiLabelsMasker(image(atlas(2, 5, 8))),
        "maps": lambda: NiftiMapsMasker(image(weights)),
        "spheres": lambda: NiftiSpheresMasker(world((3, 3, 3), (8, 8, 8)), mask_img=image(masks)),
        "voxels": lambda: NiftiMasker(image(masks)),
    }[kind]().fit(img)


def world(*voxels):
    return [tuple((AFFINE @ [*voxel, 1])[:3]) for voxel in voxels]


def frozen(masker):
    """All that a masker holds; images and processors are equal where their content is."""
    kept = copy.deepcopy(vars(masker))
    return {
        name: value if isinstance(value, SpatialImage | Processor) else pickle.dumps(value)
        for name, value in kept.items()
    }


KINDS = ["labels", "maps", "spheres", "voxels"]

# ---------------------------------------------------------------------- unchanged by use


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_using_a_fitted_masker_does_not_change_it(kind, seen, tmp_path):
    img = bold()
    masker = fitted(kind, img if seen else None)
    before = frozen(masker)
    signals = masker.transform(img)
    elsewhere = bold((10, 9, 8), affine=AFFINE @ np.diag([1.5, 1.5, 1.5, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masker.transform(elsewhere)
        extract(elsewhere, [masker])
    masker.inverse_transform(signals)
    masker.get_feature_names_out()
    masker.generate_report()
    plot_regions(masker)
    masker.transform(img, out=tmp_path / "signals.zarr")
    masker.pipeline()
    assert frozen(masker) == before
    np.testing.assert_array_equal(masker.transform(img), signals)


@pytest.mark.filterwarnings("ignore:ExtractLabels")
@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_threads_share_a_fitted_masker(kind):
    pytest.importorskip(kind)
    labels, fine, coarse = two_grids()
    masker = NiftiLabelsMasker(labels, labels=["a", "b", "c"]).fit().set_output(transform=kind)

    def columns(number):
        return list(masker.transform(fine if number % 2 else coarse).columns)

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(columns, range(24)))
    assert found == [["a", "b"], ["a", "b", "c"]] * 12


@pytest.mark.filterwarnings("ignore:ExtractLabels")
def test_the_way_back_is_that_of_fit():
    labels, fine, coarse = two_grids()
    masker = NiftiLabelsMasker(labels).fit(fine)
    signals = masker.transform(fine)
    before = np.asarray(masker.inverse_transform(signals).dataobj)
    masker.transform(coarse)
    np.testing.assert_array_equal(np.asarray(masker.inverse_transform(signals).dataobj), before)
    assert masker.region_names_ == {0: "1", 1: "2", 2: "3"}


def test_frames_where_scikit_learn_is_configured_for_them():
    with sklearn.config_context(transform_output="pandas"):
        frame = fitted("labels").transform(bold())
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["2", "5", "8"]


@pytest.mark.filterwarnings("ignore:ExtractLabels")
def test_each_image_of_several_has_its_own_columns():
    labels, fine, coarse = two_grids()
    masker = MultiNiftiLabelsMasker(labels, labels=["a", "b", "c"]).fit()
    frames = masker.set_output(transform="pandas").transform([fine, coarse])
    assert [list(frame.columns) for frame in frames] == [["a", "b", "c"], ["a", "b"]]


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_pickles_are_fitted(kind):
    img = bold()
    masker = fitted(kind, img)
    expected = masker.transform(img)
    for other in (copy.deepcopy(masker), pickle.loads(pickle.dumps(masker))):
        np.testing.assert_array_equal(other.transform(img), expected)
    unfitted = sklearn.clone(masker)
    for name in ("mask_img_", "labels_img_", "maps_img_", "lut_", "region_ids_", "region_atlas_"):
        assert not hasattr(unfitted, name)


# ---------------------------------------------------------------------- attributes


def test_fitted_attributes_are_those_of_nilearn():
    nilearn = pytest.importorskip("nilearn.maskers")
    fine = np.kron(atlas(2, 5, 8), np.ones((2, 2, 2))).astype("i2")
    fine = image(fine, AFFINE @ np.diag([0.5, 0.5, 0.5, 1]))
    mask = np.zeros(SHAPE, "u1")
    mask[:5] = 1
    img = bold()
    table = pd.DataFrame({"index": [2, 5, 8], "name": ["a", "b", "c"], "color": ["#1", "#2", "#3"]})
    for options in ({}, {"labels": ["a", "b", "c"]}, {"lut": table}, {"mask_img": image(mask)}):
        found = []
        for masker in (
            NiftiLabelsMasker(fine, **options),
            nilearn.NiftiLabelsMasker(fine, **options),
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                masker.fit(img).transform(img)
            found.append(masker)
        ours, theirs = found
        assert ours.region_ids_ == theirs.region_ids_
        assert ours.region_names_ == theirs.region_names_
        assert ours.labels_ == theirs.labels_
        assert ours.n_elements_ == theirs.n_elements_
        assert list(ours.get_feature_names_out()) == list(theirs.get_feature_names_out())
        assert ours.clean_args_ == theirs.clean_args_
        pd.testing.assert_frame_equal(ours.lut_, theirs.lut_, check_dtype=False)
        for name in ("labels_img_", "region_atlas_", "mask_img_"):
            one, other = getattr(ours, name), getattr(theirs, name)
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
                np.testing.assert_allclose(one.affine, other.affine)


def test_maps_and_masks_lie_on_the_grid_of_the_image():
    coarse = bold((6, 6, 6), affine=AFFINE @ np.diag([2.0, 2, 2, 1]))
    weights = np.random.default_rng(1).random((*SHAPE, 3)).astype("f4")
    mask = image(np.ones(SHAPE, "u1"))
    masker = NiftiMapsMasker(image(weights), mask_img=mask)
    assert masker.fit().maps_img_.shape == (*SHAPE, 3)
    assert masker.fit(coarse).maps_img_.shape == (6, 6, 6, 3)
    assert masker.mask_img_.shape == (6, 6, 6)
    spheres = NiftiSpheresMasker(world((3, 3, 3)), mask_img=mask).fit(coarse)
    assert spheres.mask_img_.shape == (6, 6, 6)


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("values", "background", "names"),
    [
        ((2, 5, 8), 0, {2: "2", 5: "5", 8: "8"}),
        ((2, 5, 8), 5, {1: "0", 2: "2", 3: "8"}),  # (a label 0 is a region here)
        ((7,), 0, {7: "7"}),
        ((-3, 4), 0, {-3: "-3", 4: "4"}),
    ],
)
def test_pictures_call_labels_by_their_values(values, background, names):
    labels = atlas(*values)
    masker = NiftiLabelsMasker(image(labels), background_label=background).fit()
    picture, found = regions_and_names(masker)
    assert found == names
    where = {int(name): number for number, name in names.items()}
    expected = np.vectorize(lambda value: where.get(value, 0))(labels)
    np.testing.assert_array_equal(picture.data, expected)


def test_pictures_call_regions_by_their_names():
    labels = image(atlas(2, 5, 8))
    masker = NiftiLabelsMasker(labels, labels=["visual", "motor", "insula"]).fit()
    assert listed(masker) == ["visual", "motor", "insula"]
    one = NiftiLabelsMasker(image(atlas(5)), labels=["motor"]).fit()
    assert listed(one) == ["motor"]
    table = pd.DataFrame({"index": [8, 0, 5, 6], "name": ["insula", "sea", "motor", "gone"]})
    assert listed(NiftiLabelsMasker(labels, lut=table).fit()) == ["2", "motor", "insula"]


@pytest.mark.filterwarnings("ignore:ExtractLabels")
def test_pictures_after_regions_are_lost():
    mask = np.ones(SHAPE, "u1")
    mask[:3] = 0
    masker = NiftiLabelsMasker(
        image(atlas(2, 5, 8)), labels=["visual", "motor", "insula"], mask_img=image(mask)
    ).fit()
    assert listed(masker) == ["motor", "insula"] == list(masker.get_feature_names_out())
    picture, names = regions_and_names(masker)
    assert (np.unique(picture.data).tolist(), names) == ([0, 5, 8], {5: "motor", 8: "insula"})


@pytest.mark.filterwarnings("ignore:ExtractMaps")
def test_maps_keep_their_names_where_some_are_lost():
    weights = np.random.default_rng(1).random((*SHAPE, 3)).astype("f4")
    weights[..., 1] = 0
    masker = NiftiMapsMasker(image(weights)).fit()
    picture, names = regions_and_names(masker)
    assert names == {0: "0", 1: "2"}
    np.testing.assert_array_equal(picture.data, weights[..., [0, 2]])
    frame = masker.set_output(transform="pandas").transform(bold())
    assert list(frame.columns) == ["0", "2"]


def test_spheres_that_overlap_keep_their_names():
    seeds = world((4, 6, 6), (9, 2, 2), (7, 6, 6))
    masker = NiftiSpheresMasker(seeds, radius=7.0, allow_overlap=True).fit(bold())
    picture, names = regions_and_names(masker)
    assert list(names.values()) == list(masker.get_feature_names_out())
    # (no average of 1 and 3 where those two meet)
    assert (
        np.argwhere(picture.data == 2)[:, 1].max() < 5 < np.argwhere(picture.data == 1)[:, 1].max()
    )


def listed(masker):
    """Names that stand beside the picture of a masker."""
    axes = plot_regions(masker)
    legend = axes[2].get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    import matplotlib.pyplot as plt

    plt.close(axes[0].figure)
    return names


def test_the_name_of_the_background_is_no_region():
    for values, labels in (
        ((2, 5, 8), ["a", "b", "c"]),
        ((2, 5, 8), ["background", "a", "b", "c"]),
        ((-3, 4, 6), ["a", "Background", "b", "c"]),  # (0 lies between them)
    ):
        masker = NiftiLabelsMasker(image(atlas(*values)), labels=labels).fit()
        assert masker.region_names_ == {0: "a", 1: "b", 2: "c"}
        assert [masker.region_ids_[i] for i in range(3)] == list(values)
    masker.set_params(labels=None, lut={4: "b", -3: "a"}).fit()
    assert list(masker.lut_["name"]) == ["a", "Background", "b", "6"]


def test_all_cores_as_joblib_counts_them():
    img = bold()
    for n_jobs in (-1, -2, 1, None):
        masker = MultiNiftiLabelsMasker(image(atlas(2, 5)), n_jobs=n_jobs)
        assert [signals.shape for signals in masker.fit_transform([img, img])] == [(6, 2)] * 2
        assert masker.transform(img).shape == (6, 2)


def test_tables_lists_and_dictionaries_of_names_for_plots():
    labels = image(atlas(2, 5, 8))
    expected = ["visual", "motor", "insula"]
    one = plot_regions(image(atlas(5)), names={5: "motor"})
    assert [text.get_text() for text in one[2].get_legend().get_texts()] == ["motor"]
    for names in (
        expected,
        ["Background", *expected],
        {8: "insula", 2: "visual", 5: "motor", 6: "gone"},
    ):
        axes = plot_regions(labels, names=names)
        assert [text.get_text() for text in axes[2].get_legend().get_texts()] == expected


# ---------------------------------------------------------------------- told at fit


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"dtype": bool}, TypeError, "bool"),
        ({"dtype": "words"}, TypeError, "type of numbers"),
        ({"strategy": "middle"}, ValueError, "middle"),
        ({"resampling_target": "mask"}, ValueError, "resampling_target"),
        ({"nan_policy": "drop"}, ValueError, "nan_policy"),
        ({"smoothing_fwhm": "fast"}, TypeError, "smoothing_fwhm"),
        ({"smoothing_fwhm": -1.0}, ValueError, "negative"),
        ({"standardize": "zscore"}, ValueError, "zscore_sample"),
        ({"low_pass": 0.01, "high_pass": 0.1}, ValueError, "below"),
        ({"labels": ["a", "b", "c", "d"]}, ValueError, "4 names"),
        ({"labels": ["Background", "a", "b"]}, ValueError, "2 names"),
        ({"lut": pd.DataFrame({"index": [2, 2], "name": ["a", "b"]})}, ValueError, "two names"),
        ({"lut": pd.DataFrame({"index": [2, np.nan], "name": ["a", "b"]})}, ValueError, "whole"),
        ({"lut": pd.DataFrame({"value": [2], "name": ["a"]})}, ValueError, "no column 'index'"),
        ({"smoothing_fwhm": [1.0, 2.0, 3.0]}, TypeError, "smoothing_fwhm"),
        ({"n_jobs": 0}, ValueError, "n_jobs"),
        ({"labels": "abc"}, TypeError, "labels"),
        ({"labels": [1, 2, 3]}, TypeError, "labels"),
        ({"labels": ["a"], "lut": "table.tsv"}, ValueError, "not both"),
        ({"clean_args": {"detrend": True}}, TypeError, "twice"),
        ({"clean_args": {"oder": 2}}, TypeError, "oder"),
        ({"detrend": "no"}, TypeError, "detrend is True or False"),
        ({"detrend": 2}, TypeError, "detrend is True or False"),
        ({"standardize_confounds": "no"}, TypeError, "standardize_confounds is True or False"),
        ({"high_variance_confounds": "x"}, TypeError, "high_variance_confounds is True or"),
        ({"keep_masked_labels": "yes"}, TypeError, "keep_masked_labels is True or False"),
        ({"confound_strategy": "moton"}, ValueError, "unknown strategy 'moton'"),
        ({"confound_strategy": 3}, TypeError, "confound_strategy"),
        ({"confound_strategy": "motion", "confound_options": {"fd": 1}}, TypeError, "fd"),
        ({"confound_options": {"motion": "ful"}}, ValueError, "ful"),
        ({"confound_strategy": "motion", "confound_columns": ["a"]}, ValueError, "give one"),
        ({"memory": -5}, ValueError, "memory"),
        ({"memory": 0}, ValueError, "memory"),
        ({"clean_args": {"ensure_finite": "no"}}, TypeError, "ensure_finite is True or False"),
        ({"clean_args": {"butterworth__order": "x"}}, TypeError, "order is the whole-numbered"),
        ({"confound_options": {"fd_threshold": "x"}}, ValueError, "fd_threshold must be a number"),
        ({"memory": True}, TypeError, "memory"),
        ({"n_jobs": 1.5}, TypeError, "n_jobs is a number of threads"),
        ({"n_jobs": "x"}, TypeError, "n_jobs is a number of threads"),
    ],
)
def test_wrong_parameters_are_told_at_fit(options, kind, words, tmp_path):
    never = tmp_path / "never.nii.gz"
    never.write_bytes(b"this is not read")
    with pytest.raises(kind, match=words) as told:
        NiftiLabelsMasker(image(atlas(2, 5, 8)), **options).fit()
    assert "\n" not in str(told.value)


def test_switches_may_be_those_of_numpy():
    right = NiftiLabelsMasker(image(atlas(2, 5)), detrend=True).fit_transform(bold())
    for on in (np.True_, 1):
        found = NiftiLabelsMasker(image(atlas(2, 5)), detrend=on).fit_transform(bold())
        assert np.array_equal(found, right)


def test_a_wrong_way_to_a_mask_is_told_where_a_mask_is_given_too():
    with pytest.raises(ValueError, match="mask_strategy must be one of 'background'"):
        NiftiMasker(image(np.ones(SHAPE, "u1")), mask_strategy="bla").fit()


def test_nothing_on_the_grid_is_told_at_fit():
    empty = np.zeros(SHAPE, "u1")
    empty[0, 0, 0] = 1  # (no label lies there)
    for mask in (None, image(empty)):
        labels = image(atlas(2, 5) * (mask is not None))
        with pytest.raises(ValueError, match=r"no label|no region"):
            NiftiLabelsMasker(labels, mask_img=mask).fit(bold())
    far = AFFINE.copy()
    far[:3, 3] += 500
    with pytest.raises(ValueError, match="lies elsewhere"):
        NiftiLabelsMasker(image(atlas(2, 5))).fit(bold(affine=far))


# ---------------------------------------------------------------------- words of scikit-learn


def test_images_may_be_called_x():
    img = bold()
    masker = NiftiLabelsMasker(image(atlas(2, 5)))
    expected = masker.fit_transform(img)
    np.testing.assert_array_equal(masker.fit_transform(X=img), expected)
    np.testing.assert_array_equal(masker.fit(X=img).transform(X=img), expected)


def test_resampling_that_fit_did_not_see_is_told():
    labels, fine, coarse = two_grids()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NiftiLabelsMasker(labels).fit(fine).transform(fine)
    with pytest.warns(UserWarning, match="labels_img is resampled to the image") as found:
        NiftiLabelsMasker(labels).fit(fine).transform(coarse)
    assert __file__ in {warning.filename for warning in found}
    with pytest.warns(UserWarning, match="the image is resampled"):
        NiftiLabelsMasker(labels, resampling_target="labels").fit().transform(coarse)
    elsewhere = image(np.ones(SHAPE, "u1"), AFFINE @ np.diag([2.0, 2, 2, 1]))
    weights = image(np.random.default_rng(1).random((*SHAPE, 2)).astype("f4"))
    for masker in (NiftiLabelsMasker(image(atlas(2, 5))), NiftiMapsMasker(weights)):
        masker.set_params(mask_img=elsewhere, resampling_target=None)
        with pytest.raises(ValueError, match="different voxel grids"):
            masker.fit()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "auto", None])
def test_images_of_signals_have_the_type_that_is_asked_for(dtype):
    masker = NiftiLabelsMasker(image(atlas(2, 5)), dtype=dtype).fit()
    found = masker.inverse_transform(np.full((3, 2), 7.0, "f4"))
    expected = {"auto": "float32", None: "float32"}.get(dtype, dtype)
    assert np.asarray(found.dataobj).dtype == expected == found.get_data_dtype()


def test_options_of_masks_that_mean_nothing_are_told():
    img = np.zeros((*SHAPE, 4), "f4")
    img[3:9, 3:9, 3:9] = 100
    masker = NiftiMasker(mask_args={"lower_cutoff": 0.1, "opening": 0})
    with pytest.warns(UserWarning, match="lower_cutoff mean nothing"):
        masker.fit(image(img))
    assert masker.n_elements_ == 6**3


def test_reports_draw_what_is_asked_for():
    masker = fitted("maps")
    page = masker.generate_report(title="Networks & more", displayed_maps=[0, 2])
    assert "Networks &amp; more" in page.body
    with pytest.warns(UserWarning, match="not there"):
        masker.generate_report(displayed_maps=7)
    with pytest.raises(TypeError, match="list of positions"):
        masker.generate_report(displayed_maps="some")
    spheres = fitted("spheres")
    assert spheres.generate_report(displayed_spheres=1, engine="matplotlib").body
