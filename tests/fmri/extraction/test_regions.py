"""Voxels, labels, maps and spheres to signals, by hand and as nilearn's maskers do."""

import itertools
import warnings

import numpy as np
import pytest

import penstock as ps
from penstock.fmri.extraction.regions import ExtractLabels, ExtractVoxels
from penstock.fmri.extraction.weighted import ExtractMaps, ExtractSpheres
from penstock.fmri.images.images import SpatialImage, VoxelGrid, voxel_grid
from penstock.pipeline import Pipeline
from penstock.planning.chain import Chain
from penstock.testing import check_processor

nibabel = pytest.importorskip("nibabel")

AFFINE = np.array([[-3.0, 0, 0, 30], [0, 3, 0, -40], [0, 0, 3.5, -20], [0, 0, 0, 1]])
SHAPE = (12, 11, 9)


def dataset(n_times=10, shape=SHAPE, dtype="f8", affine=AFFINE, seed=0):
    """Volumes in memory in the order of files."""
    rng = np.random.default_rng(seed)
    series = rng.normal(500, 20, (n_times, *shape[::-1])).astype(dtype).T
    return ps.make_dataset(
        series,
        ("x", "y", "z", "time"),
        sampling_frequency=0.5,
        units="a.u.",
        coords={"affine": (("affine_row", "affine_column"), affine)},
        attrs={"source": "/somewhere"},
    )


def atlas_data(n=6, shape=SHAPE, seed=1):
    """Labels 10, 20, ..., each a box cut by noise, and background."""
    rng = np.random.default_rng(seed)
    x = np.arange(shape[0])[:, None, None] * n // shape[0]
    data = np.broadcast_to(10 * (x + 1), shape).astype("i2")
    return np.where(rng.random(shape) < 0.7, data, 0)


def map_data(n=4, shape=SHAPE):
    """Overlapping bumps of limited support."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    centres = np.random.default_rng(2).uniform(2, 7, (n, 3))
    distances = ((grid[..., None, :] - centres) ** 2).sum(-1)
    return np.where(distances < 16, np.exp(-distances / 6), 0)


def saved(tmp_path, name, data, affine=AFFINE):
    path = tmp_path / f"{name}.nii.gz"
    data = data.astype("u1") if data.dtype == bool else data
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return str(path)


def image(data, affine=AFFINE):
    return SpatialImage(data, affine)


def result(processor, ds):
    chain = Chain(ds).then(processor)
    return chain.compute(chain.whole())


def outline(processor, ds):
    return Chain(ds).then(processor).output


MASK = np.random.default_rng(3).random(SHAPE) < 0.4
SEEDS = ((0.0, -25.0, -3.0), (15.3, -31.0, 4.0), (9.0, -16.0, -13.0))


# ---------------------------------------------------------------------- the contract


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
@pytest.mark.parametrize("kind", ["voxels", "labels", "median", "variance", "maps", "spheres"])
def test_processors_keep_the_contract(kind, dtype, tmp_path):
    mask = saved(tmp_path, "mask", MASK)
    labels = saved(tmp_path, "labels", atlas_data())
    processor = {
        "voxels": lambda: ExtractVoxels(mask),
        "labels": lambda: ExtractLabels(labels, lut=((10, "a"), (30, "b")), mask_img=mask),
        "median": lambda: ExtractLabels(labels, strategy="median"),
        "variance": lambda: ExtractLabels(labels, strategy="variance"),
        "maps": lambda: ExtractMaps(saved(tmp_path, "maps", map_data()), mask_img=mask),
        "spheres": lambda: ExtractSpheres(SEEDS, (6.0, 5.0, 7.5), ("a", "b", "c"), mask_img=mask),
    }[kind]()
    ds = dataset(37, dtype=dtype)
    if dtype == "f4":
        ds.signal.values[MASK & (atlas_data() == 20), 5:9] = np.nan
    check_processor(processor, ds)


@pytest.mark.parametrize("kind", ["labels", "median", "maps"])
def test_memory_holds_for_large_volumes_in_any_order(kind):
    shape = (128, 120, 96)
    labels = np.broadcast_to(np.arange(128)[:, None, None] // 20 > 0, shape)
    processor = {
        "labels": lambda: ExtractLabels(image(labels.astype("i4"))),
        "median": lambda: ExtractLabels(image(labels.astype("i4")), strategy="median"),
        "maps": lambda: ExtractMaps(image(np.stack([labels, 2.0 - labels], -1).astype("f4"))),
    }[kind]()
    ds = dataset(4, shape, "f4")
    check_processor(processor, ds, in_files=False)
    check_processor(
        processor,
        ds.assign(signal=ds.signal.copy(data=np.ascontiguousarray(ds.signal))),
        in_files=False,
    )
    ds.signal.values[10:20, ..., 2:] = np.nan
    check_processor(processor, ds, in_files=False)


def all_kinds():
    return (
        ExtractVoxels(image(MASK)),
        ExtractLabels(image(atlas_data())),
        ExtractMaps(image(map_data())),
        ExtractSpheres(SEEDS, 6.0),
    )


@pytest.mark.parametrize("processor", all_kinds(), ids=lambda p: type(p).__name__)
def test_any_dims_before_and_after_those_of_space(processor):
    ds = dataset(12)
    series = result(processor, ds)
    first = outline(processor, ds)
    dim = first.signal.dims[0]
    assert first.signal.dims == (dim, "time")
    assert first.signal.attrs["units"] == "a.u."
    assert first.attrs["source"] == "/somewhere"
    assert not {"affine", "x", "y", "z", "affine_row"} & {*first.variables, *first.sizes}
    assert first.time.values.tolist() == ds.time.values.tolist()

    single = ds.isel(time=3, drop=True)
    assert outline(processor, single).signal.dims == (dim,)
    assert np.array_equal(result(processor, single), series[:, 3])

    runs = single.assign(
        signal=(
            ("run", "x", "y", "z", "time"),
            ds.signal.values.reshape(*SHAPE, 3, 4).transpose(3, 0, 1, 2, 4),
        )
    )
    assert outline(processor, runs).signal.dims == (dim, "run", "time")
    assert np.array_equal(result(processor, runs), series.reshape(len(series), 3, 4))


@pytest.mark.parametrize("processor", all_kinds(), ids=lambda p: type(p).__name__)
def test_images_in_memory_are_known_by_their_content_and_not_written(processor):
    again = {type(one): one for one in all_kinds()}[type(processor)]
    assert processor == again
    assert processor.canonical() == again.canonical()
    if isinstance(processor, ExtractSpheres):
        return
    with pytest.raises(ValueError, match="only in memory"):
        Pipeline([processor]).to_yaml()


def test_an_image_that_changes_is_another_operation(tmp_path):
    path = saved(tmp_path, "labels", atlas_data())
    processor, ds = ExtractLabels(path), dataset()
    before, canonical = result(processor, ds), processor.canonical()
    saved(tmp_path, "labels", np.roll(atlas_data(7), 1))
    assert processor.canonical() != canonical
    assert len(result(processor, ds)) == 7 != len(before)


# ---------------------------------------------------------------------- voxels


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
def test_voxels_come_in_the_order_of_the_mask(dtype):
    ds = dataset(dtype=dtype)
    processor = ExtractVoxels(image(MASK.astype("f4") * 3))
    found = ps.Pipeline([processor])(ds)
    assert found.signal.dtype == np.dtype(dtype)
    assert np.array_equal(found.signal.values, ds.signal.values[MASK])
    index = [found[f"voxel_{axis}"].values for axis in "xyz"]
    assert np.array_equal(index, np.nonzero(MASK))
    painted = processor.paint(found.signal.values.T, voxel_grid(ds))
    expected = np.where(MASK[..., None], ds.signal.values, 0).T
    assert np.array_equal(painted, expected)


def test_missing_voxels_stay_unless_asked():
    ds = dataset()
    x, y, z = np.argwhere(MASK)[4]
    ds.signal.values[x, y, z, 2] = np.inf
    for policy in ("omit", "propagate"):
        assert result(ExtractVoxels(image(MASK), nan_policy=policy), ds)[4, 2] == np.inf
    assert result(ExtractVoxels(image(MASK), nan_policy="zero"), ds)[4, 2] == 0


def nearest(data, affine, grid):
    """Values of the nearest voxel, one at a time; 0 beyond the centres of the outermost."""
    out = np.zeros(grid.shape, data.dtype)
    to_voxel = np.linalg.inv(affine)
    for index in itertools.product(*map(range, grid.shape)):
        at = (to_voxel @ grid.matrix @ [*index, 1])[:3]
        if (at >= 0).all() and (at <= np.array(data.shape) - 1).all():
            out[index] = data[tuple(np.floor(at + 0.5).astype(int))]
    return out


# (voxels of other sizes, whose centres never lie just between two of the data)
COARSE = AFFINE @ np.array([[2.2, 0, 0, -0.33], [0, 2.3, 0, 0.21], [0, 0, 2.1, 0.4], [0, 0, 0, 1]])


def test_a_mask_on_another_grid_is_refused_or_resampled():
    mask = image(np.random.default_rng(5).random((6, 6, 5)) < 0.5, COARSE)
    ds = dataset()
    with pytest.raises(ValueError, match=r"mask_img .* 6 x 6 x 5 .*\[-6\.6.* 12 x 11 x 9 .*\[-3,"):
        Chain(ds).then(ExtractVoxels(mask))
    expected = nearest(mask.data.astype("u1"), COARSE, voxel_grid(ds)) > 0
    found = result(ExtractVoxels(mask, resampling="mask"), ds)
    assert np.array_equal(found, ds.signal.values[expected])


# ---------------------------------------------------------------------- labels


def test_labels_are_named_and_in_ascending_order():
    ds, atlas = dataset(), image(atlas_data(3))
    for processor, names in (
        (ExtractLabels(atlas), ["10", "20", "30"]),
        (ExtractLabels(atlas, labels=("a", "b", "c")), ["a", "b", "c"]),
        (ExtractLabels(atlas, labels=("Background", "a", "b", "c")), ["a", "b", "c"]),
        (ExtractLabels(atlas, lut=((30, "c"), (0, "out"), (10, "a"))), ["a", "20", "c"]),
        (ExtractLabels(atlas, labels=("out", "b", "c"), background_label=10), ["out", "b", "c"]),
    ):
        after = outline(processor, ds)
        assert after.region.values.tolist() == names
        expected = [0, 20, 30] if processor.background_label else [10, 20, 30]
        assert after.label.values.tolist() == expected
        values = result(processor, ds)
        for label, signal in zip(expected, values, strict=True):
            expected_signal = ds.signal.values[atlas.data == label].mean(axis=0)
            np.testing.assert_allclose(signal, expected_signal, rtol=1e-13)


@pytest.mark.parametrize(("suffix", "separator"), [("tsv", "\t"), ("csv", ",")])
def test_a_lookup_table_from_a_file(tmp_path, suffix, separator):
    path = tmp_path / f"names.{suffix}"
    rows = [("index", "name", "color"), ("20", "two", "#fff"), ("10", "one", "#000")]
    path.write_text("\n".join(separator.join(row) for row in rows) + "\n")
    processor = ExtractLabels(saved(tmp_path, "labels", atlas_data(2)), lut=path)
    assert outline(processor, dataset()).region.values.tolist() == ["one", "two"]
    before = processor.canonical()
    path.write_text(path.read_text().replace("two", "zwei"))
    assert processor.canonical() != before
    assert outline(processor, dataset()).region.values.tolist() == ["one", "zwei"]
    for text, complaint in (
        ("number,name\n1,a\n", "needs the columns index and name"),
        (separator.join(("index", "name")) + "\n" + separator.join(("x", "a")), "'x' in line 2"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=complaint):
            processor.canonical()
    path.unlink()
    with pytest.raises(FileNotFoundError, match="lut: no such file"):
        outline(processor, dataset())


def test_the_units_of_a_variance_are_squared():
    processor = ExtractLabels(image(atlas_data()), strategy="variance")
    assert outline(processor, dataset()).signal.attrs["units"] == "(a.u.)^2"


def test_labels_that_vanish_are_dropped_with_one_warning_or_kept():
    ds, atlas = dataset(), image(atlas_data(4))
    mask = np.isin(atlas.data, (20, 30))
    mask &= np.arange(SHAPE[1])[:, None] > 4
    with pytest.warns(UserWarning, match=r"no voxel is left of 'a', 'd'") as caught:
        after = outline(ExtractLabels(atlas, labels=tuple("abcd"), mask_img=image(mask)), ds)
    assert len(caught) == 1
    assert after.region.values.tolist() == ["b", "c"]
    with pytest.warns(UserWarning, match=r"'10', '40'"):
        found = result(ExtractLabels(atlas, mask_img=image(mask), keep_masked_labels=True), ds)
    assert np.isnan(found[[0, 3]]).all()
    for row, label in ((1, 20), (2, 30)):
        inside = mask & (atlas.data == label)
        np.testing.assert_allclose(found[row], ds.signal.values[inside].mean(axis=0), rtol=1e-13)
    with pytest.raises(ValueError, match="no region is left"):
        outline(ExtractLabels(atlas, mask_img=image(atlas.data == 0)), ds)


def test_labels_on_another_grid_are_resampled_or_refused():
    ds = dataset()
    atlas = image(np.random.default_rng(6).integers(0, 5, (6, 6, 5)).astype("i2"), COARSE)
    here = nearest(atlas.data, COARSE, voxel_grid(ds))
    found = result(ExtractLabels(atlas, strategy="sum"), ds)
    for row, label in enumerate(np.unique(here)[1:]):
        np.testing.assert_allclose(found[row], ds.signal.values[here == label].sum(axis=0))
    with pytest.raises(ValueError, match="labels_img and the data lie on different grids"):
        outline(ExtractLabels(atlas, resampling_target=None), ds)


def test_missing_values_in_regions():
    ds, atlas = dataset(), image(atlas_data(3))
    signal = ds.signal.values
    inside = np.argwhere(atlas.data == 20)
    signal[tuple(inside[:5].T)] = np.nan
    signal[(*tuple(inside.T)[:3], 4)] = np.nan
    kept = np.where(np.isfinite(signal), signal, 0)[tuple(inside.T)]
    omitted = result(ExtractLabels(atlas), ds)
    expected = kept.sum(axis=0) / (len(inside) - 5)
    assert np.isnan(omitted[1, 4])
    np.testing.assert_allclose(np.delete(omitted[1], 4), np.delete(expected, 4), rtol=1e-13)
    zeroed = result(ExtractLabels(atlas, nan_policy="zero"), ds)
    np.testing.assert_allclose(zeroed[1], kept.mean(axis=0), rtol=1e-13)
    passed_on = result(ExtractLabels(atlas, nan_policy="propagate"), ds)
    assert np.isnan(passed_on[1]).all()
    for found in (omitted, zeroed, passed_on):
        expected = signal[atlas.data == 10].mean(axis=0)
        np.testing.assert_allclose(found[0], expected, rtol=1e-13)


def test_labels_painted_back():
    ds, atlas = dataset(), image(atlas_data(3))
    painted = ExtractLabels(atlas).paint(np.array([[1, 2, 3]], "f4"), voxel_grid(ds))
    assert painted.dtype == np.float32
    assert np.array_equal(painted[0], (atlas.data / 10).T)
    with pytest.raises(ValueError, match=r"expected \(volumes, 3\)"):
        ExtractLabels(atlas).paint(np.zeros((2, 4)), voxel_grid(ds))


# ---------------------------------------------------------------------- maps


def test_maps_solve_least_squares_inside_the_mask():
    ds, maps = dataset(), map_data()
    maps[3, 3, 3, 1] = np.nan
    processor = ExtractMaps(image(maps), names=tuple("abcd"), mask_img=image(MASK))
    weights = np.nan_to_num(maps)[MASK]
    expected = np.linalg.lstsq(weights, ds.signal.values[MASK], rcond=None)[0]
    np.testing.assert_allclose(result(processor, ds), expected, rtol=1e-10)
    assert outline(processor, ds).region.values.tolist() == list("abcd")
    signals = np.random.default_rng(0).normal(size=(2, 4))
    painted = processor.paint(signals, voxel_grid(ds))
    expected = np.where(MASK[..., None], np.nan_to_num(maps) @ signals.T, 0)
    np.testing.assert_allclose(painted, expected.T, atol=1e-14)


def test_maps_without_weights_in_the_mask():
    ds, maps = dataset(), map_data(3)
    mask = MASK & (maps[..., 1] == 0)
    processor = ExtractMaps(image(maps), mask_img=image(mask))
    with pytest.warns(UserWarning, match=r"no voxel is left of '1'") as caught:
        after = outline(processor, ds)
    assert len(caught) == 1
    assert after.region.values.tolist() == ["0", "2"]
    assert after["map"].values.tolist() == [0, 2]
    weights = maps[mask][:, [0, 2]]
    expected = np.linalg.lstsq(weights, ds.signal.values[mask], rcond=None)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(result(processor, ds), expected, rtol=1e-10)
        processor = ExtractMaps(image(maps), mask_img=image(mask), keep_masked_maps=True)
        found = result(processor, ds)
        assert np.isfinite(processor.paint(found.T, voxel_grid(ds))).all()
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], expected, rtol=1e-10)
    with pytest.raises(ValueError, match="no map is left"):
        outline(ExtractMaps(image(maps), mask_img=image((maps == 0).all(-1))), ds)


def test_overlapping_maps_are_refused_if_asked():
    maps, ds = map_data(), dataset()
    with pytest.raises(ValueError, match="overlap"):
        outline(ExtractMaps(image(maps), allow_overlap=False), ds)
    apart = np.where(maps == maps.max(-1, keepdims=True), maps, 0)
    apart[..., 0] += 1e-17
    outline(ExtractMaps(image(apart), allow_overlap=False), ds)


# ---------------------------------------------------------------------- spheres


OBLIQUE = np.array([[2.9, 0.4, 0, -14], [-0.4, 2.9, 0.5, -16], [0.1, -0.5, 3.4, -13], [0, 0, 0, 1]])


@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE])
@pytest.mark.parametrize("masked", [True, False])
def test_spheres_have_the_voxels_within_their_radius(affine, masked):
    ds = dataset(affine=affine)
    rng = np.random.default_rng(8)
    voxels = np.argwhere(MASK)[:120:3] + rng.uniform(-0.9, 0.9, (40, 3))
    seeds = voxels @ affine[:3, :3].T + affine[:3, 3]
    radii = rng.uniform(4, 9, 40)
    centres = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    world = centres @ affine[:3, :3].T + affine[:3, 3]
    mask = image(MASK, affine) if masked else None
    found = result(ExtractSpheres(seeds, radii, mask_img=mask, allow_overlap=True), ds)
    for seed, radius, voxel, signal in zip(seeds, radii, voxels, found, strict=True):
        inside = np.linalg.norm(world - seed, axis=-1) <= radius
        if ((np.round(voxel) >= 0) & (np.round(voxel) < SHAPE)).all():
            inside[tuple(np.round(voxel).astype(int))] = True
        if masked:
            inside &= MASK
        np.testing.assert_allclose(signal, ds.signal.values[inside].mean(axis=0), rtol=1e-13)


def test_a_sphere_without_a_radius_is_the_nearest_voxel():
    ds = dataset()
    at = AFFINE @ [3.3, 4.4, 5.5001, 1]
    assert np.array_equal(result(ExtractSpheres((at[:3],)), ds)[0], ds.signal.values[3, 4, 6])


def test_voxels_on_the_surface_are_inside_however_it_is_rounded():
    affine = np.diag([0.1, 0.1, 0.1, 1])
    ds = dataset(1, (9, 9, 9), affine=affine)
    found = result(ExtractSpheres(((0.4, 0.4, 0.4),), 0.3), ds)[0, 0]
    steps = np.arange(9) - 4
    inside = steps[:, None, None] ** 2 + steps[:, None] ** 2 + steps**2 <= 9
    assert found == pytest.approx(ds.signal.values[inside].mean(), rel=1e-13)


def test_overlapping_spheres_are_refused_or_averaged():
    ds, seeds = dataset(), ((0.0, -25.0, -3.0), (5.0, -25.0, -3.0))
    with pytest.raises(ValueError, match=r"seeds \(0, -25, -3\) and \(5, -25, -3\) overlap"):
        outline(ExtractSpheres(seeds, 4.0), ds)
    processor = ExtractSpheres(seeds, 4.0, allow_overlap=True)
    after = outline(processor, ds)
    assert after.region.values.tolist() == ["(0, -25, -3)", "(5, -25, -3)"]
    assert after.seed_x.values.tolist() == [0, 5]
    painted = processor.paint(np.array([[1.0, 3.0]]), voxel_grid(ds))
    assert set(np.unique(painted)) == {0, 1, 2, 3}


def test_spheres_are_named_when_they_have_no_voxel():
    ds = dataset()
    with pytest.raises(ValueError, match=r"seed \(500, 0, 0\) has no voxel in the volume"):
        outline(ExtractSpheres(((0, -25, -3), (500, 0, 0)), 5.0), ds)
    outside = np.argwhere(~MASK)[50]
    seed = tuple((AFFINE @ [*outside, 1])[:3])
    with pytest.raises(ValueError, match="has no voxel in the mask"):
        outline(ExtractSpheres((seed,), 1.0, mask_img=image(MASK)), ds)


# ---------------------------------------------------------------------- errors


def test_bad_images_get_one_sentence(tmp_path):
    ds = dataset()
    for processor, kind, complaint in (
        (ExtractVoxels("/nowhere/mask.nii"), FileNotFoundError, "no such file"),
        (ExtractVoxels(image(MASK & False)), ValueError, "the mask is empty"),
        (ExtractVoxels(image(atlas_data())), ValueError, "the mask has 7 different values"),
        (ExtractLabels(image(map_data())), ValueError, "labels_img has 4 dims"),
        (ExtractLabels(image(map_data()[..., 0])), ValueError, "must hold whole numbers"),
        (ExtractLabels(image(MASK * 0)), ValueError, "no label other than the background"),
        (ExtractLabels(image(MASK * 1), labels=("a", "b", "c")), ValueError, "3 names"),
        (ExtractMaps(image(MASK * 0)), ValueError, "maps_img holds no map"),
        (ExtractMaps(image(map_data()), names=("a",)), ValueError, "1 names, but maps_img 4"),
    ):
        with pytest.raises(kind, match=complaint):
            Chain(ds).then(processor)
    with pytest.raises(ValueError, match="no affine"):
        Chain(ds.drop_vars("affine")).then(ExtractVoxels(image(MASK)))
    with pytest.raises(ValueError, match="needs the dim 'x'"):
        Chain(ps.make_dataset(np.zeros((2, 9)))).then(ExtractVoxels(image(MASK)))
    with pytest.raises(TypeError, match="real numbers"):
        Chain(ds.assign(signal=ds.signal * 1j)).then(ExtractVoxels(image(MASK)))


def test_bad_parameters_get_one_sentence():
    with pytest.raises(ValueError, match="not both"):
        ExtractLabels("atlas.nii", labels=("a",), lut="names.tsv")
    with pytest.raises(TypeError, match="strategy"):
        ExtractLabels("atlas.nii", strategy="mode")
    with pytest.raises(ValueError, match="radius has 2 entries for 3 seeds"):
        ExtractSpheres(SEEDS, (1.0, 2.0))
    with pytest.raises(ValueError, match="must not be negative"):
        ExtractSpheres(SEEDS, -1.0)
    with pytest.raises(ValueError, match="seeds is empty"):
        ExtractSpheres(())
    with pytest.raises(TypeError, match="seeds"):
        ExtractSpheres((1.0, 2.0, 3.0))


# ---------------------------------------------------------------------- as nilearn


@pytest.fixture(scope="module")
def maskers():
    return pytest.importorskip("nilearn.maskers", reason="nilearn is not installed")


def nifti(ds):
    return nibabel.Nifti1Image(ds.signal.values, ds.affine.values, dtype=ds.signal.dtype)


def as_nilearn(masker, ds):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return masker.fit(nifti(ds)).transform(nifti(ds)).T


def to_nilearn(data, affine=AFFINE):
    data = data.astype("u1") if data.dtype == bool else data
    return nibabel.Nifti1Image(data, affine)


def close(found, expected, tolerance=1e-12):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_voxels_as_nilearn_has_them(maskers):
    ds = dataset()
    masker = maskers.NiftiMasker(to_nilearn(MASK), reports=False)
    assert np.array_equal(result(ExtractVoxels(image(MASK)), ds), as_nilearn(masker, ds))
    found = ExtractVoxels(image(MASK)).paint(result(ExtractVoxels(image(MASK)), ds).T, AS_GRID)
    back = masker.inverse_transform(as_nilearn(masker, ds).T).get_fdata()
    assert np.array_equal(found.T, back)


AS_GRID = VoxelGrid(SHAPE, AFFINE)


@pytest.mark.parametrize(
    "strategy",
    ["mean", "median", "sum", "minimum", "maximum", "standard_deviation", "variance"],
)
def test_labels_as_nilearn_has_them(maskers, strategy):
    ds, data = dataset(), atlas_data()
    ds.signal.values[5, 5, 5, 2:4] = np.nan
    mask = MASK & (data != 20)
    masker = maskers.NiftiLabelsMasker(
        to_nilearn(data), mask_img=to_nilearn(mask), strategy=strategy, reports=False
    )
    processor = ExtractLabels(
        image(data), mask_img=image(mask), strategy=strategy, nan_policy="zero"
    )
    with pytest.warns(UserWarning, match="no voxel is left of '20'"):
        found = result(processor, ds)
    assert len(found) == 5
    close(found, as_nilearn(masker, ds))
    coarse = np.random.default_rng(6).integers(0, 5, (6, 6, 5)).astype("i4")
    masker = maskers.NiftiLabelsMasker(to_nilearn(coarse, COARSE), strategy=strategy)
    processor = ExtractLabels(image(coarse, COARSE), strategy=strategy, nan_policy="zero")
    close(result(processor, ds), as_nilearn(masker, ds))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("affine", [AFFINE, COARSE])
def test_maps_as_nilearn_has_them(maskers, masked, affine):
    ds, data = dataset(), map_data()
    ds.signal.values[5, 5, 5, 2:4] = np.nan
    masker = maskers.NiftiMapsMasker(
        to_nilearn(data, affine),
        mask_img=to_nilearn(MASK) if masked else None,
        resampling_target="data",
        reports=False,
    )
    processor = ExtractMaps(
        image(data, affine), mask_img=image(MASK) if masked else None, nan_policy="zero"
    )
    found = result(processor, ds)
    close(found, as_nilearn(masker, ds), 1e-9)
    back = masker.inverse_transform(found.T).get_fdata()
    close(processor.paint(found.T, AS_GRID).T, back, 1e-9)


@pytest.mark.parametrize("radius", [None, 4.5, 7.0])
def test_spheres_as_nilearn_has_them(maskers, radius):
    ds = dataset()
    rng = np.random.default_rng(8)
    index = np.argwhere(MASK)[rng.choice(MASK.sum(), 20, replace=False)]
    seeds = (index + rng.uniform(-0.3, 0.3, (20, 3))) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    masker = maskers.NiftiSpheresMasker(
        seeds.tolist(), radius, mask_img=to_nilearn(MASK), allow_overlap=True, reports=False
    )
    processor = ExtractSpheres(seeds, radius, mask_img=image(MASK), allow_overlap=True)
    found = result(processor, ds)
    close(found, as_nilearn(masker, ds))
    if radius is not None:  # (nilearn finds no voxel then)
        back = masker.inverse_transform(found.T).get_fdata()
        close(processor.paint(found.T, AS_GRID).T, back)


def test_forty_labels_on_a_real_run(maskers, data, tmp_path):
    folder = data / "fmri" / "studyforrest_localizer"
    (path,) = folder.glob("*_bold.nii.gz")
    whole = nibabel.load(path)
    series = np.asarray(whole.dataobj[..., :8], dtype="f8")
    shape = series.shape[:3]
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
    boxes = 1 + x * 4 // shape[0] + 4 * (y * 5 // shape[1]) + 20 * (z * 2 // shape[2])
    brain = series.mean(-1) > 0.4 * series.mean(-1).max()
    atlas = np.where((x % 7 > 0) & (y % 9 > 1), boxes, 0).astype("i2")
    ds = ps.make_dataset(
        series,
        ("x", "y", "z", "time"),
        coords={"affine": (("affine_row", "affine_column"), whole.affine)},
    )
    masker = maskers.NiftiLabelsMasker(
        to_nilearn(atlas, whole.affine), mask_img=to_nilearn(brain, whole.affine), reports=False
    )
    processor = ExtractLabels(image(atlas, whole.affine), mask_img=image(brain, whole.affine))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (corners of the volume hold no brain)
        found = result(processor, ds)
    assert len(found) > 20
    close(found, as_nilearn(masker, ds))
    voxels = maskers.NiftiMasker(to_nilearn(brain, whole.affine), reports=False)
    found = result(ExtractVoxels(image(brain, whole.affine)), ds)
    assert np.array_equal(found, as_nilearn(voxels, ds))
