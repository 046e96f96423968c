"""Several extractions from one pass over the volumes: the same signals as one by one."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
from small_images import AFFINE, image

import penstock as ps
from penstock import testing
from penstock.fmri import (
    CleanSignals,
    ExtractLabels,
    ExtractMaps,
    ExtractSpheres,
    ExtractTogether,
    ExtractVoxels,
    ResampleVolumes,
    SmoothVolumes,
    SpatialImage,
    as_volumes,
)

SEEDS = ((45.0, -35.0, -30.0), (50.0, -38.0, -26.0))
COARSE = AFFINE @ np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture(scope="module")
def files(atlas, mask, tmp_path_factory) -> dict[str, str]:
    """Atlas, mask, and maps as files."""
    folder = tmp_path_factory.mktemp("regions")
    x, y, z = np.ogrid[:9, :8, :7]
    maps = [np.exp(-((x - a) ** 2 + (y - 4) ** 2 + (z - 3) ** 2) / 6) for a in (2, 4, 6)]
    images = {
        "atlas": image(atlas),
        "mask": image(mask),
        "maps": image(np.stack(maps, axis=-1)),
        "coarse": image(np.ones((5, 4, 4), "uint8"), COARSE),
    }
    for name, each in images.items():
        each.to_filename(folder / f"{name}.nii.gz")
    return {name: str(folder / f"{name}.nii.gz") for name in images}


@pytest.fixture
def volumes(bold_values):
    """Seven volumes in memory, float64."""
    return as_volumes(image(np.asfortranarray(bold_values[..., :7]))).load()


def many_parts(files):
    resample = ResampleVolumes(target_affine=COARSE.tolist(), target_shape=(5, 4, 4))
    return (
        (SmoothVolumes(6.0), ExtractLabels(files["atlas"], mask_img=files["mask"])),
        (SmoothVolumes(6.0), ExtractVoxels(files["mask"])),
        (ExtractVoxels(files["mask"]),),
        (resample, ExtractVoxels(files["coarse"])),
        ExtractMaps(files["maps"]),
        ExtractLabels(files["atlas"], strategy="median"),
        ExtractLabels(files["atlas"]),
        ExtractSpheres(SEEDS, radius=7.0, allow_overlap=True),
        ExtractLabels(files["atlas"], nan_policy="zero"),
    )


def alone(part, ds):
    """Signals of one part, (regions, volumes)."""
    steps = part if isinstance(part, tuple) else (part,)
    return ps.Pipeline(steps).compute(ds).signal.values


@pytest.mark.filterwarnings("ignore:ExtractLabels")
def test_it_keeps_the_contract(files, volumes):
    testing.check_processor(ExtractTogether(many_parts(files)), volumes)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_memory_declared_suffices_for_larger_volumes(dtype):
    shape = (60, 50, 40)
    values = np.random.default_rng(0).normal(500, 30, (6, *shape[::-1])).astype(dtype).T
    ds = as_volumes(image(values)).load()
    labels = SpatialImage((np.arange(120_000).reshape(shape) // 3000).astype("i2"), AFFINE)
    inside = SpatialImage(np.arange(120_000).reshape(shape) % 3 > 0, AFFINE)
    whole = SpatialImage(np.ones((25, 30, 20), "u1"), COARSE)
    resample = ResampleVolumes(target_affine=COARSE.tolist(), target_shape=(25, 30, 20))
    together = ExtractTogether(
        (
            ExtractLabels(labels),
            ExtractLabels(labels, mask_img=inside),
            (SmoothVolumes(6.0), ExtractVoxels(inside)),
            (SmoothVolumes(6.0), ExtractLabels(labels, strategy="variance")),
            (resample, ExtractVoxels(whole)),
            ExtractSpheres(((40.0, -30.0, -10.0),), radius=12.0, mask_img=inside),
        )
    )
    testing.check_processor(together, ds, in_files=False)


@pytest.mark.filterwarnings("ignore:ExtractLabels")
def test_signals_are_those_of_the_parts_alone(files, volumes):
    parts = many_parts(files)
    made = ps.Pipeline([ExtractTogether(parts)]).compute(volumes)
    assert made.signal.dims == ("region", "time")
    assert made.signal.dtype == np.float64
    for number, part in enumerate(parts):
        expected = alone(part, volumes)
        found = made.signal.values[made["part"].values == number]
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.all(np.diff(made["part"].values) >= 0)


def test_regions_are_called_as_in_their_parts(files, volumes, mask):
    parts = (ExtractVoxels(files["mask"]), ExtractLabels(files["atlas"], lut=((3, "visual"),)))
    made = ps.Pipeline([ExtractTogether(parts)])(volumes)
    names = made["region"].values.tolist()
    voxels = int(mask.sum())
    assert names[:voxels] == [f"{x} {y} {z}" for x, y, z in np.argwhere(mask)]
    assert names[voxels] == "visual"
    assert made["part"].values.tolist() == [0] * voxels + [1] * 12
    assert ps.sampling_frequency(made) == 0.5
    assert "affine" not in made


def test_voxels_alone_keep_the_type_of_the_image(files, volumes):
    parts = (ExtractVoxels(files["mask"]), (SmoothVolumes(4.0), ExtractVoxels(files["mask"])))
    assert ps.Pipeline([ExtractTogether(parts)])(volumes.astype("f4")).signal.dtype == np.float32


def test_a_single_volume_gives_one_value_a_region(files, volumes):
    volume = volumes.isel(time=2, drop=True)
    parts = many_parts(files)[1:]
    made = ps.Pipeline([ExtractTogether(parts)]).compute(volume)
    assert made.signal.dims == ("region",)
    series = ps.Pipeline([ExtractTogether(parts)]).compute(volumes)
    np.testing.assert_allclose(made.signal.values, series.signal.values[:, 2], rtol=1e-12)


def test_neighbours_that_begin_alike_share_their_volumes(files, volumes, monkeypatch):
    smoothed = []
    kernel = SmoothVolumes.kernel

    def counted(self, block, ctx):
        smoothed.append(self.fwhm)
        return kernel(self, block, ctx)

    monkeypatch.setattr(SmoothVolumes, "kernel", counted)
    six, four = SmoothVolumes(6.0), SmoothVolumes(4.0)
    together = ExtractTogether(
        (
            (six, ExtractVoxels(files["mask"])),
            (six, ExtractLabels(files["atlas"])),
            (four, ExtractMaps(files["maps"])),
            (four, ExtractLabels(files["atlas"], strategy="sum")),
        )
    )
    ps.Pipeline([together]).compute(volumes, workers=1)
    assert smoothed == [6.0, 4.0]


# ---------------------------------------------------------------------- as a parameter


def test_files_hold_all_parts(files):
    pipeline = ps.Pipeline([ExtractTogether(many_parts(files)), CleanSignals(detrend=True)])
    again = ps.Pipeline.from_yaml(pipeline.to_yaml())
    assert again == pipeline
    assert again.canonical() == pipeline.canonical()
    by_hand = f"""
pipeline:
  - ExtractTogether:
      - - [{{SmoothVolumes: 6}}, {{ExtractLabels: {files["atlas"]}}}]
        - ExtractVoxels: {files["mask"]}
"""
    expected = ExtractTogether(
        ((SmoothVolumes(6), ExtractLabels(files["atlas"])), ExtractVoxels(files["mask"]))
    )
    assert ps.Pipeline.from_yaml(by_hand)[0] == expected


def test_images_in_memory_cannot_go_into_a_file(atlas, files):
    parts = (ExtractVoxels(files["mask"]), ExtractLabels(SpatialImage(atlas, AFFINE)))
    with pytest.raises(ValueError, match="ExtractLabels"):
        ps.Pipeline([ExtractTogether(parts)]).to_yaml()


def test_an_atlas_that_changes_is_another_operation(atlas, files, tmp_path):
    path = tmp_path / "atlas.nii.gz"
    image(atlas).to_filename(path)
    together = ExtractTogether((ExtractVoxels(files["mask"]), ExtractLabels(str(path))))
    before = together.canonical()
    image(np.where(atlas == 3, 6, atlas)).to_filename(path)
    assert together.canonical() != before


def test_planning_by_many_threads_at_once(files, volumes):
    together = ExtractTogether(many_parts(files)[4:])
    failures: list[BaseException] = []

    def plans() -> None:
        try:
            for count in range(1, 12):
                ps.Pipeline([together]).plan(volumes.isel(time=slice(count % 7 + 1)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=plans) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ((), "parts must be a tuple"),
        ("ExtractVoxels", "parts must be a tuple"),
        (((),), "at least one processor"),
        ((np.mean,), "parts are made of processors"),
        ((SmoothVolumes(4.0),), "must give region signals, but SmoothVolumes gives"),
        (((CleanSignals(detrend=True), "voxels"),), "CleanSignals .* along 'time'"),
        ((("voxels", CleanSignals(detrend=True)),), "CleanSignals .* along 'time'"),
    ],
    ids=str,
)
def test_what_is_no_part_is_told_in_a_sentence(parts, sentence, files, volumes):
    def filled(value):
        if isinstance(value, tuple):
            return tuple(filled(each) for each in value)
        return ExtractVoxels(files["mask"]) if value == "voxels" else value

    with pytest.raises((TypeError, ValueError), match=sentence):
        ps.Pipeline([ExtractTogether(filled(parts))])(volumes)


def test_a_part_on_another_grid_is_named(files, volumes):
    far = AFFINE.copy()
    far[:3, 3] += 500
    parts = (
        ExtractVoxels(files["mask"]),
        ExtractLabels(SpatialImage(np.ones((3, 3, 3), "i2"), far)),
    )
    with pytest.raises(ValueError, match="labels_img lies elsewhere"):
        ps.Pipeline([ExtractTogether(parts)])(volumes)
    refused = replace(parts[1], resampling_target=None)
    with pytest.raises(ValueError, match="different grids"):
        ps.Pipeline([ExtractTogether((parts[0], refused))])(volumes)


def test_what_is_bound_ends_with_the_step_and_does_not_travel(files, volumes):
    step = ExtractTogether((ExtractLabels(files["atlas"]), ExtractVoxels(files["mask"])))
    plain = len(pickle.dumps(step))
    lazies = [ps.Pipeline([step])(volumes.isel(time=slice(0, n))) for n in (3, 4, 5)]
    assert [lazy.sizes["time"] for lazy in lazies] == [3, 4, 5]
    assert len(pickle.dumps(step)) == plain
    outline = weakref.ref(step.__dict__["_kept"][0][0]) if "_kept" in step.__dict__ else None
    del lazies, step
    gc.collect()
    assert outline is None or outline() is None
