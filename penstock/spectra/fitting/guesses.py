"""First guesses of parameters from spectra, for all positions at once.

A guess only has to lie in the right valley; each is computed row by row, so that it does not depend
on which positions are guessed together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Peaks:
    """Largest peak (or dip) of real spectra; every attribute has one entry a position."""

    amplitude: np.ndarray
    """Height over the offset, negative for dips."""
    center: np.ndarray
    width: np.ndarray
    """Half width at half maximum."""
    offset: np.ndarray


def guess_peaks(x: np.ndarray, y: np.ndarray) -> Peaks:
    """Where the largest peak of every spectrum lies, how high and how wide it is.

    Parameters
    ----------
    x : numpy.ndarray
        Abscissa (L,).
    y : numpy.ndarray
        Real spectra (P, L).

    Returns
    -------
    Peaks
        The extremum of a moving mean of three points over the tenth percentile (below the
        ninetieth for dips); the width from the number of points beyond half of it.
    """
    n = y.shape[1]
    low, high = n // 10, n - 1 - n // 10
    ordered = np.partition(y, (0, low, n // 2, high, n - 1), axis=1)
    upwards = ordered[:, -1] - ordered[:, n // 2] >= ordered[:, n // 2] - ordered[:, 0]
    offset = np.where(upwards, ordered[:, low], ordered[:, high])
    above = np.where(upwards, 1.0, -1.0)[:, np.newaxis] * (y - offset[:, np.newaxis])
    smooth = above[:, :-2] + above[:, 1:-1] + above[:, 2:] if n > 2 else above
    position = smooth.argmax(axis=1) + (n > 2)
    height = above[np.arange(len(y)), position]
    beyond = above > height[:, np.newaxis] / 2
    return Peaks(
        amplitude=np.where(upwards, height, -height),
        center=x[position],
        width=np.maximum(row_sums(beyond * spacing(x)), mean_spacing(x)) / 2,
        offset=offset,
    )


def guess_oscillators(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Amplitude, frequency, quality factor and phase of complex resonances (P, 4).

    Of two estimates of frequency and quality factor, the one that explains more of the spectrum:
    the largest magnitude with the width at half power, and the linear fit of `_rational_fit`.
    Amplitude and phase follow by linear least squares.
    """
    power = y.real**2 + y.imag**2
    candidates = []
    for frequency, quality in (_half_power(x, power), _rational_fit(x, y, power)):
        response, squares = oscillator_response(
            x / frequency[:, np.newaxis], quality[:, np.newaxis]
        )
        projection, size = np.vecdot(response, y), row_sums(1 / squares)
        explained = np.abs(projection) ** 2 / size
        usable = (quality > 0) & (frequency >= x.min()) & (frequency <= x.max())
        factor = projection / size
        parameters = np.stack([np.abs(factor), frequency, quality, np.angle(factor)], axis=1)
        candidates.append((np.where(usable, explained, 0.0), parameters))
    (first_explained, first), (second_explained, second) = candidates
    return np.where((second_explained > first_explained)[:, np.newaxis], second, first)


def oscillator_response(u: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``1 / (u² - i u / Q - 1)`` and the squared magnitude of its denominator.

    In real arithmetic: complex division takes far longer.
    """
    real, imaginary = u * u - 1, u / quality
    squares = real * real + imaginary * imaginary
    response = np.empty(u.shape, np.complex128)
    np.divide(real, squares, out=response.real)
    np.divide(imaginary, squares, out=response.imag)
    return response, squares


def _half_power(x: np.ndarray, power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    position = power.argmax(axis=1)
    beyond = power > power[np.arange(len(power)), position][:, np.newaxis] / 2
    frequency = x[position]
    width = np.maximum(row_sums(beyond * spacing(x)), mean_spacing(x))
    return frequency, np.maximum(frequency / width, 1.0)


def _rational_fit(x: np.ndarray, y: np.ndarray, power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resonance of ``y (x² - b - i a x) = d`` by linear least squares for a, b and d.

    Weighted first by the power and then by the inverse of the denominator found (C. K. Sanathanan,
    J. Koerner, "Transfer function synthesis as a ratio of two complex polynomials", 1963).
    """
    t = x / np.abs(x).max()
    square = t * t
    # squares relative to that at the maximum: b is what little is left
    origin = square[power.argmax(axis=1)]
    weights = power
    b = a = np.zeros(len(y))
    for _ in range(2):
        # normal equations with d eliminated, of sums over |y|² and y times powers of t
        total = row_sums(weights)
        powers, values = weights * power, weights * y
        whole, with_square = row_sums(powers), np.vecdot(powers, square)
        mean = row_sums(values) / total
        mean_t = np.vecdot(t, values) / total
        mean_square = np.vecdot(square, values) / total - origin * mean
        first_first = whole - total * np.abs(mean) ** 2
        second_second = with_square - total * np.abs(mean_t) ** 2
        mixed = total * (mean.conj() * mean_t).imag
        on_first = with_square - origin * whole - total * (mean.conj() * mean_square).real
        on_second = -total * (mean_t.conj() * mean_square).imag
        determinant = first_first * second_second - mixed**2
        b = (second_second * on_first - mixed * on_second) / determinant + origin
        a = (first_first * on_second - mixed * on_first) / determinant
        weights = 1 / ((square - b[:, np.newaxis]) ** 2 + (a[:, np.newaxis] * t) ** 2)
    frequency = np.sqrt(b)
    return frequency * np.abs(x).max(), frequency / a


def guess_decays(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Amplitude, time constant and offset of exponential decays (P, 3).

    A decay is a linear function of its own integral and of x (J. Jacquelin, "Regressions et
    equations integrales", 2009): the slope on the integral is the negative rate.
    """
    order = np.argsort(x, kind="stable")
    t, values = x[order] - x[order[0]], np.take(y, order, axis=1)
    integral = np.zeros_like(values)
    np.cumsum((values[:, 1:] + values[:, :-1]) / 2 * np.diff(t), axis=1, out=integral[:, 1:])
    t = t - t.mean()
    centred = values - row_sums(values)[:, np.newaxis] / len(x)
    # the part of the integral and of the values that a straight line does not explain
    spread = np.vecdot(t, t)
    integral -= row_sums(integral)[:, np.newaxis] / len(x)
    integral -= np.vecdot(integral, t)[:, np.newaxis] / spread * t
    curved = centred - np.vecdot(centred, t)[:, np.newaxis] / spread * t
    straight = np.vecdot(integral, integral)
    # (a straight line, to rounding, has no rate)
    told = np.vecdot(curved, curved) > (64 * np.finfo(float).eps) ** 2 * np.vecdot(values, values)
    rate = np.where(told & (straight > 0), -np.vecdot(integral, curved) / straight, np.nan)
    extent = x.max() - x.min()
    usable = (np.abs(rate) * np.abs(x).max() < 500) & (np.abs(rate) * extent > 1e-6)
    rate = np.where(usable, rate, 2 / extent)
    shape = np.exp(-x * rate[:, np.newaxis])
    mean = row_sums(shape)[:, np.newaxis] / len(x)
    amplitude = row_sums((shape - mean) * (y - row_sums(y)[:, np.newaxis] / len(x)))
    amplitude /= row_sums((shape - mean) ** 2)
    offset = row_sums(y - amplitude[:, np.newaxis] * shape) / len(x)
    return np.stack([amplitude, 1 / rate, offset], axis=1)


def row_sums(values: np.ndarray) -> np.ndarray:
    """Sum along the last axis."""
    total: np.ndarray = values.sum(axis=-1)
    return total


def spacing(x: np.ndarray) -> np.ndarray:
    """Stretch of the abscissa that belongs to every point (L,)."""
    widths: np.ndarray = np.abs(np.gradient(x)) if len(x) > 1 else np.ones(1)
    return widths


def mean_spacing(x: np.ndarray) -> float:
    """Mean distance of neighbouring points."""
    return float(x.max() - x.min()) / max(1, len(x) - 1)
