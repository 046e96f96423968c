"""Cleaning of time series, against nilearn where it is right and against first principles."""

import copy
import itertools
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline

from penstock.fmri.cleaning.nilearn_call import signal_clean

T = 140


def series(n_columns=6, n_times=T, mean=30.0, seed=0):
    rng = np.random.default_rng(seed)
    slow = np.cumsum(rng.standard_normal((n_times, n_columns)), axis=0)
    trend = np.linspace(0, 5, n_times)[:, None]
    return rng.standard_normal((n_times, n_columns)) + 0.3 * slow + trend + mean


def regressors(n=4, n_times=T, seed=1):
    return np.random.default_rng(seed).standard_normal((n_times, n)) * [1, 10, 0.1, 3][:n] + 2


@pytest.fixture(scope="module")
def nilearn_clean():
    clean = pytest.importorskip("nilearn.signal", reason="nilearn is not installed").clean

    def quiet(signals, sample_mask=None, **options):
        options["sample_mask"] = copy.deepcopy(sample_mask)  # (nilearn writes into it)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return clean(signals, **options)

    return quiet


def quietly(signals, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return signal_clean(signals, **options)


def relative(result, expected):
    assert result.shape == expected.shape
    return np.abs(result - expected).max() / np.abs(expected).max()


# ---------------------------------------------------------------------- against nilearn

FILTERS = [
    {"low_pass": 0.1, "high_pass": 0.01},
    {"low_pass": 0.1},
    {"high_pass": 0.01, "butterworth__order": 3, "butterworth__padtype": "even"},
    {"filter": "cosine", "high_pass": 0.01},
    {"filter": False},
]
# volumes inside, of which none mirrors another: there nilearn interpolates all of them
INSIDE = np.setdiff1d(np.arange(T), [5, 40, 41, 42, 90])


@pytest.mark.parametrize("filter_options", FILTERS, ids=str)
@pytest.mark.parametrize("detrend", [True, False])
def test_all_options_together_give_what_nilearn_gives(nilearn_clean, filter_options, detrend):
    values = series()
    single = values.astype("f4")
    for standardize, confounds, scaled, mask in itertools.product(
        ["zscore_sample", "psc", None], [None, regressors()], [True, False], [None, INSIDE]
    ):
        options = {
            "detrend": detrend,
            "standardize": standardize,
            "confounds": confounds,
            "standardize_confounds": scaled,
            "t_r": 2.0,
            **filter_options,
        }
        expected = nilearn_clean(
            values, sample_mask=None if mask is None else mask.copy(), **options
        )
        result = quietly(values, sample_mask=mask, **options)
        assert relative(result, expected) < 1e-10, options
        # nilearn rounds every step of single precision; the same values in double are its best
        wide = nilearn_clean(single.astype("f8"), sample_mask=mask, **options)
        result = quietly(single, sample_mask=mask, **options)
        assert result.dtype == np.float32
        assert relative(result, wide) < 1e-6, options


def test_defaults_and_single_precision_are_those_of_nilearn(nilearn_clean):
    values = series(mean=1.0).astype("f4")
    assert relative(signal_clean(values), nilearn_clean(values)) < 1e-5
    options = {"confounds": regressors(), "high_pass": 0.02, "low_pass": 0.1}
    assert relative(signal_clean(values, **options), nilearn_clean(values, **options)) < 1e-5


@pytest.mark.parametrize("filter_options", FILTERS[:1] + FILTERS[3:], ids=str)
def test_runs_give_what_nilearn_gives(nilearn_clean, filter_options):
    filter_options = {k: v for k, v in filter_options.items() if "__" not in k}
    runs = np.repeat([0, 1], T // 2)
    masks = [np.setdiff1d(np.arange(T // 2), [20]), np.setdiff1d(np.arange(T // 2), [30, 31])]
    options = {"confounds": regressors(), "runs": runs, "t_r": 2.0, **filter_options}
    expected = nilearn_clean(series(), sample_mask=masks, **options)
    assert relative(signal_clean(series(), sample_mask=masks, **options), expected) < 1e-10
    flags = np.ones(T, bool)
    flags[[20, 100, 101]] = False
    assert np.array_equal(
        signal_clean(series(), sample_mask=masks, **options),
        signal_clean(series(), sample_mask=flags, **options),
    )


def test_cosines_among_the_confounds_are_recognised_as_nilearn_does(nilearn_clean):
    t = np.arange(T)
    own = np.column_stack([regressors(), np.cos(np.pi / T * (t + 0.5) * 2)])
    options = {"confounds": own, "filter": "cosine", "high_pass": 0.02, "t_r": 2.0}
    with pytest.warns(UserWarning, match="hold cosine drifts already"):
        result = signal_clean(series(), **options)
    assert relative(result, nilearn_clean(series(), **options)) < 1e-10
    with pytest.warns(UserWarning, match="slowest drift of 140 volumes"):
        signal_clean(series(), filter="cosine", high_pass=1e-4, t_r=2.0)


def test_real_series_are_cleaned_as_nilearn_cleans_them(data, nilearn_clean):
    nibabel = pytest.importorskip("nibabel")
    folder = data / "fmri" / "studyforrest_localizer"
    image = nibabel.load(folder / "sub-02_task-oneback_run-1_bold.nii.gz")
    volumes = np.asarray(image.dataobj, dtype=np.float32)
    corners = itertools.product(range(20, 60, 10), range(20, 60, 10), (10, 20))
    blocks = [volumes[x : x + 8, y : y + 8, z : z + 5].mean(axis=(0, 1, 2)) for x, y, z in corners]
    means = np.stack(blocks, axis=1).astype("f8")
    assert means.shape == (156, 32)
    everywhere = volumes[20:60, 20:60, 5:30].mean(axis=(0, 1, 2), dtype="f8")
    for filter_options in (FILTERS[0], FILTERS[3]):
        options = {"confounds": everywhere, "t_r": 2.0, **filter_options}
        mask = np.setdiff1d(np.arange(156), [30, 31, 77])
        expected = nilearn_clean(means, sample_mask=mask, **options)
        assert relative(signal_clean(means, sample_mask=mask, **options), expected) < 1e-9


# ---------------------------------------------------------------------- censored volumes


def filtered(values, kept, t_r=2.0, low=0.1, high=0.01, extrapolate=False):
    """Spline, detrending and filter by SciPy, one step after the other."""
    window = np.arange(len(values)) if extrapolate else np.arange(kept[0], kept[-1] + 1)
    whole = CubicSpline(kept * t_r, values[kept])(window * t_r)
    whole[np.isin(window, kept)] = values[kept]
    whole = scipy.signal.detrend(whole, axis=0)
    sos = scipy.signal.butter(5, [high, low], "band", fs=1 / t_r, output="sos")
    return scipy.signal.sosfiltfilt(sos, whole, axis=0)[np.isin(window, kept)]


@pytest.mark.parametrize(
    "censored",
    [[60], [60, T - 61], [0, T - 1], [0, 1, 2, 70, T - 1], [3, 4, 5, T - 6, T - 5, T - 4]],
    ids=str,
)
@pytest.mark.parametrize("extrapolate", [False, True])
def test_spikes_in_volumes_left_out_leave_no_trace(censored, extrapolate):
    clean, kept = series(), np.setdiff1d(np.arange(T), censored)
    spiky = clean.copy()
    spiky[censored] += 50
    options = {"low_pass": 0.1, "high_pass": 0.01, "t_r": 2.0, "standardize": None}
    result = signal_clean(spiky, sample_mask=kept, extrapolate=extrapolate, **options)
    assert result.shape == (len(kept), 6)
    expected = filtered(clean, kept, extrapolate=extrapolate)
    assert relative(result, expected) < 1e-9
    table = regressors(1)
    table[censored] = np.nan  # what is left out is not looked at
    confounded = signal_clean(
        spiky, sample_mask=kept, confounds=table, extrapolate=extrapolate, **options
    )
    regressor = filtered(table, kept, extrapolate=extrapolate)
    regressor -= regressor.mean()
    assert (
        np.abs(regressor.T @ confounded).max() < 1e-9 * np.abs(regressor.T @ expected).max() + 1e-9
    )


def test_the_mask_may_be_used_again():
    kept = np.arange(3, T - 2, dtype=np.int32)
    before = kept.copy()
    first = signal_clean(series(), sample_mask=kept, low_pass=0.1, t_r=2.0)
    assert np.array_equal(kept, before)
    assert np.array_equal(signal_clean(series(), sample_mask=kept, low_pass=0.1, t_r=2.0), first)
    flags = np.isin(np.arange(T), kept)
    for same in (flags, kept.tolist(), [kept], pd.Series(kept)):
        again = signal_clean(series(), sample_mask=same, low_pass=0.1, t_r=2.0)
        assert np.array_equal(again, first)


# ---------------------------------------------------------------------- runs


def test_runs_obey_all_options_and_rows_stay_in_the_order_of_time():
    values, confounds = series(), regressors() + 5
    runs = np.array(["b", "a"])[np.arange(T) // 7 % 2]
    flags = np.ones(T, bool)
    flags[[0, 50, 51]] = False
    options = {
        "high_pass": 0.02,
        "t_r": 2.0,
        "standardize": "psc",
        "standardize_confounds": False,
        "extrapolate": True,
        "ensure_finite": True,
        "butterworth__order": 2,
        "butterworth__padtype": "constant",
        "butterworth__padlen": 9,
    }
    values[33, 2] = np.inf
    result = signal_clean(values, runs=runs, confounds=confounds, sample_mask=flags, **options)
    assert np.isfinite(result).all()
    for run in "ab":
        rows = runs == run
        alone = signal_clean(
            values[rows], confounds=confounds[rows], sample_mask=flags[rows], **options
        )
        assert np.allclose(result[rows[flags]], alone, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------- degenerate series


@pytest.mark.parametrize("standardize", ["zscore_sample", "psc"])
@pytest.mark.parametrize("detrend", [True, False])
@pytest.mark.parametrize("filter_options", FILTERS, ids=str)
def test_constant_series_give_exactly_zero(standardize, detrend, filter_options):
    values = series()
    values[:, 1], values[:, 4] = 1234.567, 0.1
    for confounds in (None, regressors()):
        options = {"confounds": confounds, "t_r": 2.0, "detrend": detrend, **filter_options}
        result = signal_clean(values, standardize=standardize, **options)
        assert not result[:, [1, 4]].any()
        assert (result[:, [0, 2, 3, 5]].std(axis=0) > 1e-3).all()


def test_what_the_confounds_explain_gives_zero():
    values, confounds = series(), regressors()
    values[:, 3] = confounds @ [1, 2, 3, 4] + 100
    result = signal_clean(values, confounds=confounds)
    assert not result[:, 3].any()
    assert result[:, :3].any(axis=0).all()


def test_confounds_that_say_nothing_new_change_nothing():
    values, confounds, kept = series(), regressors(), np.setdiff1d(np.arange(T), [0, 20, T - 21])
    doubled = np.column_stack([confounds, confounds[:, 0] * 2 - 1, np.full(T, 1234.567)])
    options = {"low_pass": 0.1, "high_pass": 0.01, "t_r": 2.0, "sample_mask": kept}
    expected = signal_clean(values, confounds=confounds, **options)
    assert relative(signal_clean(values, confounds=doubled, **options), expected) < 1e-9


def test_a_value_that_is_not_finite_stays_in_its_column():
    values, kept = series(), np.delete(np.arange(T), 50)
    options = {"confounds": regressors(), "low_pass": 0.1, "t_r": 2.0}
    expected = signal_clean(values, **options)
    spoilt = values.copy()
    spoilt[10, 2], spoilt[50, 4] = np.nan, np.inf
    result = signal_clean(spoilt, **options)
    assert np.isnan(result[:, [2, 4]]).all()
    assert np.array_equal(result[:, [0, 1, 3, 5]], expected[:, [0, 1, 3, 5]])
    censored = signal_clean(spoilt, sample_mask=kept, **options)
    assert np.isnan(censored[:, 2]).all()
    assert np.isfinite(censored[:, 4]).all()
    zeroed = values.copy()
    zeroed[10, 2] = zeroed[50, 4] = 0
    replaced = signal_clean(spoilt, ensure_finite=True, **options)
    assert np.array_equal(replaced, signal_clean(zeroed, **options))
    untouched = signal_clean(spoilt, detrend=False, standardize=None)
    assert np.array_equal(untouched, spoilt, equal_nan=True)


def test_percent_signal_change_of_a_column_does_not_depend_on_the_others():
    values = series()
    values[:, 0] += 1e6
    for options in ({}, {"detrend": False, "low_pass": 0.1}, {"detrend": False, "high_pass": 0.02}):
        together = signal_clean(values, standardize="psc", t_r=2.0, **options)
        alone = [
            signal_clean(values[:, [i]], standardize="psc", t_r=2.0, **options) for i in range(6)
        ]
        assert np.array_equal(together, np.hstack(alone))
    detrended = scipy.signal.detrend(values, axis=0)
    expected = 100 * detrended / values.mean(axis=0)
    assert np.allclose(signal_clean(values, standardize="psc"), expected)
    with pytest.warns(UserWarning, match="percent signal change has no meaning"):
        centred = signal_clean(values - values.mean(axis=0), detrend=False, standardize="psc")
    assert not centred.any()


# ---------------------------------------------------------------------- blocks


@settings(max_examples=25, deadline=None)
@given(
    n_times=st.integers(40, 300),
    n_columns=st.integers(0, 90),
    block_bytes=st.integers(1, 200_000),
    workers=st.integers(1, 3),
    dtype=st.sampled_from(["f4", "f8", "i2", "u1"]),
    fortran=st.booleans(),
    seed=st.integers(0, 99),
)
def test_blocks_threads_and_memory_order_do_not_matter(
    n_times, n_columns, block_bytes, workers, dtype, fortran, seed
):
    values = np.asarray(
        series(n_columns, n_times, mean=60, seed=seed), dtype, order="F" if fortran else "C"
    )
    kept = np.setdiff1d(np.arange(n_times), [seed % n_times, n_times // 2])
    options = {"confounds": regressors(n_times=n_times), "high_pass": 0.02, "sample_mask": kept}
    result = signal_clean(values, block_bytes=block_bytes, workers=workers, **options)
    assert result.dtype == (np.float32 if dtype == "f4" else np.float64)
    assert result.shape == (len(kept), n_columns)
    for i in range(0, n_columns, 17):
        alone = signal_clean(np.ascontiguousarray(values[:, [i]]), **options)
        assert np.array_equal(result[:, [i]], alone)


class Columns:
    """Something on disk that gives columns and takes them."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.largest = values, values.shape, values.dtype, 0

    def __getitem__(self, key):
        part = self.values[key]
        self.largest = max(self.largest, part.nbytes)
        return part

    def __setitem__(self, key, part):
        self.values[key] = part
        self.largest = max(self.largest, part.nbytes)


def test_lazy_series_are_read_and_written_in_blocks():
    values = series(3000).astype("f4")
    expected = signal_clean(values, low_pass=0.1)
    source, target = Columns(values), Columns(np.zeros_like(values))
    limit = 600_000
    assert signal_clean(source, low_pass=0.1, block_bytes=limit, out=target) is target
    assert np.array_equal(target.values, expected)
    assert 0 < source.largest <= limit
    assert target.largest <= limit
    lazy = xr.DataArray(values, dims=("time", "voxel")).chunk(voxel=700)
    assert np.array_equal(signal_clean(lazy, low_pass=0.1), expected)
    assert np.array_equal(signal_clean(pd.DataFrame(values), low_pass=0.1), expected)


def test_cleaning_in_place_takes_a_few_blocks_of_memory():
    values = np.random.default_rng(0).standard_normal((100, 60_000), dtype="f4")
    expected = signal_clean(values[:, :100], high_pass=0.02)
    tracemalloc.start()
    try:
        result = signal_clean(values, high_pass=0.02, workers=2, block_bytes=1 << 20, out=values)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result is values
    assert np.array_equal(values[:, :100], expected)
    assert peak < values.nbytes  # 24 MB: two threads with their batches


def test_scipy_signal_is_loaded_only_for_a_filter():
    code = (
        "import sys, numpy as np\n"
        "from penstock.fmri.cleaning.nilearn_call import signal_clean\n"
        "signal_clean(np.random.rand(50, 3), confounds=np.random.rand(50, 2))\n"
        "print('scipy.signal' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"low_pass": 0.1, "t_r": None}, "filter='butterworth' needs the repetition time"),
        ({"low_pass": 0.1, "t_r": 0}, "t_r=0 must be a number of s above 0"),
        ({"low_pass": 0.1, "t_r": -2.0}, r"t_r=-2.0 must be a number of s above 0"),
        ({"low_pass": 0.01, "high_pass": 0.1}, "high_pass=0.1 Hz must be below low_pass=0.01 Hz"),
        ({"low_pass": 0.1, "high_pass": 0.1}, "must be below low_pass"),
        ({"high_pass": 0.0}, "high_pass=0.0 must be a number of Hz above 0"),
        ({"high_pass": 0.3}, "not below the Nyquist frequency, 0.2 Hz"),
        ({"filter": "cosine", "high_pass": 0.3}, "not below the Nyquist frequency, 0.2 Hz"),
        ({"filter": "cosine"}, "filter='cosine' needs high_pass"),
        ({"filter": "butterwort"}, "did you mean 'butterworth'"),
        ({"standardize": "zscore"}, "did you mean 'zscore_sample'"),
        ({"standardize": "minmax"}, "known are 'zscore_sample', 'psc'"),
        ({"high_pass": 0.01, "butterworth__order": 0}, "order of the Butterworth filter is 0"),
        ({"high_pass": 0.01, "butterworth__padlen": 200}, "140 time points are too few"),
        ({"confounds": np.zeros((120, 2))}, "has 120 rows, the series 140 time points"),
        ({"confounds": regressors().tolist()[:-4]}, "136 rows, the series 140 time points"),
        ({"confounds": np.random.default_rng(0).random((T, 150))}, "150 confounds .* 140 time"),
        ({"confounds": np.random.default_rng(0).random((T, 138))}, "138 confounds .* 140 time"),
        (
            {"confounds": regressors(3), "sample_mask": [1, 2, 3, 4], "detrend": False},
            "3 confounds .* leave nothing of 4 time points",
        ),
        ({"sample_mask": []}, "sample_mask keeps no volume"),
        ({"sample_mask": np.zeros(T, bool)}, "sample_mask keeps no volume"),
        ({"sample_mask": np.ones(T - 1, bool)}, "139 entries .* 140 volumes"),
        ({"sample_mask": [3, 140]}, r"names volume 140, but there are 140 \(0 to 139\)"),
        ({"sample_mask": [-1, 3]}, "names volume -1"),
        ({"sample_mask": [5, 3]}, "ascending order, each once"),
        ({"sample_mask": [3, 3]}, "ascending order, each once"),
        ({"sample_mask": [0.5, 3]}, "whole numbers or true and false"),
        ({"sample_mask": [[1, 2], [3]]}, "a list of 2 masks where there is one run"),
        ({"sample_mask": [7], "low_pass": 0.1, "extrapolate": True}, "keeps a single volume"),
        ({"runs": np.zeros(T - 1)}, "the run of each of the 140 time points"),
        ({"runs": np.arange(T) // 70, "sample_mask": np.arange(60)}, "no volume of run 1"),
        (
            {"runs": np.arange(T) // 120, "low_pass": 0.1, "high_pass": 0.01},
            "20 time points of run 1 are too few for a Butterworth filter",
        ),
        ({"out": np.zeros((T, 5))}, r"out has the shape \(140, 5\), the result \(140, 6\)"),
        ({"out": np.zeros((T, 6)), "sample_mask": [1, 2, 3]}, "volumes are left out"),
        ({"out": np.zeros((T, 6), int)}, "out holds int64, the result is float64"),
        ({"block_bytes": 0}, "block_bytes=0 must be above 0"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:30],
)
def test_what_cannot_be_is_told_in_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        signal_clean(series(), **options)


def test_confounds_without_value_are_named():
    names = ["csf", "trans_x_derivative1", "rot_x_derivative1"]
    table = pd.DataFrame(regressors(3), columns=names)
    table.loc[:1, names[1:]] = np.nan
    sentence = (
        r"2 of 3 confounds \(trans_x_derivative1, rot_x_derivative1\) .* 2 volumes, the first 0"
    )
    with pytest.raises(ValueError, match=sentence):
        signal_clean(series(), confounds=table)
    signal_clean(series(), confounds=table, sample_mask=np.arange(2, T))
    signal_clean(series(), confounds=table.fillna(0))
    table.loc[1, names[1:]] = 0.5  # (a difference has no value in the first volume only)
    filled = signal_clean(series(), confounds=table.bfill())
    np.testing.assert_array_equal(signal_clean(series(), confounds=table), filled)


def test_unknown_parameters_and_types_are_refused():
    with pytest.raises(TypeError, match="did you mean 'butterworth__order'"):
        signal_clean(series(), low_pass=0.1, butterworth__ordre=3)
    with pytest.raises(TypeError, match="real numbers, got an array of complex128"):
        signal_clean(series() * 1j)
    with pytest.raises(ValueError, match=r"signals\[:, np.newaxis\]"):
        signal_clean(series()[:, 0])


def test_doubtful_options_are_warned_of():
    with pytest.warns(UserWarning, match="neither standardized nor detrended"):
        signal_clean(series(), confounds=regressors(), detrend=False, standardize_confounds=False)
    with pytest.warns(UserWarning, match="low_pass=0.3 Hz is not below the Nyquist"):
        signal_clean(series(), low_pass=0.3)
    with pytest.warns(UserWarning, match="low_pass and high_pass are not used"):
        signal_clean(series(), low_pass=0.1, filter=False)
    with pytest.warns(UserWarning, match="the given low_pass is not used"):
        signal_clean(series(), low_pass=0.1, high_pass=0.01, filter="cosine")
    with pytest.warns(UserWarning, match="a single time point"):
        single = signal_clean(series(), sample_mask=[9])
    assert np.array_equal(single, series()[[9]])
