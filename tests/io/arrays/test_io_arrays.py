"""Plain HDF5, NSID and NumPy files."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import penstock as ps
from penstock.attributes import nested_attribute
from penstock.io import extensions, list_main_datasets
from penstock.io.hdf5.contents import SeveralDatasetsError
from penstock.reading import reading_of
from penstock.testing import check_reader


@pytest.fixture
def cube() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, 5, 6))


def write_nsid(
    group: h5py.Group,
    name: str,
    values: np.ndarray,
    dims: dict[str, tuple[Any, str, str]],
    **options: Any,
) -> h5py.Dataset:
    """A main dataset as sidpy writes it; dims: name to (values, unit, type)."""
    dataset = group.create_dataset(name, data=values, **options)
    dataset.attrs.update(
        {"quantity": "Current", "units": "nA", "data_type": "SPECTRAL_IMAGE", "modality": "STS"}
    )
    for axis, (dim, (along, unit, kind)) in enumerate(dims.items()):
        scale = group.create_dataset(dim, data=along)
        scale.make_scale(dim)
        scale.attrs.update({"name": dim, "units": unit, "quantity": f"of {dim}"})
        scale.attrs["dimension_type"] = kind
        dataset.dims[axis].label = dim
        dataset.dims[axis].attach_scale(scale)
    return dataset


NSID_DIMS = {
    "y": ([0.0, 1.0, 2.0, 3.0], "nm", "SPATIAL"),
    "x": (np.arange(5) * 0.5, "nm", "SPATIAL"),
    "bias": ([-1, 0, 1, 1, 0, -1], "V", "SPECTRAL"),
}


ORDERS = {"C": np.ascontiguousarray, "F": np.asfortranarray}
KINDS = ("C", "F", "npz", "compressed npz", "hdf5", "chunked hdf5")


def save(folder: Path, values: np.ndarray, kind: str) -> tuple[Path, dict[str, Any]]:
    """A file of that kind that holds the values; returns it and the options to open it with."""
    if kind in ORDERS:
        np.save(folder / "values.npy", ORDERS[kind](values))
        return folder / "values.npy", {}
    if kind.endswith("npz"):
        write = np.savez if kind == "npz" else np.savez_compressed
        write(folder / "values.npz", other=np.zeros(3), values=np.asfortranarray(values))
        return folder / "values.npz", {"dataset": "values"}
    chunks = tuple(-(-size // 3) for size in values.shape)
    options = {"chunks": chunks, "compression": "gzip"} if kind == "chunked hdf5" else {}
    with h5py.File(folder / "values.h5", "w") as file:
        file.create_dataset("values", data=values, **options)
    return folder / "values.h5", {}


# ---------------------------------------------------------------------- any array


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", ["f4", ">i2", "c8", "fields"])
def test_the_contract_of_readers(tmp_path, kind, stored):
    values = 1000 * np.random.default_rng(0).standard_normal((3, 30, 24, 150))
    if stored == "fields":
        cube = np.empty(values.shape[1:], [("height", "f4"), ("phase", "f8"), ("error", "i2")])
        for name, part in zip(cube.dtype.names, values, strict=True):
            cube[name] = part
        expected = np.stack([cube[name] for name in cube.dtype.names], axis=-1)
    else:
        cube = (values[0] + 1j * values[1] if stored == "c8" else values[0]).astype(stored)
        expected = cube
    path, options = save(tmp_path, cube, kind)
    coords = {"frequency": (("frequency",), np.arange(150), {"units": "kHz"})}
    dims = ("y", "x", "frequency")
    ds = check_reader(path, dims=dims, coords=coords, dtype="float64", **options)
    assert np.array_equal(ds.signal.values, expected)
    assert ds.frequency.attrs == {"units": "kHz"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", ["f4", "i2"])
def test_recordings_keep_the_contract_of_readers(tmp_path, kind, stored):
    values = (np.random.default_rng(0).standard_normal((6, 100_000)) * 1000).astype(stored)
    path, options = save(tmp_path, values, kind)
    ds = check_reader(
        path,
        dims=("channel", "time"),
        sampling_frequency=250.0,
        units="uV",
        coords={
            "channel": list("abcdef"),
            "channel_type": ("channel", np.array(["eeg"] * 6)),
            "channel_unit": ("channel", np.array(["uV"] * 6)),
            "bad": ("channel", np.zeros(6, bool)),
        },
        **options,
    )
    assert np.array_equal(ds.signal.values, values.astype(np.float32))
    assert reading_of(ds.signal).interleaved is (kind in ("F", "npz"))


# ---------------------------------------------------------------------- NSID


def test_nsid(tmp_path, cube):
    path = tmp_path / "sts.h5"
    with h5py.File(path, "w") as file:
        file.attrs["origin"] = "synthetic"
        group = file.create_group("Channel_000/map")
        write_nsid(group, "map", cube, NSID_DIMS)
        group.create_group("metadata/tip").attrs["material"] = "PtIr"
        group.create_group("provenance/fit").attrs["fitting_functions"] = "gASVCg=="
    ds = ps.open_dataset(path, dtype="float64")
    assert ds.signal.dims == ("y", "x", "bias")
    assert np.array_equal(ds.signal.values, cube)
    assert ds.signal.attrs == {"long_name": "Current", "units": "nA"}
    assert ds.bias.dtype == np.float64
    assert ds.bias.values.tolist() == [-1, 0, 1, 1, 0, -1]
    assert ds.bias.attrs == {
        "units": "V", "long_name": "of bias", "dimension_type": "SPECTRAL",
    }  # fmt: skip
    assert ds.attrs["position_dims"] == ["y", "x"]
    assert ds.attrs["data_type"] == "SPECTRAL_IMAGE"
    metadata = nested_attribute(ds.attrs, "metadata")
    assert metadata["/"] == {"origin": "synthetic"}
    assert metadata["/Channel_000/map/metadata/tip"] == {"material": "PtIr"}
    # text stays text, also where others would run it
    assert metadata["/Channel_000/map/provenance/fit"] == {"fitting_functions": "gASVCg=="}
    assert metadata["/Channel_000/map/map"]["modality"] == "STS"


@pytest.mark.parametrize("options", [{}, {"chunks": (9, 7, 150), "compression": "gzip"}])
@pytest.mark.parametrize("stored", ["f4", "c16"])
def test_nsid_keeps_the_contract_of_readers(tmp_path, stored, options):
    parts = np.random.default_rng(0).standard_normal((2, 30, 24, 150))
    values = (parts[0] + 1j * parts[1] if stored == "c16" else parts[0]).astype(stored)
    dims = {
        "y": (np.arange(30, dtype=np.float32), "nm", "SPATIAL"),
        "x": (np.arange(24), "nm", "SPATIAL"),
        "bias": (np.abs(np.arange(150) - 75), "V", "SPECTRAL"),
    }
    with h5py.File(tmp_path / "sts.h5", "w") as file:
        write_nsid(file.create_group("Channel_000"), "map", values, dims, **options)
    ds = check_reader(tmp_path / "sts.h5", dtype="float64")
    assert ds.signal.dims == ("y", "x", "bias")
    assert np.array_equal(ds.signal.values, values)


def test_several_nsid_datasets_must_be_chosen_from(tmp_path, cube):
    path = tmp_path / "sts.nsid"
    with h5py.File(path, "w") as file:
        for i in range(2):
            write_nsid(file.create_group(f"Channel_00{i}"), "map", cube + i, NSID_DIMS)
    with pytest.raises(ValueError, match=r"several datasets: .*Channel_000/map \(Current \[nA\]"):
        ps.open_dataset(path)
    found = ps.open_dataset(path, dataset="Channel_001/map", engine="nsid", dtype="float64")
    assert np.array_equal(found.signal.values, cube + 1)
    assert [main.name for main in list_main_datasets(path)] == [
        "/Channel_000/map", "/Channel_001/map",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no NSID main dataset Channel_002: it holds"):
        ps.open_dataset(path, dataset="Channel_002", engine="nsid")


def test_nsid_of_an_instrument(spm):
    ds = check_reader(spm / "BEPS_PTO_50x50.h5", dtype="float64")
    assert ds.signal.dims == ("X", "Y", "Voltage")
    assert ds.signal.attrs == {"long_name": "Piezoresponse", "units": "a.u."}
    with h5py.File(spm / "BEPS_PTO_50x50.h5") as file:
        stored = file["Channel_000/generic/generic"][...]
    assert np.array_equal(ds.signal.values, stored)
    assert len(np.unique(ds.Voltage.values)) == 33
    part = ds.signal.isel(X=[3, 1], Y=slice(10, 40, 3), Voltage=[63, 0])
    assert np.array_equal(part.values, stored[[3, 1], 10:40:3][..., [63, 0]])
    metadata = nested_attribute(ds.attrs, "metadata")["/Channel_000/generic/provenance/sidpy"]
    assert metadata == {"from_array_": "_0.12.8_2025-12-17-15:38:04.191085"}


# ---------------------------------------------------------------------- plain HDF5


def test_hdf5_without_names(tmp_path, cube):
    path = tmp_path / "cube.h5"
    with h5py.File(path, "w") as file:
        file["group/spectra"] = cube
        file["group/spectra"].attrs["units"] = "V"
        file["group/comment"] = "not an array"
    ds = ps.open_dataset(path)
    assert ds.signal.dims == ("dim_0", "dim_1", "dim_2")
    assert ds.signal.attrs == {"units": "V"}
    named = ps.open_dataset(
        path,
        dtype="float64",
        dims=("y", "x", "frequency"),
        coords={"frequency": np.arange(6), "mask": (("y", "x"), np.ones((4, 5), bool))},
        units="mV",
    )
    assert np.array_equal(named.signal.values, cube)
    assert named.frequency.dtype == np.float64
    assert named.mask.dims == ("y", "x")
    assert named.signal.attrs["units"] == "mV"


def test_hdf5_with_dimension_scales(tmp_path, cube):
    path = tmp_path / "cube.hdf5"
    with h5py.File(path, "w") as file:
        spectra = file.create_dataset("spectra", data=cube)
        file["height"] = np.arange(4)
        file["height"].make_scale()
        file["height"].attrs["units"] = "nm"
        spectra.dims[0].attach_scale(file["height"])
        spectra.dims[1].label = "x/y"
    ds = ps.open_dataset(path)
    assert ds.signal.dims == ("height", "x_y", "dim_2")
    assert ds.height.values.tolist() == [0, 1, 2, 3]
    assert ds.height.attrs["units"] == "nm"


def test_several_arrays_must_be_chosen_from(tmp_path, cube):
    path = tmp_path / "cubes.h5"
    with h5py.File(path, "w") as file:
        file["a/spectra"], file["b/spectra"], file["b/one"] = cube, cube + 1, 1.0
        file["b/text"] = np.array([b"one", b"two"])
    with pytest.raises(ValueError, match=r"choose one with dataset=.*a/spectra \(4 x 5 x 6\)"):
        ps.open_dataset(path)
    found = ps.open_dataset(path, dataset="b/spectra", dtype="float64")
    assert np.array_equal(found.signal.values, cube + 1)
    assert found.attrs["source_dataset"] == "/b/spectra"
    for dataset, message in (
        ("c/spectra", "has no dataset c/spectra: it holds a/spectra"),
        ("b/one", "is a single value"),
        ("b/text", "not numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            ps.open_dataset(path, dataset=dataset)


def test_options_that_do_not_fit(tmp_path, cube):
    np.save(tmp_path / "cube.npy", cube)
    with h5py.File(tmp_path / "cube.h5", "w") as file:
        file["cube"] = cube
    for name in ("cube.npy", "cube.h5"):
        for options, message in (
            ({"dims": ("y", "x")}, "must name every"),
            ({"coords": {"dim_2": [1.0, 2.0]}}, r"'dim_2' has the shape \(2,\).*dim_2: 6"),
            ({"coords": {"z": [1.0, 2.0]}}, "'z' has the shape"),
            ({"sampling_frequency": 10.0}, "sampling_frequency needs a dim 'time'"),
            ({"color": "red"}, "'color'.*knows dtype, dataset, dims"),
        ):
            with pytest.raises(ValueError, match=message) as caught:
                ps.open_dataset(tmp_path / name, **options)
            assert name in str(caught.value)


@pytest.mark.parametrize("kind", ["npy", "npz", "h5"])
def test_names_units_and_datasets_are_texts(tmp_path, cube, kind):
    path = tmp_path / f"cube.{kind}"
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file["cube"] = cube
    else:
        {"npy": np.save, "npz": np.savez}[kind](path, cube)
    ds = ps.open_dataset(
        path, dims="y, x,f", coords={"f": ("f", np.arange(6), {"units": "Hz"})}, units="V"
    )
    assert ds.signal.dims == ("y", "x", "f")
    assert ds.f.dtype == np.float64
    assert ds.f.attrs == {"units": "Hz"}
    assert ds.signal.attrs["units"] == "V"
    again = ps.open_dataset(path, dims=("y", "x", "f"), coords=ds.coords)
    assert again.f.identical(ds.f)
    dims = ("y", "x", "f")
    for options, message in (
        ({"dims": dims, "units": {"f": "Hz"}}, r'one text.*\("f", values, \{"units": "Hz"\}\)'),
        ({"dims": dims, "coords": {"f": ("f", np.arange(6), "Hz")}}, "attributes of 'f'.*'Hz'"),
        ({"dims": dims, "coords": [1.0]}, "must map names to values.*got list"),
        ({"dims": ("y", "x", "y")}, "has the name 'y' 2 times"),
        ({"dims": "y,x,"}, "has an empty name"),
        ({"dims": ("y", "x", "signal")}, "'signal' is the name of the values"),
        ({"dims": 3}, "dims=3 .* are no names"),
        ({"dims": (0, 1, 2)}, "are no names: give one text"),
        ({"dims": "yxf"}, "must name every"),
        ({"dataset": 0}, "dataset=0 .* is no name"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            ps.open_dataset(path, **options)
        assert str(path) in str(caught.value)


def test_names_for_the_dims_of_nsid_keep_coordinates_and_units(tmp_path, cube):
    path = tmp_path / "sts.h5"
    with h5py.File(path, "w") as file:
        write_nsid(file.create_group("Channel_000"), "map", cube, NSID_DIMS)
    ds = check_reader(path, dims=("row", "column", "voltage"), dtype="float64")
    assert ds.signal.dims == ("row", "column", "voltage")
    assert np.array_equal(ds.signal.values, cube)
    assert ds.voltage.values.tolist() == NSID_DIMS["bias"][0]
    assert ds.voltage.attrs["units"] == "V"
    assert ds.attrs["position_dims"] == ["row", "column"]
    with pytest.raises(ValueError, match=r"has the dims \('y', 'x', 'bias'\)"):
        ps.open_dataset(path, dims=("row", "column"))


def test_a_file_with_a_user_block(tmp_path, cube):
    path = tmp_path / "cube.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["cube"] = cube
    found = ps.open_dataset(path, engine="hdf5", dtype="float64")
    assert np.array_equal(found.signal.values, cube)


def test_unusual_storage(tmp_path, cube):
    path = tmp_path / "odd.h5"
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.COMPACT)
    with h5py.File(path, "w") as file:
        space, kind = h5py.h5s.create_simple(cube.shape), h5py.h5t.py_create(cube.dtype)
        compact = h5py.h5d.create(file.id, b"compact", kind, space, creation)
        compact.write(h5py.h5s.ALL, h5py.h5s.ALL, cube)
        file.create_dataset("unwritten", (4, 5, 6), "f8", fillvalue=3.0)
        file["whole"] = cube
        layout = h5py.VirtualLayout((8, 5, 6), "f8")
        layout[:4] = layout[4:] = h5py.VirtualSource(file["whole"])
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("flags", data=cube > 0)
        file["linked"] = h5py.ExternalLink("other.h5", "/far/cube")
        file.create_dataset("external", data=cube, external=[(str(tmp_path / "raw"), 0, 960)])
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["far/cube"] = cube
    for name, expected in {
        "compact": cube,
        "unwritten": np.full((4, 5, 6), 3.0),
        "virtual": np.concatenate([cube, cube]),
        "flags": (cube > 0).astype(float),
        "linked": cube,
        "external": cube,
    }.items():
        for dtype in ("float64", "float32"):
            signal = ps.open_dataset(path, dataset=name, dtype=dtype).signal
            assert np.array_equal(signal.values, expected.astype(dtype)), name
            part = signal[1:3, [0, 4], 2].values
            assert np.array_equal(part, expected[1:3, [0, 4], 2].astype(dtype)), name


def test_matlab_and_snirf_files_stay_with_mne(tmp_path):
    from penstock.io.registry import find_reader

    with h5py.File(tmp_path / "a.snirf", "w") as file:
        file["nirs"] = np.zeros(3)
    with h5py.File(tmp_path / "a.set", "w", userblock_size=512) as file:
        file["data"] = np.zeros(3)
    assert find_reader(str(tmp_path / "a.snirf")).name == "mne"
    assert find_reader(str(tmp_path / "a.set")).name == "eeglab"
    assert {".h5", ".hdf5", ".nsid", ".usid"} <= set(extensions())
    assert not {".npy", ".npz"} & set(extensions())


def test_what_a_file_holds_counts_not_its_name(tmp_path, cube):
    with h5py.File(tmp_path / "cube.xyz", "w") as file:
        file["cube"] = cube
    np.save(tmp_path / "cube.npy", cube)
    (tmp_path / "cube.npy").rename(tmp_path / "cube")
    for name in ("cube.xyz", "cube"):
        assert ps.open_dataset(tmp_path / name).signal.shape == cube.shape


def test_a_large_chunked_array_is_read_in_boxes(tmp_path):
    """More than one box of chunks, with conversion and without."""
    rng = np.random.default_rng(0)
    values = rng.integers(-1000, 1000, (300, 7000)).astype(np.int16)
    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("large", data=values, chunks=(7, 6000), compression="lzf")
    rows = np.sort(rng.choice(300, 40, replace=False))
    for dtype in ("float32", "float64"):
        signal = ps.open_dataset(path, dtype=dtype).signal
        assert np.array_equal(signal.values, values)
        assert np.array_equal(signal[rows, 5990:6010].values, values[rows, 5990:6010])
        assert np.array_equal(signal[5:290, [0, 1, 6999]].values, values[5:290][:, [0, 1, 6999]])


def test_a_damaged_chunk_is_told(tmp_path, cube):
    path = tmp_path / "cube.h5"
    with h5py.File(path, "w") as file:
        cubes = file.create_dataset("cube", data=cube, chunks=(4, 5, 6), compression="gzip")
        where = cubes.id.get_chunk_info(0)
    with open(path, "r+b") as raw:
        raw.seek(where.byte_offset + where.size // 2)
        raw.write(bytes(100))
    ds = ps.open_dataset(path)
    with pytest.raises(OSError, match=r"/cube of .* cannot be read .*damaged") as caught:
        ds.signal.load()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- NumPy files


def test_npy_without_names(tmp_path, cube):
    np.save(tmp_path / "cube.npy", cube)
    ds = ps.open_dataset(tmp_path / "cube.npy")
    assert ds.signal.dims == ("dim_0", "dim_1", "dim_2")
    assert ds.signal.dtype == np.float64
    with pytest.raises(ValueError, match="holds a single array"):
        ps.open_dataset(tmp_path / "cube.npy", dataset="cube")


def test_npz_archives(tmp_path, cube):
    for save in (np.savez, np.savez_compressed):
        path = tmp_path / f"{save.__name__}.npz"
        save(path, a=cube, b=cube.astype(complex))
        with pytest.raises(
            SeveralDatasetsError, match=r"2 arrays: choose one with dataset=.*a, b"
        ) as caught:
            ps.open_dataset(path)
        assert caught.value.names == ("a", "b")
        with pytest.raises(ValueError, match="no array 'c': it holds a, b"):
            ps.open_dataset(path, dataset="c")
        ds = ps.open_dataset(path, dataset="b", dtype="float64")
        assert ds.signal.dtype == np.complex128
        again = pickle.loads(pickle.dumps(ds))
        assert np.array_equal(again.signal.values, cube)
    assert reading_of(ds.signal).resident_bytes == 2 * cube.nbytes
    empty = tmp_path / "empty.npz"
    with zipfile.ZipFile(empty, "w"):
        pass
    with pytest.raises(ValueError, match="holds 0 arrays"):
        ps.open_dataset(empty)


def test_structured_arrays(tmp_path):
    dtype = np.dtype([("ω₀", "f8"), ("Q", "f4")])
    values = np.zeros((3, 4), dtype)
    values["ω₀"] = np.arange(12).reshape(3, 4)
    for order in ("C", "F"):
        with pytest.warns(UserWarning, match="format 3.0"):
            np.save(tmp_path / "fits.npy", ORDERS[order](values))
        ds = ps.open_dataset(tmp_path / "fits.npy", dims=("y", "x"), dtype="float64")
        assert ds.signal.dims == ("y", "x", "component")
        assert ds.component.values.tolist() == ["ω₀", "Q"]
        assert np.array_equal(ds.signal.sel(component="ω₀").values, values["ω₀"])
        assert np.array_equal(ds.signal[1:, [3, 0], ::-1].values[..., 1], values["ω₀"][1:, [3, 0]])


def test_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "trap.npz", trap=np.array([Trap()], dtype=object), allow_pickle=True)
    for name in ("trap.npy", "trap.npz"):
        with pytest.raises(ValueError, match="never unpickled"):
            ps.open_dataset(tmp_path / name, **({"dataset": "trap"} if name[-1] == "z" else {}))
    assert not (tmp_path / "sprung").exists()


def test_unusable_numpy_files(tmp_path, cube):
    path = tmp_path / "cube.npy"
    np.save(path, cube)
    whole = path.read_bytes()
    for content, message in (
        (whole[:500], r"cut short: it announces 960 bytes .* holds 500 bytes"),
        (whole[:40], "no usable NumPy header"),
        (whole[:6] + b"\x09\x00" + whole[8:], "version 9.0 of the format is not known"),
        (b"text, not numbers", "named like NPY but does not hold it"),
        (b"", "is empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            ps.open_dataset(path)
        assert str(path) in str(caught.value)
    np.save(path, np.array(["a", "b"]))
    with pytest.raises(ValueError, match="not numbers"):
        ps.open_dataset(path)
    archive = tmp_path / "cube.npz"
    np.savez_compressed(archive, cube)
    archive.write_bytes(archive.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz archive"):
        ps.open_dataset(archive)


def test_a_file_saved_anew_is_not_read_as_the_old_one(tmp_path, cube):
    path = tmp_path / "cube.npy"
    np.save(path, cube)
    ds = ps.open_dataset(path)
    np.save(path, cube[:2])
    with pytest.raises(OSError, match="has changed since it was opened: open it again"):
        ds.signal.load()


def test_band_excitation_spectra(spm):
    path = spm / "BEPFM_32x32x102.npy"
    ds = check_reader(path, dims=("y", "x", "frequency"), dtype="float64")
    assert ds.signal.shape == (32, 32, 102)
    assert np.array_equal(ds.signal.values, np.load(path))


def test_arrays_larger_than_what_regions_are_compared_with_are_checked(tmp_path):
    values = np.random.default_rng(0).integers(0, 250, (600, 700, 12), dtype="u1")
    np.save(tmp_path / "large.npy", values)
    assert check_reader(tmp_path / "large.npy").signal.shape == values.shape
