"""Axes that models describe beside a dataset: NeXus, EMD, NIX, HyperSpy, MATLAB 7.3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import penstock as ps
from penstock.testing import check_reader

CUBE = np.random.default_rng(0).random((2, 3, 4))
ENERGY = np.array([1.0, 1.5, 2.0, 2.5])


# ---------------------------------------------------------------------- NeXus


def group(parent: h5py.Group, name: str, kind: str, **attrs: Any) -> h5py.Group:
    made = parent.create_group(name)
    made.attrs.update(NX_class=kind, **attrs)
    return made


def write_nexus(path: Path, **attrs: Any) -> None:
    """A plot with its axes, beside what is not to be shown."""
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "entry"
        entry = group(file, "entry", "NXentry", default="plot")
        entry["monitor"] = np.arange(7.0)
        other = group(entry, "another", "NXdata", signal="counts")
        other["counts"] = np.zeros(5)
        plot = group(entry, "plot", "NXdata", **attrs)
        plot["counts"], plot["energy"], plot["y"] = CUBE, ENERGY, [10.0, 20.0]
        plot["energy"].attrs["units"] = "eV"
        plot["title"] = "a scan"


def check_plot(ds: Any, dims: tuple[str, ...] = ("y", "dim_1", "energy")) -> None:
    assert ds.signal.dims == dims
    assert np.array_equal(ds.signal.values, CUBE)
    assert ds.energy.values.tolist() == ENERGY.tolist()
    assert ds.energy.attrs["units"] == "eV"
    assert ds.y.values.tolist() == [10.0, 20.0]


def test_the_default_plot(tmp_path):
    path = tmp_path / "scan.nxs"
    write_nexus(path, signal="counts", axes=["y", ".", "energy"])
    check_plot(check_reader(path))
    ds = ps.open_dataset(path)
    assert ds.attrs["source_dataset"] == "/entry/plot/counts"
    assert ds.attrs["title"] == "a scan"
    check_plot(ps.open_dataset(path, dataset="plot/counts"))
    renamed = ps.open_dataset(path, dims=("row", "column", "energy"))
    assert renamed.signal.dims == ("row", "column", "energy")
    assert renamed.row.values.tolist() == [10.0, 20.0]
    assert ps.open_dataset(path, dataset="monitor").signal.shape == (7,)
    # text in other guises
    write_nexus(path, signal=np.array([b"counts"]), axes=np.array([b"y", b".", b"energy"]))
    check_plot(ps.open_dataset(path))


def test_plots_as_before_2014(tmp_path):
    path = tmp_path / "old.nxs"
    for axes in ("y:.:energy", "[y,.,energy]"):
        write_nexus(path)
        with h5py.File(path, "a") as file:
            file["entry/plot/counts"].attrs.update(signal=1, axes=axes)
        check_plot(ps.open_dataset(path))
    write_nexus(path)
    with h5py.File(path, "a") as file:
        plot = file["entry/plot"]
        plot["counts"].attrs["signal"] = "1"
        plot["energy"].attrs["axis"], plot["y"].attrs["axis"] = 3, "1"
    check_plot(ps.open_dataset(path), ("y", "dim_1", "energy"))


def test_without_a_default_the_only_plot_is_taken(tmp_path):
    path = tmp_path / "scan.nxs"
    write_nexus(path, signal="counts", axes=["y", ".", "energy"])
    with h5py.File(path, "a") as file:
        del file.attrs["default"]
        del file["entry"].attrs["default"]
    with pytest.raises(ValueError, match=r"choose one.*another/counts.*plot/counts") as caught:
        ps.open_dataset(path)
    assert "monitor" not in str(caught.value)
    with h5py.File(path, "a") as file:
        del file["entry/another"]
    check_plot(ps.open_dataset(path))
    with h5py.File(path, "a") as file:
        file.attrs["default"] = "no/such/entry"
    check_plot(ps.open_dataset(path))


def test_edges_of_bins_axes_over_several_dims_and_scaled_values(tmp_path):
    path = tmp_path / "scan.nxs"
    write_nexus(path, signal="counts", axes=["y", "x", "energy"], x_indices=1,
                energy_set_indices=[2], place_indices=[0, 1])  # fmt: skip
    with h5py.File(path, "a") as file:
        plot = file["entry/plot"]
        plot["x"] = [0.0, 2.0, 4.0, 6.0]  # edges of three bins
        plot["energy_set"] = ENERGY + 0.1
        plot["place"] = np.arange(6.0).reshape(2, 3)
        plot["counts_scaling_factor"], plot["counts_offset"] = 2.0, 1.0
        plot["energy_scaling_factor"] = [0.5]
    ds = ps.open_dataset(path)
    assert ds.x.values.tolist() == [1.0, 3.0, 5.0]
    assert ds.place.dims == ("y", "x")
    assert ds.energy_set.dims == ("energy",)
    assert ds.energy.values.tolist() == (ENERGY / 2).tolist()
    assert np.allclose(ds.signal.values, (CUBE + 1) * 2)
    assert np.array_equal(ps.open_dataset(path, mask_and_scale=False).signal.values, CUBE)


def test_frames_of_a_detector_linked_into_the_plot(tmp_path):
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["data"] = CUBE.astype("u2")
    path = tmp_path / "master.nxs"
    write_nexus(path, signal="linked", axes=["y", ".", "energy"])
    with h5py.File(path, "a") as file:
        file["entry/plot/linked"] = h5py.ExternalLink("frames.h5", "/data")
    ds = ps.open_dataset(path)
    assert ds.signal.dims == ("y", "dim_1", "energy")
    assert ds.signal.dtype == np.uint16


# ---------------------------------------------------------------------- EMD, NIX, HyperSpy


def test_emd_of_berkeley_lab(tmp_path):
    path = tmp_path / "scan.emd"
    with h5py.File(path, "w") as file:
        made = file.create_group("data/scan")
        made.attrs["emd_group_type"] = 1
        made["data"] = CUBE
        axes = [("y", [0.0, 2.0], "[n_m]"), ("x", [1.0, 3.0], "[n_m]"), ("dE", ENERGY, "[e_V]")]
        for i, (name, values, units) in enumerate(axes):
            made[f"dim{i + 1}"] = values
            made[f"dim{i + 1}"].attrs.update(name=name, units=units)
        file["about"] = np.zeros(3)
    ds = check_reader(path)
    assert ds.signal.dims == ("y", "x", "dE")
    assert ds.x.values.tolist() == [1.0, 3.0, 5.0]  # two values stand for a regular axis
    assert ds.dE.values.tolist() == ENERGY.tolist()
    assert ds.dE.attrs["units"] == "eV"
    assert ds.attrs["data_model"] == "EMD"


def test_emd_of_velox(tmp_path):
    path = tmp_path / "image.emd"
    about = {
        "BinaryResult": {"PixelSize": {"width": "2e-9", "height": "1e-9"}, "PixelUnitX": "m",
                         "PixelUnitY": "m", "Offset": {"x": "-4e-9", "y": "0"},
                         "Detector": "SuperX"},
        "Detectors": {"Detector-0": {"DetectorName": "BF"},
                      "Detector-1": {"DetectorName": "SuperX1", "Dispersion": "5",
                                     "OffsetEnergy": "-250"}},
    }  # fmt: skip
    column = np.zeros((1000, 1), "u1")
    text = json.dumps(about).encode()
    column[: len(text), 0] = list(text)
    with h5py.File(path, "w") as file:
        for kind in ("Image", "SpectrumImage"):
            made = file.create_group(f"Data/{kind}/0123abcd")
            made["Data"], made["Metadata"] = CUBE, column
    image = ps.open_dataset(path, dataset="Data/Image/0123abcd/Data")
    assert image.signal.dims == ("y", "x", "frame")
    assert np.allclose(image.x, [-4e-9, -2e-9, 0])
    assert image.y.attrs["units"] == "m"
    spectra = ps.open_dataset(path, dataset="SpectrumImage/0123abcd/Data")
    assert spectra.signal.dims == ("y", "x", "energy")
    assert spectra.energy.values.tolist() == [-250.0, -245.0, -240.0, -235.0]
    assert spectra.attrs["position_dims"] == ["y", "x"]
    with pytest.raises(ValueError, match="choose one") as caught:
        ps.open_dataset(path)
    assert "Metadata" not in str(caught.value)


def test_hyperspy(tmp_path):
    path = tmp_path / "scan.hspy"
    with h5py.File(path, "w") as file:
        file.attrs.update(file_format="HyperSpy", file_format_version="3.1")
        made = file.create_group("Experiments/scan")
        made["data"] = CUBE
        axes = [("y", "nm", 0.5, 1.0, True), ("x", "nm", 0.25, 0.0, True),
                ("Energy loss", "eV", 2.0, -2.0, False)]  # fmt: skip
        for i, (name, units, scale, offset, navigate) in enumerate(axes):
            axis = made.create_group(f"axis-{i}")
            axis.attrs.update(name=name, units=units, scale=scale, offset=offset,
                              navigate=navigate, size=CUBE.shape[i])  # fmt: skip
        made["learning_results/loadings"] = np.zeros((4, 4))
    ds = check_reader(path)
    assert ds.signal.dims == ("y", "x", "Energy loss")
    assert ds["Energy loss"].values.tolist() == [-2.0, 0.0, 2.0, 4.0]
    assert ds.x.values.tolist() == [0.0, 0.25, 0.5]
    assert ds.attrs["position_dims"] == ["y", "x"]


def test_nix(tmp_path):
    path = tmp_path / "recording.nix"
    with h5py.File(path, "w") as file:
        made = file.create_group("data/block/data_arrays/trace")
        made["data"] = np.arange(12, dtype="i2").reshape(3, 4)
        made.attrs.update(name="trace", label="voltage", unit="mV", expansion_origin=1.0)
        made["polynom_coefficients"] = [1.0, 0.5]
        one, two = made.create_group("dimensions/1"), made.create_group("dimensions/2")
        one.attrs.update(dimension_type="set", label="electrode")
        one["labels"] = ["a", "b", "c"]
        two.attrs.update(dimension_type="sample", sampling_interval=0.1, offset=2.0, unit="s",
                         label="time")  # fmt: skip
    ds = ps.open_dataset(path)
    assert ds.signal.dims == ("electrode", "time")
    assert ds.electrode.values.tolist() == ["a", "b", "c"]
    assert np.allclose(ds.time, 2.0 + 0.1 * np.arange(4))
    assert ds.signal.attrs["units"] == "mV"
    assert np.array_equal(ds.signal.values, 1 + 0.5 * (np.arange(12.0).reshape(3, 4) - 1))
    with h5py.File(path, "a") as file:
        del file["data/block/data_arrays/trace/polynom_coefficients"]
        file["data/block/data_arrays/trace/polynom_coefficients"] = [1.0, 0.0, 3.0]
    squared = ps.open_dataset(path).signal.values
    assert np.allclose(squared, 1 + 3 * (np.arange(12.0).reshape(3, 4) - 1) ** 2)


# ---------------------------------------------------------------------- MATLAB 7.3


@pytest.fixture
def matlab(tmp_path: Path) -> Path:
    path = tmp_path / "scan.mat"
    with h5py.File(path, "w", userblock_size=512) as file:

        def put(name: str, values: Any, kind: str, **attrs: Any) -> h5py.Dataset:
            made = file.create_dataset(name, data=values)
            made.attrs.update(MATLAB_class=np.bytes_(kind), **attrs)
            return made

        put("cube", CUBE.T, "double")
        pair = np.zeros((4, 3), [("real", "f8"), ("imag", "f8")])
        pair["real"], pair["imag"] = np.arange(12.0).reshape(4, 3), 1.0
        put("wave", pair, "double")
        put("mask", np.array([[1, 0, 1]], "u1").T, "logical", MATLAB_int_decode=1)
        put("name", np.array([[104, 105]], "u2").T, "char", MATLAB_int_decode=2)
        put("none", np.array([0, 0], "u8"), "double", MATLAB_empty=np.uint8(1))
        first = put("#refs#/a", np.arange(6.0).reshape(2, 3).T, "double")
        second = put("#refs#/b", np.array([[104]], "u2"), "char")
        references = np.array([[first.ref], [second.ref]], h5py.ref_dtype)
        put("cells", references, "cell")
        put("settings/rate", np.array([[5.0]]), "double")
    with open(path, "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def test_variables_of_matlab_have_its_axes_and_types(matlab: Path):
    cube = check_reader(matlab, dataset="cube", dims=("y", "x", "frequency"))
    assert np.array_equal(cube.signal.values, CUBE)
    wave = ps.open_dataset(matlab, dataset="wave").signal
    assert wave.dtype == np.complex128
    assert np.array_equal(wave.values, np.arange(12.0).reshape(4, 3).T + 1j)
    assert ps.open_dataset(matlab, dataset="wave", dtype="float32").signal.dtype == np.complex64
    mask = ps.open_dataset(matlab, dataset="mask").signal
    assert mask.dtype == bool
    assert mask.values.tolist() == [[True, False, True]]
    cell = ps.open_dataset(matlab, dataset="cells{1}")
    assert np.array_equal(cell.signal.values, np.arange(6.0).reshape(2, 3))
    assert cell.attrs["source_dataset"] == "/cells{1}"
    rate = ps.open_dataset(matlab, dataset="settings/rate")
    assert rate.signal.values.tolist() == [[5.0]]


def test_text_and_empty_variables_are_no_arrays(matlab: Path):
    with pytest.raises(ValueError, match="choose one") as caught:
        ps.open_dataset(matlab)
    listed = str(caught.value)
    assert all(f"{name} (" in listed for name in ("cube", "wave", "mask", "cells{1}"))
    assert not any(
        f"{name} (" in listed for name in ("name", "none", "cells", "cells{2}", "#refs#")
    )
    for name in ("name", "none", "cells", "cells{2}"):
        with pytest.raises(ValueError, match="not numbers"):
            ps.open_dataset(matlab, dataset=name)
    with pytest.raises(ValueError, match=r"no dataset cells\{3\}"):
        ps.open_dataset(matlab, dataset="cells{3}")


# ---------------------------------------------------------------------- types of HDF5


def test_unusual_types(tmp_path):
    path = tmp_path / "types.h5"
    table = np.dtype(
        [("name", h5py.string_dtype()), ("height", ">f4"), ("n", "i4"), ("v", "f4", 2)]
    )
    states = h5py.enum_dtype({"off": 0, "on": 1, "lost": 2}, basetype="i1")
    with h5py.File(path, "w") as file:
        peaks = file.create_dataset("peaks", (3,), table)
        peaks[:] = np.array([("ä", 1, 2, 0), ("b", 3, 4, 0), ("c", 5, 6, 0)], table)
        file.create_dataset("state", data=np.array([0, 2, 1], "i1"), dtype=states)
        file["half"] = np.array([0.5, 1.5], "f2")
        file["long"] = np.array([1.0, 2.0], np.longdouble) / 3
        file["opaque"] = np.array([b"ab", b"cd"], dtype=h5py.opaque_dtype(np.dtype("V2")))
        file.create_dataset("ragged", (2,), h5py.vlen_dtype(np.dtype("i4")))
        file["text"] = np.array(["a", "b"], dtype=h5py.string_dtype())
        file["empty"] = h5py.Empty("f4")
        file["nothing"] = np.zeros((0, 4))
        file["größe"] = np.ones((2, 2))
        file["one"] = np.arange(5.0)
    ds = ps.open_dataset(path, dataset="peaks")
    assert ds.component.values.tolist() == ["height", "n"]
    assert ds.signal.values.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert ds.name.values.tolist() == ["ä", "b", "c"]
    assert ds.attrs["left_out"] == ["v"]
    assert ps.open_dataset(path, dataset="state").signal.values.tolist() == [0, 2, 1]
    half = ps.open_dataset(path, dataset="half").signal
    assert half.dtype == np.float32
    assert half.values.tolist() == [0.5, 1.5]
    long = ps.open_dataset(path, dataset="long")
    assert long.signal.dtype == np.float64
    assert long.attrs["stored_as"] == str(np.dtype(np.longdouble))
    assert ps.open_dataset(path, dataset="nothing").signal.shape == (0, 4)
    assert ps.open_dataset(path, dataset="größe").signal.shape == (2, 2)
    assert ps.open_dataset(path, dataset="one").signal.values.tolist() == [0, 1, 2, 3, 4]
    for name, message in (
        ("opaque", "not numbers"),
        ("ragged", "not numbers|never unpickled"),
        ("text", "not numbers|never unpickled"),
        ("empty", "is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            ps.open_dataset(path, dataset=name)
    with pytest.raises(ValueError, match="choose one") as caught:
        ps.open_dataset(path)
    assert not any(f"{name} (" in str(caught.value) for name in ("text", "opaque", "empty"))
