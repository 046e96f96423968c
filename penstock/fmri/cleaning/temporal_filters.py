"""Temporal filters of fMRI: cosine drifts as confounds, and the Butterworth filter."""

from __future__ import annotations

import warnings

import numpy as np


def cosine_drifts(n_times: int, high_pass: float, t_r: float) -> np.ndarray:
    """Cosines (DCT-II) slower than a frequency, without the constant.

    Parameters
    ----------
    n_times : int
        Time points.
    high_pass : float
        Frequency up to which drifts are modelled [Hz].
    t_r : float
        Repetition time [s].

    Returns
    -------
    numpy.ndarray, (n_times, n_drifts)
        ``sqrt(2 / T) cos(pi / T (t + 1/2) k)`` for ``k = 1, 2, ... floor(2 T high_pass t_r)``, at
        most T - 1 of them, orthonormal. The definition is that of SPM and nilearn.

    Examples
    --------
    >>> from penstock.fmri.cleaning.temporal_filters import cosine_drifts
    >>> cosine_drifts(150, 0.01, 2.0).shape
    (150, 6)
    """
    # (as nilearn rounds it: the last digit decides where the product is a whole number)
    step = (n_times - 1) * t_r / max(1, n_times - 1)
    n_drifts = min(n_times - 1, int(np.floor(2 * n_times * high_pass * step)))
    phase = np.outer(np.arange(n_times) + 0.5, np.arange(1, n_drifts + 1)) * (np.pi / n_times)
    return np.asarray(np.sqrt(2 / n_times) * np.cos(phase))


def with_cosines(
    confounds: np.ndarray | None, n_times: int, high_pass: float, t_r: float
) -> np.ndarray | None:
    """The confounds, (n_times, n_confounds), with cosine drifts unless they hold such drifts.

    They do where one of them correlates with a drift by more than 0.9, as in nilearn.
    """
    _check_high_pass(high_pass, t_r)
    drifts = cosine_drifts(n_times, high_pass, t_r)
    if not drifts.shape[1]:
        warnings.warn(
            f"high_pass={high_pass:g} Hz is below the slowest drift of {n_times} volumes "
            f"({0.5 / n_times / t_r:.3g} Hz): the cosine filter does nothing",
            stacklevel=2,
        )
        return confounds
    if confounds is None:
        return drifts
    with np.errstate(invalid="ignore"):
        centred = confounds - confounds.mean(axis=0)
        lengths = np.linalg.norm(centred, axis=0)
        # (a constant confound, or one with NaN in a volume that is left out, is no drift)
        found = drifts.T @ centred > 0.9 * np.where(lengths > 0, lengths, np.inf)
    if found.any():
        warnings.warn(
            "the confounds hold cosine drifts already: those of the filter are not added",
            stacklevel=2,
        )
        return confounds
    return np.hstack([confounds, drifts])


def butterworth_sections(
    low_pass: float | None, high_pass: float | None, t_r: float, order: int
) -> np.ndarray:
    """Second-order sections, (sections, 6), of a Butterworth filter for `scipy.signal.sosfiltfilt`.

    Raises
    ------
    ValueError
        If nothing would be left below the Nyquist frequency.
    """
    from scipy.signal import butter

    frequency = 1 / t_r
    nyquist = frequency * 0.5
    if high_pass is not None:
        _check_high_pass(high_pass, t_r)
    if low_pass is not None and low_pass >= nyquist:
        warnings.warn(
            f"low_pass={low_pass:g} Hz is not below the Nyquist frequency, {nyquist:g} Hz at a "
            f"repetition time of {t_r:g} s, which is used instead: check low_pass and t_r",
            stacklevel=2,
        )
        low_pass = nyquist * (1 - 10 * float(np.finfo(np.float32).eps))
    if low_pass is None or high_pass is None:
        kind, band = ("high", high_pass) if low_pass is None else ("low", low_pass)
        return np.asarray(butter(order, band, kind, output="sos", fs=frequency))
    return np.asarray(butter(order, [high_pass, low_pass], "band", output="sos", fs=frequency))


def least_padding(sections: np.ndarray, padlen: int | None) -> int:
    """Time points that a series must exceed for `scipy.signal.sosfiltfilt`."""
    if padlen is not None:
        return padlen
    # SciPy's default: three times the length of the transfer function
    zeros = min(int((sections[:, 2] == 0).sum()), int((sections[:, 5] == 0).sum()))
    return 3 * (2 * len(sections) + 1 - zeros)


def _check_high_pass(high_pass: float, t_r: float) -> None:
    nyquist = 0.5 / t_r
    if high_pass >= nyquist:
        raise ValueError(
            f"high_pass={high_pass:g} Hz is not below the Nyquist frequency, {nyquist:g} Hz at a "
            f"repetition time of {t_r:g} s: nothing would be left; check high_pass and t_r"
        )
