"""The processor that cleans time series, in pipelines."""

import numpy as np
import pandas as pd
import pytest

import penstock as ps
from penstock.dataset import sampled_index
from penstock.fmri.cleaning.nilearn_call import signal_clean
from penstock.fmri.cleaning.processor import CleanSignals
from penstock.planning.chain import Chain
from penstock.testing import check_processor, raise_if_computes, virtual_dataset

T = 200
KEPT = tuple(np.setdiff1d(np.arange(T), [0, 7, 8, T - 1]).tolist())
DIMS = {
    "regions": (("region", "time"), (40, T)),
    "volumes": (("x", "y", "z", "time"), (5, 6, 7, T)),
    "time first": (("time", "voxel"), (T, 40)),
    "one series": (("time",), (T,)),
}


def dataset(kind="regions", dtype="f8", t_r=2.0, fortran=False, **options):
    dims, shape = DIMS[kind]
    values = 100 + np.random.default_rng(0).standard_normal(shape)
    values = np.asarray(values, dtype, order="F" if fortran else "C")
    return ps.make_dataset(values, dims, sampling_frequency=1 / t_r, units="a.u.", **options)


def regressors(n=3):
    return np.random.default_rng(1).standard_normal((T, n))


def cleaned(processor, ds):
    return ps.Pipeline([processor])(ds)


PROCESSORS = [
    CleanSignals(),
    CleanSignals(detrend=True, standardize="zscore_sample"),
    CleanSignals(standardize="psc", low_pass=0.1, sample_mask=tuple(range(5, T))),
    CleanSignals(
        detrend=True, low_pass=0.1, high_pass=0.01, confounds=regressors(), sample_mask=KEPT
    ),
    CleanSignals(
        filter="cosine", high_pass=0.01, sample_mask=KEPT, runs=tuple(["a", "b"] * (T // 2))
    ),
]


@pytest.mark.parametrize("kind", DIMS)
@pytest.mark.parametrize("processor", PROCESSORS, ids=str)
def test_it_keeps_the_contract_along_any_dims(processor, kind):
    check_processor(processor, dataset(kind))
    if kind == "volumes":
        check_processor(processor, dataset(kind, "f4", fortran=True))


def test_memory_declared_suffices_where_batches_are_full():
    for n_times, n_series in ((200, 1500), (4000, 50)):
        values = np.random.default_rng(0).standard_normal((n_series, n_times), dtype="f4")
        ds = ps.make_dataset(values, ("voxel", "time"), sampling_frequency=0.5)
        kept = np.delete(np.arange(n_times), np.arange(7, n_times - 7, 9))
        confounds = np.random.default_rng(1).standard_normal((n_times, 12))
        processor = CleanSignals(
            detrend=True, standardize="psc", low_pass=0.1, high_pass=0.01, sample_mask=kept
        )
        check_processor(processor, ds, in_files=False, n_cuts=2)
        check_processor(CleanSignals(confounds=confounds), ds, in_files=False, n_cuts=2)


@pytest.mark.parametrize("kind", DIMS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
def test_it_gives_what_the_function_gives(kind, dtype):
    ds, confounds = dataset(kind, dtype), regressors()
    options = {
        "detrend": True,
        "standardize": "zscore_sample",
        "confounds": confounds,
        "sample_mask": KEPT,
        "low_pass": 0.1,
        "high_pass": 0.01,
    }
    result = cleaned(CleanSignals(**options), ds).signal
    assert result.dtype == ("f8" if dtype == "f8" else "f4")
    assert result.dims == DIMS[kind][0]
    result = result.transpose("time", ...).values.reshape(len(KEPT), -1)
    series = ds.signal.transpose("time", ...).values.reshape(T, -1)
    expected = signal_clean(series, t_r=2.0, **options)
    assert np.array_equal(result, expected.astype(result.dtype))


def test_nothing_is_done_unless_asked():
    ds = dataset("volumes")
    with raise_if_computes():
        lazy = cleaned(CleanSignals(), ds)
    assert np.array_equal(lazy.signal.values, ds.signal.values)
    assert lazy.signal.attrs["units"] == "a.u."


def test_planning_reads_no_samples():
    ds = virtual_dataset((50, T), ("voxel", "time"), sampling_frequency=0.5, readable=False)
    processor = CleanSignals(standardize="psc", high_pass=0.01, sample_mask=KEPT)
    with raise_if_computes():
        outline = Chain(ds).bind([processor]).output
        lazy = cleaned(processor, ds)
    for found in (outline, lazy):
        assert found.signal.shape == (50, len(KEPT))
        assert found.signal.attrs["units"] == "%"


def test_times_are_those_of_the_kept_volumes():
    ds = dataset("volumes", coords={"session": ("time", np.arange(T) // 100)})
    whole = cleaned(CleanSignals(detrend=True), ds)
    assert sampled_index(whole) is not None
    dummies = cleaned(CleanSignals(sample_mask=tuple(range(4, T))), ds)
    assert sampled_index(dummies) is not None
    assert float(dummies.time[0]) == 8.0
    censored = cleaned(CleanSignals(sample_mask=KEPT), ds)
    assert censored.time.values.tolist() == [2.0 * i for i in KEPT]
    assert censored.time.attrs["units"] == "s"
    assert censored.session.values.tolist() == [i // 100 for i in KEPT]
    assert float(censored.signal.sel(time=12.0)[0, 0, 0]) == float(ds.signal[0, 0, 0, 6])
    part = censored.signal.isel(time=slice(3, 9)).values
    assert np.array_equal(part, ds.signal.values[..., list(KEPT[3:9])])
    flags = np.isin(np.arange(T), KEPT)
    again = CleanSignals(sample_mask=flags)
    assert np.array_equal(cleaned(again, ds).time, censored.time)
    assert ps.Pipeline.from_yaml(ps.Pipeline([again]).to_yaml())[0] == again


def test_long_parameters_are_shown_short():
    shown = repr(CleanSignals(standardize="psc", sample_mask=KEPT, confounds=regressors(1)))
    assert shown.startswith("CleanSignals(standardize='psc', sample_mask=(1, 2, ... 196 in all), ")
    assert len(shown) < 200


def test_units_say_what_the_values_are():
    units = [
        cleaned(CleanSignals(standardize=kind), dataset()).signal.attrs["units"]
        for kind in (None, False, True, "zscore_sample", "psc")
    ]
    assert units == ["a.u.", "a.u.", "1", "1", "%"]


def test_the_repetition_time_is_that_of_the_dataset():
    for t_r in (0.72, 2.16, 3.0):
        ds = dataset(t_r=t_r)
        expected = signal_clean(
            ds.signal.values.T, t_r=t_r, high_pass=0.01, filter="cosine", standardize=None
        )
        processor = CleanSignals(detrend=True, filter="cosine", high_pass=0.01)
        assert np.array_equal(cleaned(processor, ds).signal.values.T, expected)
    unknown = ds.drop_vars("time")
    with pytest.raises(ValueError, match="no regular time coordinate: give t_r"):
        cleaned(CleanSignals(high_pass=0.01), unknown)
    given = CleanSignals(high_pass=0.01, t_r=3.0)
    assert np.array_equal(cleaned(given, unknown).signal, cleaned(given, ds).signal)


# ---------------------------------------------------------------------- confounds


@pytest.fixture
def derivatives(tmp_path):
    """An image of fMRIPrep and its confounds."""
    table = pd.DataFrame(
        regressors(5), columns=["trans_x", "trans_y", "rot_x", "csf", "trans_x_derivative1"]
    )
    table.loc[0, "trans_x_derivative1"] = np.nan
    path = tmp_path / "sub-01_task-rest_run-1_desc-confounds_timeseries.tsv"
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    name = "sub-01_task-rest_run-1_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz"
    return tmp_path / name, path, table


def test_confounds_are_found_beside_the_image(derivatives):
    image, path, table = derivatives
    ds = dataset(attrs={"source": str(image)})
    chosen = ("trans_?", "rot_x")
    auto = cleaned(CleanSignals(confounds="auto", confound_columns=chosen), ds)
    values = table[["trans_x", "trans_y", "rot_x"]].to_numpy()
    expected = signal_clean(ds.signal.values.T, detrend=False, standardize=None, confounds=values)
    assert np.array_equal(auto.signal.values.T, expected)
    for same in (
        CleanSignals(confounds=str(path), confound_columns=chosen),
        CleanSignals(confounds=path, confound_columns=chosen),
        CleanSignals(confounds=values),
        CleanSignals(confounds=table, confound_columns=chosen),
        CleanSignals(confounds=[values[:, 0], values[:, 1:]]),
    ):
        assert np.allclose(cleaned(same, ds).signal.values.T, expected, rtol=1e-12)
        assert ps.Pipeline.from_yaml(ps.Pipeline([same]).to_yaml())[0] == same
    filled = table.bfill(limit=1)  # (a difference has no value in the first volume)
    everything = signal_clean(
        ds.signal.values.T, detrend=False, standardize=None, confounds=filled.to_numpy()
    )
    found = cleaned(CleanSignals(confounds="auto"), ds).signal.values.T
    assert np.allclose(found, everything, rtol=1e-12)
    later = table.assign(trans_x=table["trans_x"].where(table.index > 1))
    with pytest.raises(ValueError, match="1 of 5 confounds"):
        cleaned(CleanSignals(confounds=later), ds)
    with pytest.raises(ValueError, match="does not come from a file"):
        cleaned(CleanSignals(confounds="auto"), dataset())
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"run-1_desc-confounds_timeseries\.tsv or sub"):
        cleaned(CleanSignals(confounds="auto"), ds)


def test_two_cleanings_are_the_same_if_their_confounds_are(derivatives):
    _, path, table = derivatives
    values = table.iloc[:, :3].to_numpy()
    assert CleanSignals(confounds=values) == CleanSignals(confounds=values.tolist())
    assert hash(CleanSignals(confounds=values)) == hash(CleanSignals(confounds=values.copy()))
    assert CleanSignals(confounds=values) != CleanSignals(confounds=values + 1)
    before = CleanSignals(confounds=str(path)).canonical()
    assert CleanSignals(confounds=str(path)).canonical() == before
    table.iloc[3, 3] += 1
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    assert CleanSignals(confounds=str(path)).canonical() != before


def test_a_run_into_a_store_ends_with_the_same_values(tmp_path):
    ds, processor = dataset("volumes", "f4"), PROCESSORS[3]
    report = ps.Pipeline([processor]).run(ds, tmp_path, memory="3 GiB", progress=False)
    (path,) = report.outputs.values()
    stored = ps.open_dataset(path)
    expected = cleaned(processor, ds)
    assert np.array_equal(stored.signal.values, expected.signal.values)
    assert np.array_equal(stored.time.values, expected.time.values)


# ---------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"standardize": "psx"}, "standardize='psx' must be one of"),
        ({"low_pass": 0.01, "high_pass": 0.1}, "high_pass=0.1 Hz must be below"),
        ({"confound_columns": "csf"}, "give that table with confounds="),
        ({"confounds": np.ones((T - 1, 2))}, "199 rows, the series 200 time points"),
        ({"sample_mask": (3, 200)}, "names volume 200"),
        ({"sample_mask": np.ones(T - 1, bool)}, "199 entries"),
        ({"runs": (0, 1)}, "the run of each of the 200 time points"),
    ],
    ids=str,
)
def test_what_cannot_be_is_told_in_a_sentence(options, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        cleaned(CleanSignals(**options), dataset())
