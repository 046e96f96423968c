"""Whatever holds images is taken: lists, patterns, home folders; what holds none is told so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_images import AFFINE, image

from penstock.fmri import (
    ExtractMaps,
    NiftiLabelsMasker,
    NiftiMapsMasker,
    NiftiMasker,
    as_volumes,
    compute_mask,
    high_variance_confounds,
    load_image,
    mean_image,
)

SHAPE = (6, 7, 8)


def values(*n, seed=0):
    return np.random.default_rng(seed).uniform(1, 2, (*SHAPE, *n)).astype("f4")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with volumes, maps and a mask in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for number in range(3):
        image(values(4, seed=number)).to_filename(tmp_path / f"run-{number}_bold.nii.gz")
        image(values(seed=10 + number)).to_filename(tmp_path / f"map-{number}.nii")
    image(np.ones(SHAPE, "u1")).to_filename(tmp_path / "mask.nii")
    return tmp_path


def expected_volumes():
    return np.concatenate([values(4, seed=number) for number in range(3)], axis=-1)


def test_maps_are_one_image_or_a_list_or_a_pattern(home):
    bold = image(values(5))
    maps = np.stack([values(seed=10 + number) for number in range(3)], axis=-1)
    right = NiftiMapsMasker(image(maps)).fit_transform(bold)
    listed = [image(maps[..., i]) for i in range(3)]
    for given in (
        listed,
        tuple(listed),
        [image(maps[..., :2]), listed[2]],
        "~/map-*.nii",
        Path("~/map-*.nii"),
        [str(home / f"map-{i}.nii") for i in range(3)],
        [Path("~/map-0.nii"), listed[1], image(maps[..., 2:])],
    ):
        np.testing.assert_allclose(NiftiMapsMasker(given).fit_transform(bold), right, rtol=1e-9)
    np.testing.assert_allclose(
        NiftiMapsMasker(listed[1]).fit_transform(bold),
        NiftiMapsMasker(image(maps[..., 1:2])).fit_transform(bold),
    )
    assert ExtractMaps(listed).maps_img.shape == (*SHAPE, 3)
    assert load_image("~/map-*.nii", ndim=4).shape == (*SHAPE, 3)


def test_a_mask_of_several_volumes_holds_where_all_of_them_do():
    mask = np.ones((*SHAPE, 2), "u1")
    mask[:3, ..., 0] = 0
    mask[..., :2, 1] = 0
    bold = image(values(5))
    right = NiftiMasker(image(mask.all(axis=-1).astype("u1"))).fit_transform(bold)
    for given in (image(mask), [image(mask[..., 0]), image(mask[..., 1])]):
        np.testing.assert_array_equal(NiftiMasker(given).fit_transform(bold), right)
    labels = image(np.ones(SHAPE, "i2"))
    np.testing.assert_allclose(
        NiftiLabelsMasker(labels, mask_img=image(mask)).fit_transform(bold)[:, 0],
        right.mean(axis=1, dtype="f8"),
    )
    one = image(mask[..., :1])
    assert NiftiMasker(one).fit().mask_img_.shape == SHAPE


def test_images_of_a_pattern_or_a_list_follow_each_other(home):
    masker = NiftiMasker("~/mask.nii").fit()
    right = expected_volumes().reshape(-1, 12).T
    volumes = [image(values(4, seed=0)[..., i]) for i in range(4)]
    for given in (
        "~/run-*_bold.nii.gz",
        Path("~/run-*_bold.nii.gz"),
        [home / f"run-{number}_bold.nii.gz" for number in range(3)],
        [volumes, "~/run-1_bold.nii.gz", image(values(4, seed=2))],
    ):
        np.testing.assert_array_equal(masker.transform(given), right)
        assert NiftiMasker(image(np.ones(SHAPE, "u1"))).fit_transform(given).shape == right.shape
    assert as_volumes("~/run-*_bold.nii.gz").sizes["time"] == 12
    np.testing.assert_allclose(mean_image("~/run-*.nii.gz").data, expected_volumes().mean(-1), 1e-6)
    np.testing.assert_allclose(
        high_variance_confounds("~/run-*.nii.gz", percentile=10),
        high_variance_confounds(expected_volumes().reshape(-1, 12).T.astype("f8"), percentile=10),
        atol=1e-6,
    )
    assert masker.transform(image(values())).shape == (np.prod(SHAPE),)


def test_tables_in_the_home_folder(home):
    (home / "lut.tsv").write_text("index\tname\n1\tvisual\n")
    (home / "confounds.tsv").write_text("csf\n" + "\n".join(map(str, range(5))) + "\n")
    masker = NiftiLabelsMasker(image(np.ones(SHAPE, "i2")), lut="~/lut.tsv").fit()
    assert masker.region_names_ == {0: "visual"}
    assert masker.transform(image(values(5)), confounds="~/confounds.tsv").shape == (5, 1)
    masker.set_params(lut=Path("~/lut.tsv")).fit()
    assert masker.region_names_ == {0: "visual"}


def test_surfaces_are_told_to_be_unsupported():
    surface = SimpleNamespace(mesh=None, data=SimpleNamespace(parts={}))
    labels = image(np.ones(SHAPE, "i2"))
    for call in (
        lambda: NiftiLabelsMasker(surface).fit(),
        lambda: NiftiLabelsMasker(labels).fit(surface),
        lambda: NiftiLabelsMasker(labels).fit().transform(surface),
        lambda: NiftiMasker(surface).fit(),
        lambda: NiftiMasker().fit([surface]),
        lambda: compute_mask(surface),
    ):
        with pytest.raises(TypeError, match="surfaces are not supported yet"):
            call()


def test_lists_that_do_not_go_together(tmp_path):
    far = AFFINE @ np.diag([2.0, 2, 2, 1])
    with pytest.raises(ValueError, match="image 2 of the list maps_img lies on another"):
        NiftiMapsMasker([image(values()), image(values(), far)]).fit()
    with pytest.raises(ValueError, match="empty list"):
        NiftiMapsMasker([]).fit()
    with pytest.raises(ValueError, match="4 dims"):
        NiftiLabelsMasker([image(np.ones(SHAPE, "i2"))] * 2).fit()
    with pytest.raises(FileNotFoundError, match="no file matches"):
        NiftiMapsMasker(str(tmp_path / "map-*.nii")).fit()
    with pytest.raises(ValueError, match="no images given"):
        NiftiMasker(image(np.ones(SHAPE, "u1"))).fit().transform([])
