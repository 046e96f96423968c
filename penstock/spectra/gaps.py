"""Spectra with values that are missing, filled for those who must look at them whole."""

from __future__ import annotations

import numpy as np


def without_gaps(x: np.ndarray, spectra: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Spectra with straight lines over their gaps, for first guesses.

    Parameters
    ----------
    x : numpy.ndarray
        Abscissa (L,); of several dims (dims, L) the last counts.
    spectra : numpy.ndarray
        (P, L); real or complex.
    missing : numpy.ndarray
        Where values are missing (P, L).

    Returns
    -------
    numpy.ndarray
        (P, L); the nearest value before the first and after the last one that is there, 0 where
        there is none.
    """
    rows = np.flatnonzero(missing.any(axis=1))
    filled = spectra.copy()
    if not len(rows):
        return filled
    along = x if x.ndim == 1 else x[-1]
    there, values = ~missing[rows], spectra[rows]
    n = values.shape[1]
    number = np.arange(n)
    before = np.maximum.accumulate(np.where(there, number, -1), axis=1)
    after = np.minimum.accumulate(np.where(there, number, n)[:, ::-1], axis=1)[:, ::-1]
    before = np.where(before < 0, np.minimum(after, n - 1), before)
    after = np.where(after >= n, before, after)
    low, high = np.take_along_axis(values, before, 1), np.take_along_axis(values, after, 1)
    width = along[after] - along[before]
    part = np.where(width != 0, (along - along[before]) / np.where(width != 0, width, 1.0), 0.0)
    line = low + (high - low) * part
    line[~there.any(axis=1)] = 0
    filled[rows] = np.where(there, values, line)
    return filled
