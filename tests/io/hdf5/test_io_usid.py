from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from usid_files import (
    POSITIONS,
    SPECTRA,
    grid_tables,
    link,
    write_main,
    write_tables,
    write_usid_file,
)

import penstock as ps
from penstock.attributes import nested_attribute
from penstock.io import list_main_datasets, write_usid_results
from penstock.io.hdf5.contents import SeveralDatasetsError
from penstock.io.hdf5.usid_tables import grid_order
from penstock.reading import reading_of
from penstock.testing import check_reader


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "scan.h5"


# ---------------------------------------------------------------------- dims


@pytest.mark.parametrize("fast_first", [True, False], ids=["fast first", "slow first"])
@pytest.mark.parametrize("as_text", [True, False], ids=["str", "bytes"])
def test_dims_do_not_depend_on_the_order_in_the_file(path, fast_first, as_text):
    (values,) = write_usid_file(path, fast_first=fast_first, as_text=as_text)
    ds = ps.open_dataset(path)
    assert ds.signal.dims == ("Y", "X", "Bias", "Frequency")
    assert ds.signal.dtype == np.float32
    assert np.array_equal(ds.signal.values, values)
    for label, (expected, unit) in {**POSITIONS, **SPECTRA}.items():
        assert ds[label].dtype == np.float64
        assert ds[label].values.tolist() == expected
        assert ds[label].attrs["units"] == unit
    assert ds.signal.attrs == {"long_name": "Amplitude", "units": "m"}
    assert ds.attrs["position_dims"] == ["Y", "X"]
    assert ds.attrs["source_dataset"] == "/Measurement_000/Channel_000/Raw_Data"


def test_group_attributes_are_plain_metadata(path):
    write_usid_file(path, region_references=True)
    with h5py.File(path, "a") as file:
        file["Measurement_000"].attrs["reference"] = file["Measurement_000/Channel_000"].ref
        file["Measurement_000"].attrs["nothing"] = h5py.Empty("f4")
        file["Measurement_000/Channel_000"].attrs["gain"] = np.float32(0.5)
        file["Measurement_000/Channel_000/Raw_Data"].attrs["part"] = file[
            "Measurement_000/Channel_000/Raw_Data"
        ].regionref[:2]
    assert nested_attribute(ps.open_dataset(path).attrs, "metadata") == {
        "/": {"instrument": "synthetic"},
        "/Measurement_000": {"lever": "soft", "rates": [1, 2], "code": "__import__('os')"},
        "/Measurement_000/Channel_000": {"gain": 0.5},
    }


def test_dims_of_size_one_are_kept(path):
    positions = {"Y": ([1.0, 2.0], "m"), "Repeat": ([7.0], ""), "X": ([1.0, 2.0, 3.0], "m")}
    spectra = {"Step": ([5.0], "a. u.")}
    found = []
    for fast_first in (True, False):
        (values,) = write_usid_file(path, None, positions, spectra, fast_first=fast_first)
        ds = ps.open_dataset(path)
        assert np.array_equal(ds.signal.values, values)
        assert ds.Repeat.values.tolist() == [7.0]
        found.append(ds.signal.dims)
    assert found == [("Y", "Repeat", "X", "Step")] * 2


def test_a_line_and_a_point(path):
    line = {"Y": ([1.0], "m"), "X": ([1.0, 2.0, 3.0], "m")}
    for fast_first in (True, False):
        write_usid_file(path, None, line, SPECTRA, fast_first=fast_first)
        assert ps.open_dataset(path).signal.dims == ("Y", "X", "Bias", "Frequency")
    write_usid_file(path, None, {"P": ([0.0], "")}, {"F": ([1.0, 2.0], "Hz")})
    assert ps.open_dataset(path).signal.dims == ("P", "F")


def test_values_along_a_dim_may_repeat_and_fall(path):
    bias = np.concatenate(
        [np.linspace(0, 8, 17), np.linspace(8, -8, 33)[1:], np.linspace(-8, 0, 17)[1:-1]]
    )
    assert (len(bias), len(np.unique(bias))) == (64, 33)
    positions = {"Y": ([3.0, 2.0, 1.0], "m"), "X": ([0.0, 1.0], "m")}
    (values,) = write_usid_file(path, None, positions, {"Bias": (bias, "V")})
    ds = ps.open_dataset(path)
    assert np.array_equal(ds.Bias.values, bias)
    assert ds.Y.values.tolist() == [3.0, 2.0, 1.0]
    assert np.array_equal(ds.signal.values, values)


def test_indices_that_count_down_keep_the_order_of_the_file(path):
    write_usid_file(path)
    with h5py.File(path, "a") as file:
        for name in ("Indices", "Values"):
            table = file[f"Measurement_000/Channel_000/Position_{name}"]
            table[...] = table[...].max(axis=0) - table[...]
        stored = file["Measurement_000/Channel_000/Raw_Data"][...]
    ds = ps.open_dataset(path)
    assert np.array_equal(ds.signal.values, stored.reshape(3, 4, 2, 3))
    assert ds.Y.values.tolist() == [1.5, 1.0, 0.0]


def test_equal_labels_of_positions_and_spectra_become_two_names(path):
    write_usid_file(path, None, {"X": ([1.0, 2.0], "m")}, {"X": ([3.0, 4.0, 5.0], "V")})
    ds = ps.open_dataset(path)
    assert ds.signal.dims == ("X", "X_1")
    assert ds.X_1.attrs["units"] == "V"


def test_a_dimension_that_depends_on_another_keeps_all_its_values(path):
    write_usid_file(path)
    with h5py.File(path, "a") as file:
        table = file["Measurement_000/Channel_000/Spectroscopic_Values"]
        bias, frequency = table[...]
        table[1] = frequency + 100 * bias
    ds = ps.open_dataset(path)
    assert ds.signal.dims == ("Y", "X", "Bias", "Frequency")
    assert "Frequency" not in ds.coords
    assert ds.Frequency_values.dims == ("Bias", "Frequency")
    assert ds.Frequency_values.values.tolist() == [[-90, -80, -70], [110, 120, 130]]
    assert ds.Frequency_values.attrs["units"] == "kHz"
    assert ds.Bias.values.tolist() == [-1.0, 1.0]


# ---------------------------------------------------------------------- no full grid


def _write_points(
    path: Path, indices: np.ndarray, values: np.ndarray, incomplete: bool = False
) -> np.ndarray:
    """Rows (entries, dimensions) of Y and X with two spectra steps."""
    n = len(indices)
    data = np.arange(2.0 * n, dtype=np.float32).reshape(n, 2)
    with h5py.File(path, "w") as file:
        group = file.create_group("Measurement_000/Channel_000")
        write_tables(group, "Position", indices.T, values.T, ["Y", "X"], ["m", "m"])
        steps = {"Step": ([0.0, 1.0], "V")}
        write_tables(group, "Spectroscopic", *grid_tables(steps), ["Step"], ["V"])
        if incomplete:
            group["Position_Indices"].attrs["type"] = [1, 1]
        write_main(group, data)
    return data


def _check_points(path: Path, values: np.ndarray, data: np.ndarray) -> None:
    ds = check_reader(path)
    assert ds.signal.dims == ("position", "Step")
    assert ds.attrs["position_dims"] == ["position"]
    assert np.array_equal(ds.signal.values, data)
    for k, label in enumerate("YX"):
        assert ds[label].dims == ("position",)
        assert np.array_equal(ds[label].values, values[:, k].astype(np.float32))


def test_an_aborted_scan_keeps_one_dim_of_positions(path):
    indices = np.array(list(np.ndindex(4, 5)))[:17]
    _check_points(path, 0.5 * indices, _write_points(path, indices, 0.5 * indices))
    # pointwise data can be put on the grid by xarray
    grid = ps.open_dataset(path).set_index(position=["Y", "X"]).unstack("position")
    assert grid.signal.isel(Step=0).count() == 17


def test_a_spiral_keeps_one_dim_of_positions(path):
    angle = np.linspace(0, 20, 40)
    points = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1)
    shared = np.repeat(np.arange(40)[:, None], 2, axis=1)
    _check_points(path, points, _write_points(path, shared, points))
    _check_points(path, points, _write_points(path, shared, points, incomplete=True))


def test_a_meander_keeps_the_order_of_the_file(path):
    indices = np.array(list(np.ndindex(3, 4)))
    indices[4:8] = indices[4:8][::-1]
    _check_points(path, indices, _write_points(path, indices, indices))


def test_positions_measured_twice_are_no_grid(path):
    indices = np.array([[0, 0], [0, 1], [1, 0], [0, 0]])
    _check_points(path, indices, _write_points(path, indices, indices))


def test_incomplete_spectroscopic_steps_keep_one_dim(path):
    with h5py.File(path, "w") as file:
        group = file.create_group("Measurement_000/Channel_000")
        write_tables(group, "Position", *grid_tables(POSITIONS), ["Y", "X"], ["m", "m"])
        indices = np.array([[0, 0, 0, 1, 1], [0, 1, 2, 0, 1]])
        write_tables(group, "Spectroscopic", indices, indices, ["Bias", "Field"], ["V", "T"])
        write_main(group, np.zeros((12, 5)))
    ds = ps.open_dataset(path)
    assert ds.signal.dims == ("Y", "X", "spectroscopic")
    assert ds.Bias.values.tolist() == [0, 0, 0, 1, 1]
    assert ds.Field.attrs["units"] == "T"


@given(st.permutations(range(3)), st.lists(st.integers(1, 4), min_size=3, max_size=3))
def test_the_order_of_a_grid_is_found_whatever_the_file_lists_first(listed, sizes):
    grid = np.array(list(np.ndindex(*sizes))).T
    found = grid_order([grid[k] for k in listed])
    assert found is not None
    order, shape = found
    in_order = np.array([grid[listed[k]] for k in order])
    # counting in C order through the sizes found gives the entries as they come
    assert np.array_equal(in_order, np.array(list(np.ndindex(*shape))).T)


# ---------------------------------------------------------------------- types


def test_complex_values_stay_complex(path):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1, 3, 4, 2, 3)) + 1j * rng.standard_normal((1, 3, 4, 2, 3))
    write_usid_file(path, values)
    single, double = ps.open_dataset(path, dtype="float32"), ps.open_dataset(path)
    assert single.signal.dtype == np.complex64
    assert double.signal.dtype == np.complex128
    assert np.array_equal(double.signal.values, values[0])
    assert np.array_equal(single.signal.values, values[0].astype(np.complex64))


@pytest.mark.parametrize("stored", ["i2", "u1", ">f8", "f2", "i8"])
def test_numbers_become_the_type_asked_for(path, stored):
    values = np.arange(72).reshape(1, 3, 4, 2, 3).astype(stored)
    write_usid_file(path, values)
    for dtype in ("float32", "float64"):
        found = ps.open_dataset(path, dtype=dtype).signal
        assert found.dtype == dtype
        assert np.array_equal(found.values, values[0].astype(dtype))


OSCILLATOR = ("Amplitude [V]", "Frequency [Hz]", "Quality Factor", "Phase [rad]", "R2 Criterion")


@pytest.mark.parametrize("options", [{}, {"chunks": (5, 2)}], ids=["contiguous", "chunked"])
def test_fields_of_a_compound_type_become_a_dim(path, options):
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((5, 1, 3, 4, 2, 3)).astype(np.float32)
    dtype = np.dtype([(name, "f4" if i else "f8") for i, name in enumerate(OSCILLATOR)])
    values = np.empty(parts.shape[1:], dtype)
    for name, part in zip(OSCILLATOR, parts, strict=True):
        values[name] = part
    write_usid_file(path, values, **options)
    ds = ps.open_dataset(path)
    assert ds.signal.dims == ("Y", "X", "Bias", "Frequency", "component")
    assert ds.component.values.tolist() == list(OSCILLATOR)
    assert np.array_equal(ds.signal.values, np.moveaxis(parts[:, 0], 0, -1))
    quality = ds.signal.sel(component="Quality Factor").isel(Y=slice(1, 3), X=[3, 0])
    assert np.array_equal(quality.values, parts[2, 0, 1:3][:, [3, 0]])


# ---------------------------------------------------------------------- reading


def _numbers(shape: tuple[int, ...], stored: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if stored == "fields":
        values = np.empty(shape, [("Amplitude", "f4"), ("Phase", "f8"), ("Error", "f4")])
        for name in values.dtype.names:
            values[name] = rng.standard_normal(shape)
        return values
    values = 1000 * rng.standard_normal((2, *shape))
    return (values[0] + 1j * values[1] if stored == "c16" else values[0]).astype(stored)


@pytest.mark.parametrize("stored", ["f4", "i2", "c16", "fields"])
@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (50, 200), "shuffle": True, "compression": "gzip"}, {"chunks": (320, 9)}],
    ids=["contiguous", "chunked", "tall chunks"],
)
def test_the_contract_of_readers(path, stored, options):
    positions = {"Y": (np.arange(20.0), "m"), "X": (np.arange(16.0), "m")}
    spectra = {"Bias": ([-1.0, 0.0, 1.0], "V"), "Frequency": (np.arange(120.0), "Hz")}
    values = _numbers((20, 16, 3, 120), stored)
    write_usid_file(path, values[np.newaxis], positions, spectra, **options)
    ds = check_reader(path, dtype="float64")
    found = ds.signal.values
    if stored == "fields":
        assert ds.component.values.tolist() == ["Amplitude", "Phase", "Error"]
        assert all(
            np.array_equal(found[..., i], values[n]) for i, n in enumerate(ds.component.values)
        )
    else:
        assert np.array_equal(found, values)
    assert reading_of(ds.signal).scratch_bytes < 32 << 20
    assert reading_of(ds.signal).interleaved is (options.get("chunks") == (320, 9))


def test_large_spectra_are_read_in_pieces(path):
    """Rows beyond the size of one read, with gaps that are worth a read of their own."""
    values = _numbers((1, 2, 3, 200_000), "f4")
    positions = {"Y": ([0.0, 1.0], "m"), "X": ([0.0, 1.0, 2.0], "m")}
    write_usid_file(path, values, positions, {"F": (np.arange(200_000.0), "Hz")})
    assert np.array_equal(check_reader(path).signal.values, values[0])


def test_runs_through_a_pipeline(path):
    (values,) = write_usid_file(path, chunks=(5, 6), compression="gzip")
    ds = ps.open_dataset(path)
    pipeline = ps.Pipeline([ps.Apply(np.negative, core_dims=("Frequency",))])
    assert np.array_equal(pipeline(ds).signal.values, -values)


# ---------------------------------------------------------------------- several datasets


def test_several_channels_must_be_chosen_from(path):
    values = write_usid_file(path, channels=3)
    with pytest.raises(
        ValueError, match=r"several datasets: choose one with dataset=.*Channel_000.*Channel_002"
    ) as caught:
        ps.open_dataset(path)
    assert "\n" not in str(caught.value)
    for name in ("Channel_001/Raw_Data", "/Measurement_000/Channel_001/Raw_Data"):
        assert np.array_equal(ps.open_dataset(path, dataset=name).signal.values, values[1])
    with pytest.raises(ValueError, match="several datasets named Raw_Data"):
        ps.open_dataset(path, dataset="Raw_Data")
    with pytest.raises(ValueError, match=r"no dataset Channel_003/Raw_Data: it holds Meas.*12 x 6"):
        ps.open_dataset(path, dataset="Channel_003/Raw_Data")
    found = list_main_datasets(path)
    assert [main.name for main in found] == [
        f"/Measurement_000/Channel_00{i}/Raw_Data" for i in range(3)
    ]
    assert str(found[0]) == "Measurement_000/Channel_000/Raw_Data (Amplitude [m], 12 x 6)"


def test_results_of_tools_stand_back(path):
    (values,) = write_usid_file(path)
    ds = ps.open_dataset(path)
    maximum = ds.signal.max("Frequency").rename("maximum").to_dataset()
    group = write_usid_results(path, None, "Maximum", maximum)
    assert np.array_equal(ps.open_dataset(path).signal.values, values)
    found = ps.open_dataset(path, dataset=f"{group}/maximum", engine="usid").signal
    assert np.array_equal(found.values, values.max(axis=-1))


# ---------------------------------------------------------------------- unusable files


def test_files_that_are_no_hdf5_or_cut_short(path, tmp_path):
    write_usid_file(path, chunks=(5, 4))
    whole = path.read_bytes()
    for fraction, message in ((0.6, r"cut short: it holds \d+ bytes"), (0.01, "scan")):
        path.write_bytes(whole[: int(len(whole) * fraction)])
        with pytest.raises(ValueError, match=message) as caught:
            ps.open_dataset(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_text("not what its name says")
    with pytest.raises(ValueError, match="named like HDF5 but does not hold it"):
        ps.open_dataset(path)
    with pytest.raises(ValueError, match="is not an HDF5 file"):
        ps.open_dataset(path, engine="usid")


def test_files_without_main_dataset(path):
    with h5py.File(path, "w") as file:
        file["image"] = np.zeros((3, 4))
    with pytest.raises(ValueError, match="no USID main dataset: none of its datasets refers"):
        ps.open_dataset(path, engine="usid")
    assert ps.open_dataset(path).signal.shape == (3, 4)
    assert list_main_datasets(path) == []


def _short_table(group: h5py.Group) -> None:
    tables = group.file.create_group("short")
    write_tables(tables, "Position", *grid_tables({"Y": ([1, 2], "m")}), ["Y"], ["m"])
    for name in ("Indices", "Values"):
        group["Raw_Data"].attrs[f"Position_{name}"] = tables[f"Position_{name}"].ref


def _lost_label(group: h5py.Group) -> None:
    group["Spectroscopic_Values"].attrs["labels"] = np.array(["Bias"], "S")


def _deleted_table(group: h5py.Group) -> None:
    del group["Position_Values"]


def _lost_quantity(group: h5py.Group) -> None:
    del group["Raw_Data"].attrs["quantity"]


def _renamed_label(group: h5py.Group) -> None:
    group["Position_Values"].attrs["labels"] = np.array(["Y", "Z"], "S")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_short_table, r"shapes \(2, 1\) and \(2, 1\) for 12 rows"),
        (_lost_label, "has not one of the labels for every dimension"),
        (_deleted_table, "attribute Position_Values refers to no dataset"),
        (_lost_quantity, "has no attribute quantity"),
        (_renamed_label, "labels of .*Position_Indices and .*Position_Values differ"),
    ],
)
def test_tables_that_do_not_match_are_told(path, break_it, message):
    write_usid_file(path)
    with h5py.File(path, "a") as file:
        break_it(file["Measurement_000/Channel_000"])
    for options in ({}, {"dataset": "Channel_000/Raw_Data"}, {"engine": "usid"}):
        if options == {"dataset": "Channel_000/Raw_Data"}:
            options["dataset"] = "Measurement_000/Channel_000/Raw_Data"
        with pytest.raises(ValueError, match=message) as caught:
            ps.open_dataset(path, **options)
        assert str(path) in str(caught.value)
    # nothing keeps the values from being read as what they are
    array = ps.open_dataset(path, dataset="Raw_Data", dims=("row", "column"))
    assert array.signal.shape == (12, 6)


def test_names_for_the_dims_keep_coordinates_and_units(path):
    (values,) = write_usid_file(path)
    for dims in (("y", "x", "bias", "frequency"), "y,x, bias,frequency"):
        ds = check_reader(path, dims=dims)
        assert ds.signal.dims == ("y", "x", "bias", "frequency")
        assert np.array_equal(ds.signal.values, values)
        assert ds.attrs["position_dims"] == ["y", "x"]
        for name, (expected, unit) in zip(
            ds.signal.dims, {**POSITIONS, **SPECTRA}.values(), strict=True
        ):
            assert ds[name].values.tolist() == expected
            assert ds[name].attrs["units"] == unit
    swapped = ps.open_dataset(path, dims=("X", "Y", "Bias", "f"), coords={"f": [1, 2, 3]})
    assert swapped.X.values.tolist() == POSITIONS["Y"][0]
    assert swapped.f.values.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"Raw_Data of .* has the dims \('Y', 'X', .*every one"):
        ps.open_dataset(path, dims=("row", "column"))
    # a table itself is no main dataset
    table = ps.open_dataset(
        path, dataset="Channel_000/Position_Indices", dims=("position", "dimension")
    )
    assert table.signal.shape == (12, 2)


def test_values_that_depend_on_another_dim_are_renamed_with_theirs(path):
    write_usid_file(path)
    with h5py.File(path, "a") as file:
        table = file["Measurement_000/Channel_000/Spectroscopic_Values"]
        bias, frequency = table[...]
        table[1] = frequency + 100 * bias
    ds = ps.open_dataset(path, dims="y,x,v,f")
    assert ds.f_values.dims == ("v", "f")
    assert ds.f_values.values.tolist() == [[-90, -80, -70], [110, 120, 130]]
    assert ds.f_values.attrs["units"] == "kHz"


def test_names_for_the_dims_of_scattered_points_and_components(path):
    indices = np.array([[0, 1, 2], [5, 3, 4]])
    dtype = np.dtype([("a", "f4"), ("b", "f4")])
    with h5py.File(path, "w") as file:
        write_tables(file, "Position", indices, indices * 0.5, ["Y", "X"], ["m", "m"])
        write_tables(file, "Spectroscopic", *grid_tables({"F": ([1, 2], "Hz")}), ["F"], ["Hz"])
        write_main(file, np.zeros((3, 2), dtype))
    ds = ps.open_dataset(path, dims=("point", "frequency"))
    assert ds.signal.dims == ("point", "frequency", "component")
    assert ds.X.dims == ("point",)
    assert ds.attrs["position_dims"] == ["point"]
    for dims, message in (
        (("X", "frequency"), r"has a coordinate 'X' along \('position',\): choose another"),
        (("point", "component"), "'component' is the name of the fields"),
    ):
        with pytest.raises(ValueError, match=message):
            ps.open_dataset(path, dims=dims)


def test_tables_of_broken_datasets_are_not_offered_as_arrays(path):
    write_usid_file(path, channels=2)
    with h5py.File(path, "a") as file:
        for i in range(2):
            del file[f"Measurement_000/Channel_00{i}/Raw_Data"].attrs["quantity"]
    with pytest.raises(SeveralDatasetsError) as caught:
        ps.open_dataset(path, dims=("row", "column"))
    names = tuple(f"/Measurement_000/Channel_00{i}/Raw_Data" for i in range(2))
    assert caught.value.names == names
    for name in names:
        ds = ps.open_dataset(path, dataset=name, dims=("row", "column"))
        assert ds.signal.sizes == {"row": 12, "column": 6}
    with h5py.File(path, "a") as file:
        del file[names[1]]
    ds = ps.open_dataset(path, dims=("row", "column"))
    assert ds.attrs["source_dataset"] == names[0]


def test_several_main_datasets_are_named_in_the_error(path):
    write_usid_file(path, channels=15)
    for options in ({}, {"engine": "usid"}, {"dataset": "Raw_Data"}, {"dims": "y,x,v,f"}):
        with pytest.raises(SeveralDatasetsError, match=r"several datasets.*and 3 more") as caught:
            ps.open_dataset(path, **options)
        assert caught.value.names == tuple(main.name for main in list_main_datasets(path))
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.names) == (str(caught.value), caught.value.names)
    for options in ({"dataset": 0}, {"dataset": ["Raw_Data"], "engine": "usid"}):
        with pytest.raises(ValueError, match="is no name: datasets are chosen by") as caught:
            ps.open_dataset(path, **options)
        assert str(path) in str(caught.value)


def test_xarray_takes_the_dataset_and_names_for_its_dims(path):
    values = write_usid_file(path, channels=2)
    ds = xr.open_dataset(
        path, engine="penstock", dataset="Channel_001/Raw_Data", dims=("y", "x", "v", "f")
    )
    assert ds.signal.dims == ("y", "x", "v", "f")
    assert np.array_equal(ds.signal.values, values[1])
    with pytest.raises(SeveralDatasetsError):
        xr.open_dataset(path, engine="penstock")


def test_foreign_datasets_are_passed_over(path):
    (values,) = write_usid_file(path)
    with h5py.File(path, "a") as file:
        file["text"] = "hello"
        file["empty"] = h5py.Empty("f4")
        file["objects"] = np.array([b"a", b"bc"], dtype=object)
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["elsewhere"] = h5py.ExternalLink("missing.h5", "/x")
        odd = file.create_dataset("odd", (3, 3), "f4")
        odd.attrs["Position_Indices"] = "a text"
        odd.attrs["quantity"] = [1.0, 2.0]
        file.create_dataset("scalar", data=1.0).attrs["Position_Indices"] = odd.ref
    assert np.array_equal(ps.open_dataset(path).signal.values, values)


def test_a_file_replaced_after_opening_is_not_read_as_the_old_one(path):
    write_usid_file(path)
    ds = ps.open_dataset(path)
    write_usid_file(path, np.zeros((1, 3, 4, 2, 3), np.float64))
    with pytest.raises(OSError, match="has changed since it was opened: open it again"):
        ds.signal.load()


def test_values_are_found_where_the_file_has_moved_them(path):
    write_usid_file(path)
    ds = ps.open_dataset(path)
    with h5py.File(path, "a") as file:
        group = file["Measurement_000/Channel_000"]
        del group["Raw_Data"]
        group["filler"] = np.ones(5000)
        link(group.create_dataset("Raw_Data", data=np.full((12, 6), 7, np.float32)), group)
    assert (ds.signal.values == 7).all()


def test_a_read_only_file_in_a_read_only_folder(path):
    (values,) = write_usid_file(path, chunks=(5, 4))
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        assert np.array_equal(ps.open_dataset(path).signal.values, values)
    finally:
        path.parent.chmod(0o755)


def test_a_file_that_is_open_in_this_process(path):
    (values,) = write_usid_file(path, chunks=(5, 4))
    for mode in ("r", "r+"):
        for locking in (None, True, False):
            with h5py.File(path, mode, locking=locking):
                assert np.array_equal(ps.open_dataset(path).signal.values, values)


# ---------------------------------------------------------------------- real files


def test_an_instrument_file_of_four_channels(spm):
    path = spm / "SingFreqPFM_0003_h5usid.h5"
    with pytest.raises(ValueError, match=r"HeightRetrace \[m\].*PhaseRetrace"):
        ps.open_dataset(path)
    ds = check_reader(path, dataset="Channel_001/Raw_Data")
    # X is listed first and varies fastest: rows of the image are Y
    assert ds.signal.dims == ("Y", "X", "arb")
    assert ds.signal.attrs == {"long_name": "AmplitudeRetrace", "units": "m"}
    with h5py.File(path) as file:
        stored = file["Measurement_000/Channel_001/Raw_Data"][...]
        rows, columns = file["Measurement_000/Position_Indices"][...][:, ::-1].T
    image = np.empty((128, 128), np.float32)
    image[rows, columns] = stored[:, 0]
    assert np.array_equal(ds.signal.values[..., 0], image)
    assert nested_attribute(ds.attrs, "metadata")["/Measurement_000"]["XSensor"] == "Cypher.LVDT.X"


def test_nsid_and_usid_of_one_measurement_agree(spm):
    nsid = check_reader(spm / "BEPS_PTO_50x50.h5")
    usid = check_reader(spm / "derived_BEPS_PTO_50x50_h5usid.h5")
    assert nsid.signal.dims == ("X", "Y", "Voltage")
    assert usid.signal.dims == ("X", "Y", "Voltage_step")
    assert np.array_equal(nsid.signal.values.astype(np.float32), usid.signal.values)
    assert len(np.unique(nsid.Voltage.values)) < nsid.sizes["Voltage"]
