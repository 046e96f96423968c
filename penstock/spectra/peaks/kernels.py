"""Peaks by ridge lines of a wavelet transform, for many spectra at once.

`scipy.signal.find_peaks_cwt` spends its time in Python: convolutions of a hundred points one by
one, a percentile for every point though only the ends of a few ridge lines need it. Here one
matrix product transforms a tile of spectra at one width, and the ridge lines of all of them advance
together, as flat arrays in order of position and column. Only one width is in memory at a time.

Where two neighbouring values of the transform, or a signal and its threshold, are so close that the
order of additions decides, the spectrum is transformed again by SciPy's own convolution. The result
is therefore that of SciPy, and depends neither on how spectra are cut into tiles nor on the BLAS.

Definition: P. Du, W. A. Kibbe and S. M. Lin, "Improved peak detection in mass spectrum by
incorporating continuous wavelet transform-based pattern matching", Bioinformatics 22 (2006), as
implemented by SciPy 1.17.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from penstock.memory.buffers import scratch_buffer
from penstock.spectra.gaps import without_gaps

TILE = 1 << 17
"""Values of the transform, at one width, that are worked on at once."""
LONGEST_PRODUCT = 400
"""Longer spectra are transformed by FFT: a matrix product takes longer from there on."""
SCRATCH_BYTES = 20 << 20
"""Most that `find_peaks` allocates for spectra of at most `TILE` points (measured: 15 MiB)."""
ROW_SCRATCH = 64.0
"""Most that it allocates for a longer one, as a multiple of it (measured: 128 bytes a point)."""

_FAR = np.iinfo(np.int64).max // 4
_EPSILON = float(np.finfo(np.float64).eps)

Convolution = Callable[[np.ndarray], np.ndarray]
"""Wavelet -> transform of all spectra of a tile, as numpy.convolve(spectrum, wavelet, "same")."""


Wavelet = Callable[..., Any]
"""``wavelet(points, width)``: values (points,), as `scipy.signal.find_peaks_cwt` calls it."""


@dataclass(frozen=True)
class Search:
    """What to look for, with nothing left to default: the parameters of `find_peaks_cwt`."""

    widths: tuple[float, ...]
    max_distances: tuple[float, ...]
    gap_thresh: float
    min_length: float
    min_snr: float
    noise_perc: float
    window_size: int
    wavelet: Wavelet | None = None
    """None: the Ricker wavelet."""
    bridge: bool = False
    """Whether gaps are bridged by straight lines; otherwise spectra with gaps have no peaks."""

    def sampled(self, row: int, n_points: int) -> np.ndarray:
        """The wavelet of a width, as a spectrum of `n_points` is convolved with it."""
        if self.wavelet is None:
            return ricker(self.widths[row], n_points)
        return _sampled(self.wavelet, self.widths[row], n_points)

    def longest(self, n_points: int) -> int:
        """Points of the longest wavelet."""
        if self.wavelet is None:
            return int(min(np.ceil(10 * max(self.widths)), n_points))
        return max(len(self.sampled(row, n_points)) for row in range(len(self.widths)))


class Lines(NamedTuple):
    """Ridge lines of all spectra of a tile, in order of position and last column.

    Those that can still grow lie between two sentinels, so that every maximum has a neighbour on
    both sides.
    """

    key: np.ndarray
    """position * stride + column of the latest maximum"""
    born: np.ndarray
    """Rank within its position in order of creation."""
    length: np.ndarray
    """Maxima in the line."""
    row: np.ndarray
    """Row (index of the width) of the latest maximum."""
    value: np.ndarray
    """Transform at the latest maximum."""

    def taken(self, which: np.ndarray | slice) -> Lines:
        """Some of the lines."""
        return Lines(*(column[which] for column in self))


class Engine(NamedTuple):
    """The two loops that are compiled where numba is installed."""

    strict_maxima: Callable[[np.ndarray, float, np.ndarray], np.ndarray]
    link: Callable[..., tuple[Lines, Lines]]


# ---------------------------------------------------------------------- transform


def ricker(width: float, n_points: int) -> np.ndarray:
    """The wavelet that `find_peaks_cwt` convolves a spectrum of `n_points` with, bit for bit."""
    points = min(10 * width, n_points)
    # (`points` may be fractional: the centre then lies between two halves of unequal length)
    offset = np.arange(0, points) - (points - 1.0) / 2
    amplitude = 2 / (np.sqrt(3 * width) * (np.pi**0.25))
    squared = width**2
    offset_squared = offset**2
    bell = np.exp(-offset_squared / (2 * squared))
    wavelet: np.ndarray = (amplitude * (1 - offset_squared / squared) * bell)[::-1]
    return wavelet


def _sampled(wavelet: Wavelet, width: float, n_points: int) -> np.ndarray:
    """A wavelet of the user, turned round as SciPy turns it, without what never meets the spectrum.

    Raises
    ------
    ValueError
        If it gives no real, finite values in one row.
    """
    points = min(10 * width, n_points)
    values = np.asarray(wavelet(int(points) if float(points).is_integer() else points, width))
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "biuf":
        what = f"{values.dtype} values of shape {values.shape}"
        raise ValueError(f"the wavelet must give a row of real values, got {what}")
    if not np.isfinite(values).all():
        raise ValueError(f"the wavelet of width {width:g} is not finite everywhere")
    values = values[::-1].astype(np.float64)
    centre = (len(values) - 1) // 2
    before, after = min(centre, n_points - 1), min(len(values) - 1 - centre, n_points - 1)
    return values[centre - before : centre + after + 1]


def _by_product(x: np.ndarray) -> Convolution:
    """Convolution as a product with a Toeplitz matrix.

    Turned by half a turn, the matrix of a symmetric wavelet stays as it is: sums of points equally
    far from both ends give the even part of the result, differences the odd part, with half the
    multiplications.
    """
    n_rows, n = x.shape
    half, pairs = (n + 1) // 2, n // 2
    values = scratch_buffer("peaks values", x.shape, np.float64)
    sums = scratch_buffer("peaks sums", (n_rows, half), np.float64)
    differences = scratch_buffer("peaks differences", (n_rows, pairs), np.float64)
    backwards = x[:, ::-1][:, :pairs]
    sums[:] = x[:, :half]
    sums[:, :pairs] += backwards
    np.subtract(x[:, :pairs], backwards, out=differences)

    def convolve(wavelet: np.ndarray) -> np.ndarray:
        # between two points lies the centre of an even wavelet: its result is symmetric with one
        # point more
        n_out = n + 1 - len(wavelet) % 2
        lags = np.zeros(n - 1 + n_out)
        first = n - 1 - (len(wavelet) - 1) // 2
        lags[first : first + len(wavelet)] = wavelet
        # row j: the wavelet with its centre at column j
        matrix = np.lib.stride_tricks.sliding_window_view(lags, n_out)[::-1]
        if not np.array_equal(wavelet, wavelet[::-1]):
            return np.matmul(x, np.ascontiguousarray(matrix[:, :n]), out=values)
        n_left = (n_out + 1) // 2
        left, right = matrix[:, :n_left], matrix[:, ::-1][:, :n_left]
        even = scratch_buffer("peaks even", (n_rows, n_left), np.float64)
        odd = scratch_buffer("peaks odd", (n_rows, n_left), np.float64)
        np.matmul(sums, 0.5 * (left + right)[:half], out=even)
        np.matmul(differences, 0.5 * (left - right)[:pairs], out=odd)
        np.add(even, odd, out=values[:, :n_left])
        mirrored = slice(n_out - n, n_out - n_left)
        np.subtract(even[:, mirrored], odd[:, mirrored], out=values[:, n_left:][:, ::-1])
        return values

    return convolve


def _by_fft(x: np.ndarray, longest: int) -> Convolution:
    """Convolution through the frequency domain, for wavelets of at most `longest` points."""
    import scipy.fft

    n = x.shape[1]
    length = scipy.fft.next_fast_len(n + longest // 2, real=True)
    spectra = scipy.fft.rfft(x, length, axis=1)
    values = scratch_buffer("peaks values", x.shape, np.float64)
    product = scratch_buffer("peaks product", spectra.shape, np.complex128)

    def convolve(wavelet: np.ndarray) -> np.ndarray:
        around = np.zeros(length)
        centre = (len(wavelet) - 1) // 2
        around[: len(wavelet) - centre] = wavelet[centre:]
        around[length - centre :] = wavelet[:centre]
        np.multiply(spectra, scipy.fft.rfft(around), out=product)
        values[:] = scipy.fft.irfft(product, length, axis=1, overwrite_x=True)[:, :n]
        return values

    return convolve


def _by_scipy(x: np.ndarray) -> Convolution:
    """SciPy's own convolution, spectrum by spectrum."""
    from scipy import signal

    values = scratch_buffer("peaks values", x.shape, np.float64)

    def convolve(wavelet: np.ndarray) -> np.ndarray:
        for i, spectrum in enumerate(x):
            values[i] = signal.convolve(spectrum, wavelet, mode="same")
        return values

    return convolve


# ---------------------------------------------------------------------- ridge lines


def strict_maxima(values: np.ndarray, tolerance: float, unsure: np.ndarray) -> np.ndarray:
    """Flat indices of values above both neighbours of their row by more than `tolerance`.

    Rows with a value that may or may not be a maximum, within the tolerance, are marked in
    `unsure`.
    """
    flat = values.reshape(-1)
    n = flat.size
    step = scratch_buffer("peaks step", (n - 1,), np.float64)
    np.subtract(flat[1:], flat[:-1], out=step)
    rises = scratch_buffer("peaks rises", (n,), bool)
    falls = scratch_buffer("peaks falls", (n,), bool)
    np.greater_equal(step, -tolerance, out=rises[1:])
    np.less_equal(step, tolerance, out=falls[:-1])
    rises &= falls
    rises.reshape(values.shape)[:, [0, -1]] = False  # no maximum has but one neighbour
    found = np.flatnonzero(rises)
    sure = (step[found - 1] > tolerance) & (step[found] < -tolerance)
    if not sure.all():
        unsure[found[~sure] // values.shape[1]] = True
        found = found[sure]
    return found


def link(
    key: np.ndarray,
    value: np.ndarray,
    row: int,
    born: np.ndarray,
    reach: int,
    gap_thresh: float,
    lines: Lines,
) -> tuple[Lines, Lines]:
    """Extend ridge lines by the maxima of the next row; return those that live on, and the others.

    Each maximum joins the line whose latest column is nearest (of two equally near the older one)
    within `reach`, several may join one line; otherwise it begins a line. `lines` stay in order:
    what joins a line lies on its side of the middle to either neighbour.
    """
    after = np.searchsorted(lines.key, key)
    before = after - 1
    to_after, to_before = lines.key[after] - key, key - lines.key[before]
    older = lines.born[before] < lines.born[after]
    nearest = np.where((to_before < to_after) | ((to_before == to_after) & older), before, after)
    joins = np.minimum(to_before, to_after) <= reach
    all_join = bool(joins.all())
    joined = nearest if all_join else nearest[joins]
    lines.length[:] += np.bincount(joined, minlength=len(lines.length))
    # of several maxima that join one line the last counts, as in NumPy's assignment
    lines.key[joined] = key if all_join else key[joins]
    lines.value[joined] = value if all_join else value[joins]
    lines.row[joined] = row
    if not all_join:
        begins = ~joins
        n_new = int(np.count_nonzero(begins))
        at = after[begins] + np.arange(n_new)
        old = np.ones(len(lines.key) + n_new, bool)
        old[at] = False
        ones, rows = np.ones(n_new, np.int64), np.full(n_new, row)
        new = Lines(key[begins], born[begins], ones, rows, value[begins])
        merged = []
        for kept, added in zip(lines, new, strict=True):
            column = np.empty(len(old), kept.dtype)
            column[old] = kept
            column[at] = added
            merged.append(column)
        lines = Lines(*merged)
    live = lines.row - row <= gap_thresh
    if live.all():
        return lines, lines.taken(np.zeros(0, np.int64))
    return lines.taken(live), lines.taken(~live)


def _no_lines() -> Lines:
    """Two sentinels, farther than any line from any position, that never end."""
    zeros = np.zeros(2, np.int64)
    return Lines(np.array([-_FAR, _FAR]), zeros, zeros.copy(), np.full(2, -_FAR), np.zeros(2))


NUMPY = Engine(strict_maxima, link)


# ---------------------------------------------------------------------- a tile of spectra


def _tile_peaks(
    convolve: Convolution,
    shape: tuple[int, int],
    search: Search,
    engine: Engine,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position and column of every peak in order, and at which positions rounding decides.

    `tolerance` bounds the error of a difference, as a fraction of the sum of the wavelet's absolute
    values.
    """
    n_rows, n = shape
    n_widths = len(search.widths)
    # beyond any distance within a spectrum, so that lines of two positions never meet
    stride = 2 * n + 2
    unsure = np.zeros(n_rows, bool)
    errors = np.zeros(n_widths)
    values: np.ndarray
    lines, complete = _no_lines(), []
    for row in reversed(range(n_widths)):
        wavelet = search.sampled(row, n)
        values = convolve(wavelet)
        errors[row] = tolerance * np.abs(wavelet).sum()
        found = engine.strict_maxima(values, errors[row], unsure)
        position = found // n
        column = found - position * n
        lines, ended = engine.link(
            position * stride + column,
            values.reshape(-1)[found],
            row,
            (n_widths - row) * n + column,
            int(min(search.max_distances[row], n)),
            search.gap_thresh,
            lines,
        )
        complete.append(ended.taken(ended.length >= search.min_length))
    lines = lines.taken(slice(1, -1))
    complete.append(lines.taken(lines.length >= search.min_length))
    ends = Lines(*(np.concatenate(columns) for columns in zip(*complete, strict=True)))
    ends = ends.taken(np.argsort(ends.key))
    position = ends.key // stride
    column = ends.key - position * stride
    kept = np.ones(len(column), bool)
    if search.min_snr > 0 and search.window_size > 0:
        slack = errors[ends.row] + search.min_snr * errors[0]
        close = np.zeros(len(column), bool)
        batch = max(1, TILE // search.window_size)
        for start in range(0, len(column), batch):
            part = slice(start, start + batch)
            noise = _noise(values, position[part], column[part], search)
            signal = np.abs(ends.value[part])
            with np.errstate(divide="ignore", invalid="ignore"):
                # (not the same as >=: without noise there is nothing to fall below)
                kept[part] = ~(np.abs(ends.value[part] / noise) < search.min_snr)
                close[part] = np.abs(signal - search.min_snr * np.abs(noise)) <= slack[part]
        if search.window_size == 1 and search.min_snr <= 1:
            close &= ends.row > 0  # at the first width signal and noise are one value
        unsure[position[close]] = True
    return position[kept], column[kept], unsure


def _noise(
    values: np.ndarray, position: np.ndarray, column: np.ndarray, search: Search
) -> np.ndarray:
    """Percentile of the transform in a window about a column, at the first width.

    Interpolated as by `scipy.stats.scoreatpercentile`.
    """
    n = values.shape[1]
    half, odd = divmod(search.window_size, 2)
    first = np.maximum(column - half, 0)
    length = np.minimum(column + half + odd, n) - first
    offset = np.arange(min(search.window_size, n))
    window = values[position[:, None], np.minimum(first[:, None] + offset, n - 1)]
    window[offset >= length[:, None]] = np.inf
    window.sort(axis=1)
    rank = search.noise_perc / 100.0 * (length - 1)
    lower = rank.astype(np.int64)
    upper = np.minimum(lower + 1, length - 1)
    each = np.arange(len(column))
    low, high = window[each, lower], window[each, upper]
    below, above = (lower + 1) - rank, rank - lower
    return np.where(rank == lower, low, (low * below + high * above) / (below + above))


# ---------------------------------------------------------------------- all spectra


class Found(NamedTuple):
    """Peaks of some consecutive positions."""

    positions: slice
    """Which positions, counted in C order over all axes but the last."""
    counts: np.ndarray
    """Peaks of every position."""
    columns: np.ndarray
    """Columns of all peaks, in order of position and column."""
    usable: np.ndarray
    """Whether all values of a spectrum are finite; the others have no peaks."""


def find_peaks(spectra: np.ndarray, search: Search, engine: Engine = NUMPY) -> Iterator[Found]:
    """Peaks of spectra along the last axis (real or complex), one tile after the other."""
    n = spectra.shape[-1]
    # where a short line is enough, more lines than values may end up complete
    per_point = max(1.0, len(search.widths) / (4 * max(search.min_length, 1.0)))
    tile = max(1, int(TILE / (n * per_point)))
    done = 0
    for rows in _matrices(spectra):
        for start in range(0, len(rows), tile):
            part = rows[start : start + tile]
            position, columns, usable = _search_tile(part, search, engine)
            counts = np.bincount(position, minlength=len(part))
            yield Found(slice(done, done + len(part)), counts, columns, usable)
            done += len(part)


def _matrices(spectra: np.ndarray) -> Iterator[np.ndarray]:
    """Spectra as rows of matrices, in order; of strided arrays only small pieces are copied."""
    if spectra.ndim <= 2:
        yield np.atleast_2d(spectra)
    elif spectra.flags.c_contiguous:
        yield spectra.reshape(-1, spectra.shape[-1])
    elif (n_inner := math.prod(spectra.shape[1:])) > TILE:
        for inner in spectra:
            yield from _matrices(inner)
    else:
        step = TILE // max(1, n_inner)
        for start in range(0, len(spectra), step):
            yield spectra[start : start + step].reshape(-1, spectra.shape[-1])


def _search_tile(
    spectra: np.ndarray, search: Search, engine: Engine
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n_rows, n = spectra.shape
    x = _real(spectra, scratch_buffer("peaks spectra", (n_rows, n), np.float64), search.bridge)
    largest = np.maximum(x.max(axis=1), -x.min(axis=1))
    usable = np.isfinite(largest)
    rows = np.flatnonzero(usable & (largest > 0))
    if not len(rows):
        return rows, rows, usable
    if len(rows) < n_rows:
        x[: len(rows)] = x[rows]
        x = x[: len(rows)]
    # to between 0.5 and 1, exactly: then one bound of the error holds for all
    x *= np.ldexp(1.0, -np.clip(np.frexp(largest[rows])[1], -1000, 1000))[:, None]
    convolve = _by_product(x) if n <= LONGEST_PRODUCT else _by_fft(x, search.longest(n))
    # a sum of n products is off by n / 2 epsilon at most; so are its neighbour and SciPy's two
    tolerance = 4 * (n + 2) * _EPSILON
    position, column, unsure = _tile_peaks(convolve, x.shape, search, engine, tolerance)
    if unsure.any():
        again = np.flatnonzero(unsure)
        exact = _real(spectra[rows[again]], np.empty((len(again), n)), search.bridge)
        settled, settled_column, _ = _tile_peaks(_by_scipy(exact), exact.shape, search, engine, 0.0)
        kept = ~unsure[position]
        position = np.concatenate([position[kept], again[settled]])
        column = np.concatenate([column[kept], settled_column])
        order = np.argsort(position, kind="stable")
        position, column = position[order], column[order]
    return rows[position], column, usable


def _real(spectra: np.ndarray, out: np.ndarray, bridge: bool) -> np.ndarray:
    """Spectra in float64, those that are complex by magnitude; gaps bridged where that is asked."""
    if np.iscomplexobj(spectra):
        # contiguous: how NumPy rounds a magnitude may depend on strides
        spectra = np.abs(np.ascontiguousarray(spectra))
    np.copyto(out, spectra, casting="unsafe")
    if bridge:
        missing = ~np.isfinite(out)
        rows = np.flatnonzero(missing.any(axis=1) & ~missing.all(axis=1))
        out[rows] = without_gaps(np.arange(out.shape[1]), out[rows], missing[rows])
    return out
