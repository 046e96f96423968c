"""To sidpy and back, without loss."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import penstock as ps
from penstock.attributes import nested_attribute


@pytest.fixture
def ds() -> xr.Dataset:
    values = np.random.default_rng(0).random((3, 4, 5)).astype("f4")
    return ps.make_dataset(
        values,
        ("y", "x", "energy loss"),
        units="nA",
        coords={
            "y": ("y", [0.1, 0.2, 0.4], {"units": "nm", "long_name": "distance"}),
            "energy loss": ("energy loss", np.arange(5.0) / 7, {"units": "eV"}),
            "label": ("x", ["a", "b", "c", "d"]),
        },
        attrs={
            "metadata": {"/": {"operator": "me", "gain": 2.0}},
            "position_dims": ["y", "x"],
            "instrument": "STM",
            "number": 7,
        },
    )


def test_there_and_back_nothing_is_lost(ds: xr.Dataset):
    pytest.importorskip("sidpy")
    ds.signal.attrs["long_name"] = "Current"
    for given in (ds, ds.chunk(x=2), ds.assign(signal=ds.signal.astype(complex) * 1j)):
        made = ps.to_sidpy(given)
        assert made.units == "nA"
        assert made.quantity == "Current"
        assert made.data_type.name == "SPECTRAL_IMAGE"
        assert made.y.units == "nm"
        assert made.y.quantity == "distance"
        assert made.y.values.tolist() == [0.1, 0.2, 0.4]
        assert made._axes[2].dimension_type.name == "SPECTRAL"
        assert np.array_equal(made.compute(), given.signal.values)
        again = ps.from_sidpy(made)
        assert again.signal.chunks is not None
        xr.testing.assert_identical(again.load(), given.load())


def test_what_sidpy_says_is_kept(tmp_path):
    sidpy = pytest.importorskip("sidpy")
    values = np.arange(24.0).reshape(2, 3, 4)
    made = sidpy.Dataset.from_array(values, title="a map", units="pm", quantity="Height")
    made.data_type = "spectral_image"
    made.modality, made.source = "AFM", "microscope"
    made.metadata, made.original_metadata = {"gain": 3}, {"raw": {"a": 1}}
    for axis, (name, kind) in enumerate((("y", "spatial"), ("x", "spatial"), ("f", "spectral"))):
        along = sidpy.Dimension(
            np.linspace(0, 1, values.shape[axis]), name, "Distance", "nm", dimension_type=kind
        )
        made.set_dimension(axis, along)
    ds = ps.from_sidpy(made)
    assert ds.signal.dims == ("y", "x", "f")
    assert np.array_equal(ds.signal.values, values)
    assert ds.signal.attrs == {"units": "pm", "long_name": "Height"}
    assert ds.attrs["position_dims"] == ["y", "x"]
    assert ds.attrs["data_type"] == "SPECTRAL_IMAGE"
    assert (ds.attrs["title"], ds.attrs["modality"]) == ("a map", "AFM")
    assert ds.attrs["instrument"] == "microscope"
    assert nested_attribute(ds.attrs, "original_metadata") == {"raw": {"a": 1}}
    assert ds.f.attrs == {"units": "nm", "long_name": "Distance", "dimension_type": "SPECTRAL"}
    back = ps.to_sidpy(ds)
    for name in ("title", "units", "quantity", "modality", "source", "data_type"):
        assert getattr(back, name) == getattr(made, name), name
    assert back.metadata["gain"] == 3
    assert back.original_metadata == {"raw": {"a": 1}}
    for axis in range(3):
        one, other = back._axes[axis], made._axes[axis]
        assert np.array_equal(one.values, other.values)
        for name in ("name", "units", "quantity", "dimension_type"):
            assert getattr(one, name) == getattr(other, name)


def test_what_is_none_is_told(ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(TypeError, match=r"expected a sidpy\.Dataset, got ndarray"):
        ps.from_sidpy(np.zeros(3))
    monkeypatch.setitem(__import__("sys").modules, "sidpy", None)
    with pytest.raises(ImportError, match="pip install sidpy"):
        ps.to_sidpy(ds)
