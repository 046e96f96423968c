from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from usid_files import POSITIONS, SPECTRA, grid_tables, write_main, write_tables, write_usid_file

import penstock as ps
from penstock.dataset import lazy_variable
from penstock.io import list_main_datasets, write_usid, write_usid_results

TABLES = ("Position_Indices", "Position_Values", "Spectroscopic_Indices", "Spectroscopic_Values")


def assert_main(dataset: h5py.Dataset) -> None:
    """The criteria of pyUSID's ``check_if_main``."""
    assert dataset.ndim == 2
    assert "-" not in dataset.name.rsplit("/", 1)[-1]
    for name in ("quantity", "units"):
        assert isinstance(dataset.attrs[name], str)
    tables = {name: dataset.file[dataset.attrs[name]] for name in TABLES}
    for axis, side in enumerate(("Position", "Spectroscopic")):
        indices, values = tables[f"{side}_Indices"], tables[f"{side}_Values"]
        assert indices.shape == values.shape
        assert indices.shape[axis] == dataset.shape[axis]
        assert indices.dtype == np.uint32
        for table in (indices, values):
            for name in ("labels", "units"):
                assert table.attrs[name].dtype.kind == "S"
                assert len(table.attrs[name]) == indices.shape[1 - axis]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "scan.h5"


@pytest.fixture
def results() -> xr.Dataset:
    rng = np.random.default_rng(1)
    fit = xr.Dataset(
        {
            "parameters": (("Y", "X", "parameter"), rng.standard_normal((3, 4, 2))),
            # dims in another order than in the file
            "errors": (("parameter", "X", "Y"), rng.random((2, 4, 3)).astype("f4")),
            "status": (("Y", "X"), np.arange(12).reshape(3, 4).astype("i1")),
            "converged": (("Y", "X"), rng.random((3, 4)) > 0.5),
            "residual": (("Y", "X", "Bias", "Frequency"), rng.random((3, 4, 2, 3))),
            "peaks": (("Y", "X", "slot"), rng.random((3, 4, 5)) + 1j),
            "stacked": (("position",), np.arange(12.0)),
        },
        {label: along for label, (along, _) in {**POSITIONS, **SPECTRA}.items()},
    )
    fit = fit.assign_coords(parameter=["height", "width"])
    fit.status.attrs["flag_meanings"] = "done failed"
    fit.parameters.attrs.update(units="V", long_name="Fit")
    return fit


# ---------------------------------------------------------------------- results


@pytest.mark.parametrize("fast_first", [True, False], ids=["fast first", "slow first"])
def test_results_lie_beside_the_measurement(path, results, fast_first):
    (values,) = write_usid_file(path, fast_first=fast_first)
    name = write_usid_results(path, None, "SHO_Fit", results)
    assert name == "/Measurement_000/Channel_000/Raw_Data-SHO_Fit_000"
    with h5py.File(path) as file:
        source, group = file["Measurement_000/Channel_000/Raw_Data"], file[name]
        assert file[group.attrs["source_000"]] == source
        assert group.attrs["num_source_dsets"] == 1
        assert group.attrs["tool"] == "SHO_Fit"
        assert {"machine_id", "timestamp", "platform", "penstock_version"} <= set(group.attrs)
        for key in map(str, results.data_vars):
            dataset = group[key]
            assert_main(dataset)
            for table in TABLES[:2]:
                assert file[dataset.attrs[table]] == file[source.attrs[table]]
            # positions in the order of the source's rows, by its own table
            order = slice(None, None, -1 if fast_first else 1)
            rows, columns = file[source.attrs["Position_Indices"]][...][:, order].T
            expected = results[key]
            if key != "stacked":
                expected = expected.transpose("Y", "X", ...).values[rows, columns]
            assert np.array_equal(dataset[...], np.asarray(expected).reshape(12, -1)), key
        assert group["parameters"].attrs["quantity"] == "Fit"
        assert group["parameters"].attrs["units"] == "V"
        assert group["peaks"].dtype == np.complex128
        assert group["status"].attrs["flag_meanings"] == "done failed"
        # what has not changed is shared, with the source and among the results
        spectra = "Spectroscopic_Values"
        assert file[group["residual"].attrs[spectra]] == file[source.attrs[spectra]]
        shared = {file[group[key].attrs[spectra]].name for key in ("parameters", "errors")}
        assert len(shared) == 1
        assert np.array_equal(source[...], values.reshape(12, 6))
    found = ps.open_dataset(path, dataset=f"{name}/parameters", dtype="float64")
    assert found.signal.dims == ("Y", "X", "parameter")
    assert found.parameter.values.tolist() == ["height", "width"]
    assert np.array_equal(found.signal.values, results.parameters.values)
    assert np.array_equal(ps.open_dataset(path).signal.values, values)


def test_groups_are_numbered_on(path, results):
    write_usid_file(path, channels=2)
    with h5py.File(path, "a") as file:
        channel = file["Measurement_000/Channel_001"]
        for name in ("Raw_Data-Fit_2_000", "Raw_Data-Fit_007", "Raw_Data-Fit_x", "Raw-Fit_009"):
            channel.create_group(name)
    status = results[["status"]]
    found = [
        write_usid_results(path, "Channel_001/Raw_Data", name, status)
        for name in ("Fit", "Fit", "Fit_2", "peak-fit / 2")
    ]
    assert [name.rsplit("/", 1)[1] for name in found] == [
        "Raw_Data-Fit_008", "Raw_Data-Fit_009", "Raw_Data-Fit_2_001", "Raw_Data-peak_fit _ 2_000",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="several datasets: choose one"):
        write_usid_results(path, None, "Fit", status)


def test_parameters_are_attributes_of_the_group(path, results):
    write_usid_file(path)
    parameters = {
        "degree": 2,
        "scale": 0.1,
        "robust": True,
        "method": "lm",
        "names": ["ω₀", "Q"],
        "bounds": [0.0, 1.5],
        "options": {"ftol": 1e-8, "loss": None},
        "guess": np.array([1.0, 2.0]),
        "unset": None,
    }
    status = results[["status"]].assign_attrs(penstock={"pipeline": [{"processor": "Fit"}]})
    name = write_usid_results(path, None, "Fit", status, parameters=parameters, tool="mine")
    with h5py.File(path) as file:
        attrs = dict(file[name].attrs)
    assert (attrs["degree"], attrs["scale"], attrs["robust"]) == (2, 0.1, True)
    assert (attrs["method"], attrs["tool"]) == ("lm", "mine")
    assert [n.decode() for n in attrs["names"]] == ["ω₀", "Q"]
    assert attrs["bounds"].tolist() == [0.0, 1.5]
    assert attrs["guess"].tolist() == [1.0, 2.0]
    assert json.loads(attrs["options"]) == parameters["options"]
    assert json.loads(attrs["pipeline"]) == [{"processor": "Fit"}]
    assert "unset" not in attrs
    for bad, message in (
        ({"tool": "x"}, "parameters named tool describe the group"),
        ({"guess": np.zeros(10_000)}, "'guess' is too large for an attribute"),
    ):
        with pytest.raises(ValueError, match=message):
            write_usid_results(path, None, "Fit", status, parameters=bad)


def test_results_of_positions_without_grid(path):
    indices = np.array(list(np.ndindex(3, 4)))[:10].T
    with h5py.File(path, "w") as file:
        group = file.create_group("Measurement_000/Channel_000")
        write_tables(group, "Position", indices, indices, ["Y", "X"], ["m", "m"])
        write_tables(group, "Spectroscopic", *grid_tables({"F": ([1.0], "Hz")}), ["F"], ["Hz"])
        write_main(group, np.arange(10.0)[:, None])
    ds = ps.open_dataset(path)
    maxima = ds.signal.max("F").rename("maximum").to_dataset()
    name = write_usid_results(path, None, "Max", maxima)
    found = ps.open_dataset(path, dataset=f"{name}/maximum")
    assert found.signal.dims == ("position", "Single_Step")
    assert found.signal.values[:, 0].tolist() == list(range(10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.drop_vars(list(r.data_vars)), "hold no variable"),
        (lambda r: r.assign(mean=r.status.mean("X")), r"'mean' has the dims .*drop_vars\('mean'\)"),
        (lambda r: r.isel(X=slice(2))[["status"]], "other positions along X than the 4"),
        (lambda r: r.isel(Y=slice(None, None, -1))[["status"]], "other positions along Y"),
        (lambda r: r[["stacked"]].isel(position=slice(5)), "other positions along position"),
        (lambda r: r.assign(note=r.status.astype(str))[["note"]], "'note' holds <U.*, not numbers"),
        (lambda r: r.rename(status="a-b", errors="a_b")[["a-b", "a_b"]], "would be named 'a_b'"),
    ],
)
def test_results_that_do_not_fit_change_nothing(path, results, change, message):
    write_usid_file(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        write_usid_results(path, None, "Fit", change(results))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_names_that_are_none(path, results):
    write_usid_file(path)
    with pytest.raises(ValueError, match="is no name for a group"):
        write_usid_results(path, None, "..", results[["status"]])


class Computed:
    """Stands for a lazy result: rows that know their place."""

    def __init__(self, shape: tuple[int, ...], limit: int | None = None):
        self.shape, self.limit = shape, limit

    def __call__(self, *indexers: slice) -> np.ndarray:
        if self.limit is not None and indexers[0].stop > self.limit:
            raise RuntimeError("out of luck")
        strides = np.array([int(np.prod(self.shape[a + 1 :])) for a in range(len(self.shape))])
        spans = [
            np.arange(i.start, i.stop) * 1.0 * n for i, n in zip(indexers, strides, strict=True)
        ]
        return sum(np.ix_(*spans))

    def variable(self, *dims: str) -> xr.Variable:
        return lazy_variable(dims, self, self.shape, np.float64)


def test_large_results_are_streamed(path):
    shape = (64, 64, 4096)  # 128 MiB
    positions = {"Y": (np.arange(64.0), "m"), "X": (np.arange(64.0), "m")}
    write_usid_file(path, None, positions, {"F": ([0.0], "Hz")})
    results = xr.Dataset({"large": Computed(shape).variable("Y", "X", "slot")})
    tracemalloc.start()
    try:
        name = write_usid_results(path, None, "Large", results)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 90e6
    found = ps.open_dataset(path, dataset=f"{name}/large", dtype="float64").signal
    assert found[63, 63, ::1000].values.tolist() == [
        64 * 64 * 4096 - 4096 + k for k in range(0, 4096, 1000)
    ]
    assert found[5, 6, 7] == (5 * 64 + 6) * 4096 + 7


def test_results_of_dask_are_computed_chunk_by_chunk(path):
    positions = {"Y": (np.arange(6.0), "m"), "X": (np.arange(7.0), "m")}
    write_usid_file(path, None, positions, {"F": ([0.0], "Hz")})
    values = np.random.default_rng(0).random((6, 7, 4, 5))
    lazy = xr.Dataset({"a": (("Y", "X", "p", "q"), values)}).chunk(Y=4, X=3, p=3, q=2)
    name = write_usid_results(path, None, "Lazy", lazy)
    found = ps.open_dataset(path, dataset=f"{name}/a", dtype="float64").signal
    assert np.array_equal(found.values, values)


# ---------------------------------------------------------------------- safety


def test_a_result_that_fails_leaves_the_file_as_it_was(path):
    shape = (64, 64, 4096)
    positions = {"Y": (np.arange(64.0), "m"), "X": (np.arange(64.0), "m")}
    write_usid_file(path, None, positions, {"F": ([0.0], "Hz")})
    before = path.read_bytes()
    results = xr.Dataset({"large": Computed(shape, limit=40).variable("Y", "X", "slot")})
    with pytest.raises(RuntimeError, match="out of luck"):
        write_usid_results(path, None, "Large", results)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_full_disk_leaves_the_file_as_it_was(path, results, monkeypatch):
    write_usid_file(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        write_usid_results(path, None, "Fit", results)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_is_open_elsewhere_is_told_before_anything_is_computed(path):
    write_usid_file(path)
    results = xr.Dataset({"never": Computed((3, 4), limit=0).variable("Y", "X")})
    with h5py.File(path), pytest.raises(OSError, match="is open in another program, or in this"):
        write_usid_results(path, None, "Fit", results)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_files_and_folders_that_cannot_be_written(path, results):
    write_usid_file(path)
    path.chmod(0o444)
    with pytest.raises(OSError, match="cannot be written: make it writable"):
        write_usid_results(path, None, "Fit", results)
    path.chmod(0o644)
    path.parent.chmod(0o555)
    try:
        with pytest.raises(OSError, match="nothing can be written in"):
            write_usid_results(path, None, "Fit", results)
    finally:
        path.parent.chmod(0o755)


def _write_and_die(path: Path, results: xr.Dataset, step: int) -> bool:
    """Write in a child that ends without notice before its n-th change to a file; if it did."""
    child = os.fork()
    if child == 0:
        left = [step]

        def dying(call):
            def counted(*args, **kwargs):
                if not left[0]:
                    os._exit(9)
                left[0] -= 1
                return call(*args, **kwargs)

            return counted

        for name in ("pwrite", "fsync", "replace", "ftruncate", "unlink"):
            setattr(os, name, dying(getattr(os, name)))
        try:
            write_usid_results(path, None, "Fit", results)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_killed_at_any_moment_the_measurement_is_there(path, results):
    (values,) = write_usid_file(path)
    results = results[["status"]]
    broken_for_others = 0
    for step in range(500):
        copy = path.parent / str(step) / path.name
        copy.parent.mkdir()
        shutil.copyfile(path, copy)
        died = _write_and_die(copy, results, step)
        try:
            with h5py.File(copy) as file:
                stored = file["Measurement_000/Channel_000/Raw_Data"][...]
            assert np.array_equal(stored, values.reshape(12, 6))
        except (OSError, KeyError):
            broken_for_others += 1
        # whatever was left, the file opens, and has the results as a whole or not at all
        assert np.array_equal(ps.open_dataset(copy).signal.values, values)
        assert len(list_main_datasets(copy)) in (1, 2)
        # and takes the results now
        name = write_usid_results(copy, None, "Fit", results)
        found = ps.open_dataset(copy, dataset=f"{name}/status")
        assert np.array_equal(found.signal.values[..., 0], results.status.values)
        if not died:
            break
    else:
        pytest.fail("never came to its end")
    assert step > 5
    # only while the last few pages are carried over, with the journal beside it
    assert broken_for_others <= 3


# ---------------------------------------------------------------------- files of their own


def test_a_dataset_becomes_a_file(tmp_path):
    values = np.random.default_rng(0).random((3, 4, 2, 5))
    frequency = 285593.2203 + np.arange(5) / 7
    ds = ps.make_dataset(
        values,
        ("y", "x", "bias", "frequency"),
        units="pm",
        coords={
            "y": ("y", [0.0, 1.0, 2.0], {"units": "um"}),
            "bias": ("bias", [-1.0, 1.0], {"units": "V"}),
            "frequency": ("frequency", frequency, {"units": "Hz"}),
        },
        attrs={"position_dims": ["y", "x"], "metadata": {"/tip": {"material": "Pt", "k": 2.5}}},
    )
    path = tmp_path / "out.h5"
    name = write_usid(ds, path)
    assert name == "/Measurement_000/Channel_000/Raw_Data"
    with h5py.File(path) as file:
        assert_main(file[name])
        assert file[name].dtype == np.float64
        # float64, not rounded to float32 as others do
        channel = file["Measurement_000/Channel_000"]
        assert np.array_equal(channel["Spectroscopic_Values"][1, :5], frequency)
        assert channel["Position_Indices"].attrs["labels"].tolist() == [b"y", b"x"]
        assert file["Measurement_000"].attrs["material"] == "Pt"
    found = ps.open_dataset(path, dtype="float64")
    assert found.signal.dims == ("y", "x", "bias", "frequency")
    assert np.array_equal(found.signal.values, values)
    assert np.array_equal(found.frequency.values, frequency)
    assert found.frequency.attrs["units"] == "Hz"
    assert found.signal.attrs["units"] == "pm"
    assert os.listdir(tmp_path) == ["out.h5"]


def test_which_dims_are_positions(tmp_path):
    ds = ps.make_dataset(np.arange(24.0).reshape(2, 3, 4), ("frequency", "y", "x"))
    path = tmp_path / "out.h5"
    write_usid(ds, path, position_dims=("y", "x"))
    found = ps.open_dataset(path)
    assert found.signal.dims == ("y", "x", "frequency")
    assert np.array_equal(found.signal.values, ds.signal.transpose("y", "x", "frequency").values)
    write_usid(ds, path, position_dims=(), overwrite=True)
    found = ps.open_dataset(path)
    assert found.signal.dims == ("Single_Position", "frequency", "y", "x")
    write_usid(ds, path, position_dims=("frequency", "y", "x"), overwrite=True)
    assert ps.open_dataset(path).signal.dims == ("frequency", "y", "x", "Single_Step")
    with pytest.raises(ValueError, match="position_dims: z are no dims of the signal"):
        write_usid(ds, path, position_dims=("z",), overwrite=True)


def test_what_was_read_can_be_written(path, tmp_path):
    """Points without grid, dependent dimensions, components, complex values."""
    write_usid_file(path, channels=1)
    with h5py.File(path, "a") as file:
        group = file["Measurement_000/Channel_000"]
        group["Spectroscopic_Values"][1] += 100 * group["Spectroscopic_Values"][0]
        indices = group["Position_Indices"]
        indices[...] = np.arange(12)[:, None]
        values = np.zeros((12, 6), [("A", "f4"), ("B", "f4")])
        values["B"] = np.arange(72).reshape(12, 6)
        del group["Raw_Data"]
        write_main(group, values)
    ds = ps.open_dataset(path)
    assert ds.signal.dims == ("position", "Bias", "Frequency", "component")
    write_usid(ds, tmp_path / "again.h5")
    again = ps.open_dataset(tmp_path / "again.h5")
    assert again.signal.dims == ds.signal.dims
    assert np.array_equal(again.signal.values, ds.signal.values)
    assert again.component.values.tolist() == ["A", "B"]
    for name in ("X", "Y", "Frequency_values", "Bias"):
        xr.testing.assert_equal(again[name].variable, ds[name].variable)
    wave = ds.assign(signal=ds.signal.sel(component="B").astype(complex) * 1j)
    write_usid(wave, tmp_path / "wave.h5")
    found = ps.open_dataset(tmp_path / "wave.h5").signal
    assert found.dtype == np.complex128
    assert np.array_equal(found.values, wave.signal.values)


def test_a_recording_becomes_a_file(tmp_path):
    ds = ps.make_dataset(
        np.arange(30.0).reshape(3, 10),
        sampling_frequency=4.0,
        coords={"channel": ["Fz", "Cz", "Pz"]},
    )
    write_usid(ds, tmp_path / "out.h5")
    found = ps.open_dataset(tmp_path / "out.h5")
    assert found.channel.values.tolist() == ["Fz", "Cz", "Pz"]
    assert np.array_equal(found.time.values, ds.time.values)
    assert np.array_equal(found.signal.values, ds.signal.values)


def test_existing_files_are_not_overwritten(path):
    ds = ps.make_dataset(np.ones((2, 3)), ("x", "frequency"))
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="exists: choose another name, or give overwrite"):
        write_usid(ds, path)
    fails = xr.Dataset({"signal": Computed((2, 3), limit=1).variable("x", "frequency")})
    with pytest.raises(RuntimeError, match="out of luck"):
        write_usid(fails, path, overwrite=True)
    assert path.read_bytes() == b"precious"
    assert os.listdir(path.parent) == [path.name]
    write_usid(ds, path, overwrite=True)
    assert ps.open_dataset(path).signal.shape == (2, 3)


def test_pyusid_reads_what_is_written(path, results, tmp_path):
    usid = pytest.importorskip("pyUSID")
    write_usid_file(path)
    name = write_usid_results(path, None, "Fit", results.drop_vars("stacked"))
    write_usid(ps.open_dataset(path), tmp_path / "own.h5")
    with h5py.File(path) as file, h5py.File(tmp_path / "own.h5") as own:
        fit = usid.USIDataset(file[name]["parameters"])
        assert fit.n_dim_labels == ["Y", "X", "parameter"]
        assert np.array_equal(fit.get_n_dim_form(), results.parameters.values)
        raw = usid.USIDataset(file["Measurement_000/Channel_000/Raw_Data"])
        assert usid.hdf_utils.find_results_groups(raw, "Fit") == [file[name]]
        main = usid.USIDataset(own["Measurement_000/Channel_000/Raw_Data"])
        assert np.array_equal(main.get_n_dim_form(), raw.get_n_dim_form())
        assert main.get_spec_values("Frequency").tolist() == [10.0, 20.0, 30.0]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32", "complex64"])
def test_the_type_is_kept(tmp_path, dtype):
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    mask = xr.Dataset({"signal": (("x", "frequency"), values)})
    name = write_usid(mask, tmp_path / "mask.h5")
    write_usid_results(tmp_path / "mask.h5", name, "Kept", mask)
    for dataset in (name, "/Measurement_000/Channel_000/Raw_Data-Kept_000/signal"):
        found = ps.open_dataset(tmp_path / "mask.h5", dataset=dataset).signal
        assert found.dtype == dtype
        assert np.array_equal(found.values, values)
