"""Peaks: those of SciPy, for every spectrum, however the spectra are cut."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal.windows import gaussian

import penstock as ps
from penstock.spectra.peaks import kernels as peak_kernels
from penstock.spectra.peaks.processor import FindPeaksCWT, find_peaks_cwt
from penstock.testing import check_processor

ENGINES = ["numpy", *(["numba"] if importlib.util.find_spec("numba") else [])]
WIDTHS = np.linspace(20, 60, 30)


def resonances(shape: tuple[int, ...], n_points: int = 119, noise: float = 0.05) -> np.ndarray:
    """Response of a driven oscillator whose frequency, Q and amplitude vary over a grid."""
    rng = np.random.default_rng(3)
    y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    f = np.linspace(285e3, 335e3, n_points)
    f0 = (310e3 + 9e3 * np.sin(2 * np.pi * x) * np.cos(3 * y))[..., None]
    q = (120 + 50 * np.cos(2 * np.pi * (x + y)))[..., None]
    sign = np.where(np.sin(7 * x) * np.sin(5 * y) > 0, 1, -1)
    amplitude = (sign * (0.3 + np.sin(4 * x) ** 2))[..., None]
    response = amplitude * f0**2 / q / (f0**2 - f**2 + 1j * f * f0 / q)
    parts = rng.standard_normal((2, *response.shape))
    return (response + noise * (parts[0] + 1j * parts[1])).astype(np.complex64)


def scipy_peaks(spectra: np.ndarray, widths: Any, **parameters: Any) -> list[list[int]]:
    with np.errstate(all="ignore"):
        return [
            scipy.signal.find_peaks_cwt(np.asarray(row, np.float64), widths, **parameters).tolist()
            for row in spectra
        ]


def as_lists(found: tuple[np.ndarray, np.ndarray]) -> list[list[int]]:
    """Peaks of every row; checks that what is beyond the count is -1."""
    index, count = found
    assert index.dtype == count.dtype == np.int32
    assert index.shape[:-1] == count.shape
    slot = np.arange(index.shape[-1])
    assert ((index >= 0) == (slot < count[..., None])).all()
    rows = zip(index.reshape(count.size, len(slot)), count.reshape(-1), strict=True)
    return [row[:n].tolist() for row, n in rows]


@pytest.fixture(scope="module")
def grid() -> np.ndarray:
    return resonances((15, 20))


@pytest.fixture(scope="module")
def expected(grid: np.ndarray) -> list[list[int]]:
    return scipy_peaks(np.abs(grid).reshape(300, -1), WIDTHS)


# ---------------------------------------------------------------------- the same as SciPy


@pytest.mark.parametrize("engine", ENGINES)
def test_resonances_as_scipy(engine: str, grid: np.ndarray, expected: list[list[int]]) -> None:
    index, count = find_peaks_cwt(grid, WIDTHS, engine=engine)
    assert count.shape == (15, 20)
    assert set(count.reshape(-1).tolist()) >= {1, 2}
    assert as_lists((index, count)) == expected


def drawn_rows(kind: str, n_points: int, rng: np.random.Generator) -> np.ndarray:
    shape = (6, n_points)
    if kind == "noise":
        return rng.standard_normal(shape)
    if kind == "whole numbers":
        return rng.integers(-3, 4, shape)
    if kind == "walk":
        return rng.standard_normal(shape).cumsum(axis=1)
    if kind == "sparse":
        return (rng.random(shape) < 0.06).astype(np.float32)
    if kind == "mirrored":  # the two points in the middle tie but for rounding
        half = rng.integers(0, 50, shape)
        return np.concatenate([half, half[:, ::-1]], axis=1)[:, : 2 * (n_points // 2)]
    if kind == "padded":
        rows = rng.standard_normal(shape)
        rows[:, : n_points // 3] = 0
        return rows
    if kind == "scaled":
        return rng.standard_normal(shape) * np.array([1e-300, 1e-150, 1, 1e30, 1e150, -5])[:, None]
    return np.repeat(rng.integers(0, 3, (6, 1)) / 3, n_points, axis=1)


KINDS = ["noise", "whole numbers", "walk", "sparse", "mirrored", "padded", "scaled", "constant"]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    n_points=st.integers(20, 199),
    widths=st.one_of(
        st.integers(1, 24).map(lambda n: np.arange(1, n + 1)),
        st.lists(st.floats(0.3, 30), min_size=1, max_size=24).map(np.array),
        st.tuples(st.floats(1, 20), st.floats(1, 3), st.integers(1, 24)).map(
            lambda t: np.linspace(t[0], t[0] * t[1], t[2])
        ),
    ),
    engine=st.sampled_from(ENGINES),
    seed=st.integers(0, 999),
)
def test_any_rows_and_widths_as_scipy(
    kind: str, n_points: int, widths: np.ndarray, engine: Any, seed: int
) -> None:
    rows = drawn_rows(kind, n_points, np.random.default_rng(seed))
    assert as_lists(find_peaks_cwt(rows, widths, engine=engine)) == scipy_peaks(rows, widths)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["noise", "walk", "whole numbers"]),
    parameters=st.fixed_dictionaries(
        {},
        optional={
            "gap_thresh": st.floats(0, 6),
            "min_length": st.floats(0, 12),
            "min_snr": st.floats(-1, 5),
            "noise_perc": st.floats(0, 100),
            "window_size": st.integers(0, 200),
        },
    ),
    reach=st.one_of(st.none(), st.floats(0, 40)),
    engine=st.sampled_from(ENGINES),
    seed=st.integers(0, 999),
)
def test_other_parameters_as_scipy(
    kind: str, parameters: dict[str, Any], reach: float | None, engine: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = drawn_rows(kind, 73, rng)
    if reach is not None:
        parameters["max_distances"] = reach * rng.random(11)
    widths = np.arange(1, 12)
    found = find_peaks_cwt(rows, widths, engine=engine, **parameters)
    assert as_lists(found) == scipy_peaks(rows, widths, **parameters)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("parameters", [{}, {"gap_thresh": 0, "min_length": 2}, {"min_snr": 3.0}])
def test_engines_as_scipy(engine: str, parameters: dict[str, Any]) -> None:
    rng = np.random.default_rng(8)
    for kind in KINDS:
        rows = drawn_rows(kind, 90, rng)
        found = find_peaks_cwt(rows, np.arange(1, 10), engine=engine, **parameters)
        assert as_lists(found) == scipy_peaks(rows, np.arange(1, 10), **parameters), kind


@pytest.mark.parametrize("n_points", [399, 1200, 3001])
@pytest.mark.parametrize("kind", ["noise", "walk", "sparse", "padded"])
def test_long_spectra_as_scipy(kind: str, n_points: int) -> None:
    rows = drawn_rows(kind, n_points, np.random.default_rng(1))[:3]
    widths = [3, 8.5, 20, 61.3, 400]
    assert as_lists(find_peaks_cwt(rows, widths)) == scipy_peaks(rows, widths)


@pytest.mark.parametrize("n_points", [1, 2, 3, 4, 5, 11])
def test_short_spectra_as_scipy(n_points: int) -> None:
    rows = np.random.default_rng(2).standard_normal((20, n_points))
    for widths in ([1], [0.2, 0.5], np.arange(1, 6)):
        assert as_lists(find_peaks_cwt(rows, widths)) == scipy_peaks(rows, widths)


def test_real_spectra_as_scipy(data: Path) -> None:
    spectra = np.load(data / "spm" / "BEPFM_32x32x102.npy")[::3, ::3]
    rows = spectra.reshape(-1, spectra.shape[-1])
    rows = np.abs(rows) if np.iscomplexobj(rows) else rows
    for widths in (np.arange(2, 12), np.linspace(10, 30, 12)):
        found = as_lists(find_peaks_cwt(spectra, widths))
        assert found == scipy_peaks(rows, widths)
        assert sum(map(len, found)) > len(found) / 2


# ---------------------------------------------------------------------- cuts, gaps, types


@settings(max_examples=20, deadline=None)
@given(tile=st.integers(1, 119 * 400), n_rows=st.integers(1, 300))
def test_result_does_not_depend_on_tiles(tile: int, n_rows: int) -> None:
    rows = np.abs(resonances((15, 20)).reshape(300, -1))
    rows[::7] = np.round(rows[::7])  # ties, where the order of additions would decide
    whole = as_lists(find_peaks_cwt(rows, WIDTHS[::3]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peak_kernels, "TILE", tile)
        assert as_lists(find_peaks_cwt(rows[-n_rows:], WIDTHS[::3])) == whole[-n_rows:]


def test_axes_of_any_order(grid: np.ndarray, expected: list[list[int]]) -> None:
    strided = np.asfortranarray(np.repeat(grid, 2, axis=0))[::2]
    assert as_lists(find_peaks_cwt(strided, WIDTHS)) == expected
    assert as_lists(find_peaks_cwt(np.asfortranarray(grid[3]), WIDTHS)) == expected[60:80]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peak_kernels, "TILE", 500)
        assert as_lists(find_peaks_cwt(strided, WIDTHS)) == expected
    index, count = find_peaks_cwt(grid[0, 0], WIDTHS)
    assert index[:count].tolist() == expected[0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gap", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stay_where_they_are(
    engine: str, gap: float, grid: np.ndarray, expected: list[list[int]]
) -> None:
    rows = np.abs(grid).reshape(300, -1)
    bad = [0, 5, 6, 117, 299]
    rows[bad, [0, 118, 50, 60, 3]] = gap
    found = as_lists(find_peaks_cwt(rows, WIDTHS, engine=engine))
    assert found == [[] if i in bad else peaks for i, peaks in enumerate(expected)]


@pytest.mark.parametrize("dtype", ["f4", "f2", "i2", "u1", "?", ">f8", "c16"])
def test_types_of_numbers(dtype: str) -> None:
    rows = (20 * np.random.default_rng(4).random((5, 60))).astype(dtype)
    expected = scipy_peaks(np.abs(rows) if dtype == "c16" else rows, [2, 3.5, 5])
    assert as_lists(find_peaks_cwt(rows, [2, 3.5, 5])) == expected


def test_no_spectra() -> None:
    index, count = find_peaks_cwt(np.zeros((0, 7, 40)), [3, 4])
    assert index.shape == (0, 7, 0)
    assert count.shape == (0, 7)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_nothing_but_spectra_without_peaks(value: float) -> None:
    assert as_lists(find_peaks_cwt(np.full((3, 40), value), [3, 4])) == [[], [], []]


def test_a_single_width() -> None:
    rows = np.random.default_rng(4).standard_normal((5, 60))
    assert as_lists(find_peaks_cwt(rows, 4.0)) == scipy_peaks(rows, 4.0)


# ---------------------------------------------------------------------- other wavelets


def triangle(points, width):
    return np.maximum(0, 1 - np.abs(np.arange(points) - (points - 1) / 2) / width)


def lopsided(points, width):
    t = np.arange(points) - (points - 1) / 2
    return np.exp(-np.abs(t) / np.where(t > 0, width, width / 3))


def endless(points, width):
    return gaussian(501, width)


def shortest(points, width):
    return np.array([0.5, 1.0])


@pytest.mark.parametrize("wavelet", [gaussian, triangle, lopsided, endless, shortest])
@pytest.mark.parametrize("n_points", [3, 40, 119, 450])
@pytest.mark.parametrize("engine", ENGINES)
def test_any_wavelet_gives_the_peaks_of_scipy(wavelet, n_points, engine) -> None:
    rng = np.random.default_rng(n_points)
    rows = np.cumsum(rng.standard_normal((6, n_points)), axis=1)
    rows[3] = np.round(rows[3])
    for widths in ([1, 2, 3, 4], [2.0, 4.5, 7.0, 11.0, 30.0], [6.0, 2.0]):
        if wavelet is gaussian:
            widths = [width for width in widths if float(10 * width).is_integer()]
            if any(min(10 * w, n_points) != int(min(10 * w, n_points)) for w in widths):
                continue
        expected = [
            scipy.signal.find_peaks_cwt(row, np.asarray(widths), wavelet=wavelet).tolist()
            for row in rows
        ]
        assert as_lists(find_peaks_cwt(rows, widths, wavelet, engine=engine)) == expected


def test_wavelets_have_names_and_are_part_of_the_identity() -> None:
    rows = np.random.default_rng(0).standard_normal((4, 60))
    assert as_lists(find_peaks_cwt(rows, [1, 2, 3], "gaussian")) == as_lists(
        find_peaks_cwt(rows, [1, 2, 3], gaussian)
    )
    assert as_lists(find_peaks_cwt(rows, [1, 2, 3], "ricker")) == as_lists(
        find_peaks_cwt(rows, [1, 2, 3])
    )
    named = FindPeaksCWT((1.0, 2.0), wavelet="gaussian", nan_policy="omit")
    pipeline = ps.Pipeline([named])
    assert ps.Pipeline.from_yaml(pipeline.to_yaml()) == pipeline
    given = FindPeaksCWT((1.0, 2.0), wavelet=triangle)
    keys = {str(p.canonical()) for p in (named, given, FindPeaksCWT((1.0, 2.0)))}
    assert len(keys) == 3
    with pytest.raises(ValueError, match="cannot be written to a file: name one of ricker, gau"):
        ps.Pipeline([given]).to_yaml()


@pytest.mark.parametrize(
    ("wavelet", "sentence"),
    [
        ("morlet", "wavelet='morlet' must be one of ricker, gaussian, or a function"),
        (lambda points, width: np.exp(1j * np.arange(points)), "a row of real values, got complex"),
        (lambda points, width: np.full(int(points), np.nan), "width 2 is not finite everywhere"),
        (lambda points, width: np.ones((2, 3)), r"got float64 values of shape \(2, 3\)"),
    ],
)
def test_wavelets_that_are_none_are_told(wavelet, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        find_peaks_cwt(np.random.default_rng(0).random((3, 30)), [2.0], wavelet)


def test_gaps_may_be_bridged(grid: np.ndarray, expected: list[list[int]]) -> None:
    rows = np.abs(grid).reshape(300, -1)
    bad = [0, 5, 117]
    rows[bad, [3, 117, 8]] = np.nan
    rows[20] = np.nan
    found = as_lists(find_peaks_cwt(rows, WIDTHS, nan_policy="omit"))
    whole = rows.copy()
    for i in bad:
        there = np.isfinite(rows[i])
        whole[i] = np.interp(np.arange(rows.shape[1]), np.flatnonzero(there), rows[i, there])
    others = [i for i in range(300) if i != 20]
    assert found[20] == []
    assert [found[i] for i in others] == as_lists(find_peaks_cwt(whole[others], WIDTHS))
    with pytest.raises(ValueError, match="bridge them with nan_policy='omit'"):
        find_peaks_cwt(rows, WIDTHS, nan_policy="raise")
    ds = ps.make_dataset(rows.reshape(15, 20, -1), ("y", "x", "frequency"))
    results = ps.Pipeline([FindPeaksCWT(tuple(WIDTHS.tolist()), nan_policy="omit")])(ds)
    assert int((results.status == 1).sum()) == 299


# ---------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"widths": []}, "at least one width"),
        ({"widths": [3.0, 0.0]}, "positive numbers of points, got 0"),
        ({"widths": [3.0, np.nan]}, "positive numbers of points, got nan"),
        ({"max_distances": [1.0]}, "1 values for 2 widths"),
        ({"max_distances": [1.0, -1.0]}, "max_distances must be 0 or more, got -1"),
        ({"gap_thresh": -0.5}, "gap_thresh must be 0 or more, got -0.5"),
        ({"min_length": np.nan}, "min_length must be 0 or more, got nan"),
        ({"window_size": -3}, "window_size must be 0 or more, got -3"),
        ({"noise_perc": 101.0}, "noise_perc=101 must be a percentile"),
        ({"min_snr": np.nan}, "min_snr must be a number"),
    ],
)
def test_parameters_out_of_range(parameters: dict[str, Any], sentence: str) -> None:
    given = {"widths": [3.0, 4.0], **parameters}
    with pytest.raises(ValueError, match=rf"^find_peaks_cwt: .*{sentence}"):
        find_peaks_cwt(np.zeros((2, 50)), **given)
    with pytest.raises(ValueError, match=rf"^FindPeaksCWT: .*{sentence}"):
        FindPeaksCWT(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def test_widths_that_are_no_list() -> None:
    with pytest.raises(TypeError, match="FindPeaksCWT: widths must be a list of numbers, got 3"):
        FindPeaksCWT(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="narrowest width comes first, got 8 and 3"):
        FindPeaksCWT.between(8, 3)


def test_what_is_not_a_spectrum() -> None:
    with pytest.raises(ValueError, match="no points"):
        find_peaks_cwt(np.zeros((3, 0)), [3])
    with pytest.raises(ValueError, match="single number"):
        find_peaks_cwt(3.0, [3])
    with pytest.raises(TypeError, match="must be numbers"):
        find_peaks_cwt(["a", "b"], [3])
    with pytest.raises(ValueError, match="list of at least one width"):
        find_peaks_cwt(np.zeros((3, 9)), [[3, 4]])
    with pytest.raises(ValueError, match=r"engine='cuda' must be one of"):
        find_peaks_cwt(np.zeros((3, 9)), [3], engine="cuda")  # type: ignore[arg-type]


def test_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "penstock\[fast\]"'):
        find_peaks_cwt(np.zeros((3, 9)), [3], engine="numba")


# ---------------------------------------------------------------------- the processor


def spectra_dataset(spectra: np.ndarray, dims: tuple[str, ...] = ("y", "x", "frequency")) -> Any:
    return ps.make_dataset(spectra, dims, units="V")


def test_processor_gives_what_the_function_gives(grid: np.ndarray) -> None:
    index, count = find_peaks_cwt(grid, WIDTHS)
    ds = spectra_dataset(grid).assign_coords(x=np.arange(20.0), frequency=np.arange(119.0))
    found = ps.Pipeline([FindPeaksCWT.between(20, 60, 30)])(ds)
    assert found.peak_index.dims == ("y", "x", "slot")
    assert found.sizes["slot"] == 60  # half of 119, rounded up: strict maxima have one between
    assert "frequency" not in found.variables
    assert found.x.values.tolist() == list(range(20))
    assert (found.peak_index.values[..., : index.shape[-1]] == index).all()
    assert (found.peak_index.values[..., index.shape[-1] :] == -1).all()
    assert (found.peak_count.values == count).all()
    assert (found.status.values == 1).all()
    assert found.peak_index.dtype == found.peak_count.dtype == np.int32
    assert found.status.attrs["flag_meanings"] == "done failed"


def test_other_dims_and_fewer_slots(grid: np.ndarray) -> None:
    index, count = find_peaks_cwt(grid, WIDTHS, min_snr=2.0)
    ds = spectra_dataset(np.moveaxis(grid, -1, 0), ("energy", "y", "x"))
    step = FindPeaksCWT.between(20, 60, 30, min_snr=2.0, max_peaks=5, core_dim="energy")
    found = ps.Pipeline([step])(ds)
    assert found.peak_index.shape == (15, 20, 5)
    assert as_lists((found.peak_index.values, found.peak_count.values)) == as_lists((index, count))


def test_positions_that_fail_are_marked(grid: np.ndarray) -> None:
    spectra = grid.copy()
    spectra[3, 4, 50] = np.nan
    found = ps.Pipeline([FindPeaksCWT(tuple(WIDTHS), max_peaks=5)])(spectra_dataset(spectra))
    assert np.argwhere(found.status.values == 2).tolist() == [[3, 4]]
    assert found.peak_count.values[3, 4] == 0
    assert (found.peak_index.values[3, 4] == -1).all()
    others = found.status.values == 1
    assert (found.peak_count.values == find_peaks_cwt(grid, WIDTHS)[1])[others].all()


def test_more_peaks_than_slots(grid: np.ndarray) -> None:
    step = FindPeaksCWT(tuple(WIDTHS), max_peaks=1)
    with pytest.raises(ValueError, match=r"has \d peaks, more than the 1 .* max_peaks=\d"):
        ps.Pipeline([step])(spectra_dataset(grid)).compute()
    with pytest.raises(ValueError, match="max_peaks=0 must be at least 1"):
        FindPeaksCWT((3.0,), max_peaks=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dims", [("y", "x", "frequency"), ("frequency", "y", "x")])
def test_contract(engine: str, dims: tuple[str, ...], grid: np.ndarray) -> None:
    spectra = grid if dims[-1] == "frequency" else np.moveaxis(grid, -1, 0)
    check_processor(
        FindPeaksCWT(tuple(WIDTHS), max_peaks=6, engine=engine), spectra_dataset(spectra, dims)
    )


def test_threads_do_not_disturb_each_other(grid: np.ndarray, expected: list[list[int]]) -> None:
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: find_peaks_cwt(grid, WIDTHS), range(8)):
            assert as_lists(found) == expected


def test_data_that_are_not_numbers_are_refused_by_the_plan() -> None:
    ds = ps.make_dataset(np.array([["a", "b"]]), ("y", "frequency"))
    with pytest.raises(TypeError, match="FindPeaksCWT needs numbers"):
        ps.Pipeline([FindPeaksCWT((3.0,))])(ds)
    with pytest.raises(ValueError, match=r"needs the dim 'frequency'.*core_dim="):
        ps.Pipeline([FindPeaksCWT((3.0,), core_dim="frequency")])(
            ps.make_dataset(np.zeros((2, 9)), ("y", "time"))
        )
