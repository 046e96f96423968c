"""Cleaning of time series: one call, a few batches of columns in memory at a time."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from penstock.fmri.cleaning.confounds import load_confounds_table
from penstock.fmri.cleaning.plan import Cleaning, CleaningOptions, plan_cleaning, result_type
from penstock.memory.accounting import cpu_count, single_threaded_kernels

_PREFIX = "butterworth__"


def signal_clean(
    signals: Any,
    runs: Any = None,
    detrend: bool = True,
    standardize: Literal["zscore_sample", "psc"] | bool | None = "zscore_sample",
    sample_mask: Any = None,
    confounds: Any = None,
    standardize_confounds: bool = True,
    filter: Literal["butterworth", "cosine"] | bool | None = "butterworth",
    low_pass: float | None = None,
    high_pass: float | None = None,
    t_r: float | None = 2.5,
    ensure_finite: bool = False,
    extrapolate: bool = False,
    *,
    block_bytes: int = 16 << 20,
    workers: int | None = None,
    out: Any = None,
    **butterworth: Any,
) -> Any:
    """Clean time series: detrend, filter, take out confounds, standardize.

    Parameters and results are those of `nilearn.signal.clean`, save for what the notes say. Columns
    are read, cleaned and written in blocks: beside input and result, memory stays at a few blocks.

    Parameters
    ----------
    signals : array_like, (n_times, n_columns)
        Time series as columns: an array, a table, or anything with a shape and a type that gives
        columns when sliced (``signals[:, a:b]``), such as a dataset of HDF5 or Zarr, or a lazy
        array of Dask or xarray. Not modified, unless it is `out`.
    runs : array_like, (n_times,), optional
        Run of each time point. Each run is cleaned on its own, with all options.
    detrend : bool, default True
        Take out the mean and the linear trend.
    standardize : {"zscore_sample", "psc", None}, default "zscore_sample"
        ``"zscore_sample"``: centre and divide by the standard deviation of the sample; ``"psc"``:
        percent signal change about the mean. True and False mean ``"zscore_sample"`` and None.
    sample_mask : array_like of int or bool, or list of them, optional
        Volumes that are kept: their numbers in ascending order, or True for them. With `runs` it
        may be a list with one mask for each run, counted from the first volume of that run.
    confounds : array_like, path, table, or list of them, optional
        Time series to take out by least squares, as columns (see
        `penstock.fmri.load_confounds_table`).
    standardize_confounds : bool, default True
        Centre and scale the confounds to unit variance. False: divide each by its largest
        magnitude.
    filter : {"butterworth", "cosine", False}, default "butterworth"
        ``"butterworth"``: forward and backward in time, between `high_pass` and `low_pass`, none
        where both are None; ``"cosine"``: cosines up to `high_pass` are added to the confounds.
    low_pass, high_pass : float, optional
        Frequencies [Hz] above and below which signals are removed.
    t_r : float, default 2.5
        Repetition time [s].
    ensure_finite : bool, default False
        Replace values that are not finite by 0.
    extrapolate : bool, default False
        Whether the Butterworth filter also passes over volumes left out before the first and after
        the last kept one, extrapolated by the spline, instead of beginning and ending with kept
        ones.
    block_bytes : int, default 16 MiB
        Size of a block of input columns.
    workers : int, optional
        Threads. Default: as many as there are cores.
    out : array_like, (n_kept, n_columns), optional
        Where the result goes: an array, or anything whose columns can be assigned. It may be
        `signals` itself where no volume is left out.
    **butterworth
        ``butterworth__order`` (5), ``butterworth__padtype`` ("odd"), ``butterworth__padlen``.

    Returns
    -------
    numpy.ndarray, (n_kept, n_columns), or `out`
        Cleaned series of the kept volumes, in the order of time: float32 for float32, else float64.

    Raises
    ------
    ValueError, TypeError
        If parameters contradict each other or do not fit the series.

    Notes
    -----
    Steps, in this order: cosine drifts, made for all volumes, join the confounds; volumes left out
    are removed, or, for the Butterworth filter, interpolated by a cubic spline through the kept
    ones; detrending and filter of series and confounds; removal of the interpolated volumes;
    projection onto what is orthogonal to the confounds; standardization. All is computed in
    float64. See [1]_ for why confounds are filtered too.

    Where this differs from nilearn 0.14:

    * volumes that are left out are interpolated wherever they lie (nilearn interpolates volume `i`
      only if its mirror image, counted from the end, is kept), and with ``extrapolate=False`` those
      before the first and after the last kept one are really left out;
    * `sample_mask` is not modified;
    * runs obey all options, and rows stay in the order of time where runs alternate;
    * constant series, and those that the confounds explain, give 0, not rescaled rounding errors;
    * constant confounds, and those that others make up, count for nothing (after spline and filter
      nilearn takes what rounding leaves of them for one more confound);
    * percent signal change refers to the mean before cleaning where filter, detrending and
      confounds take away more than 0.9 of a constant; nilearn decides by the data, over all
      columns, so that its result for one column depends on the others;
    * a column with a value that is not finite is NaN throughout, and leaves the others alone;
    * frequencies of 0 or less, a high-pass above the Nyquist frequency, and confounds that explain
      everything are errors.

    References
    ----------
    .. [1] M. A. Lindquist, S. Geuter, T. D. Wager, B. S. Caffo, "Modular preprocessing pipelines
       can reintroduce artifacts into fMRI data", Human Brain Mapping 40 (2019) 2358-2376,
       :doi:`10.1002/hbm.24528`.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.cleaning.nilearn_call import signal_clean
    >>> t = np.arange(200)
    >>> motion = np.random.default_rng(0).standard_normal((200, 6))
    >>> signals = 100 + 0.1 * t[:, np.newaxis] + motion @ np.ones((6, 3)) + np.sin(t)[:, np.newaxis]
    >>> cleaned = signal_clean(signals, confounds=motion, low_pass=0.2, t_r=1.0)
    >>> cleaned.shape, bool(np.allclose(cleaned.std(axis=0, ddof=1), 1))
    ((200, 3), True)
    """
    signals = _as_columns(signals)
    n_times, n_columns = signals.shape
    options = CleaningOptions(
        detrend=detrend,
        standardize=standardize,
        standardize_confounds=standardize_confounds,
        filter=filter,
        low_pass=low_pass,
        high_pass=high_pass,
        t_r=t_r,
        ensure_finite=ensure_finite,
        extrapolate=extrapolate,
        **_butterworth_options(butterworth),
    )
    table: np.ndarray | None = None
    names: tuple[str, ...] = ()
    if confounds is not None:
        table, names = load_confounds_table(confounds, n_times=n_times)
    cleaning = plan_cleaning(
        n_times, options, confounds=table, names=names, sample_mask=sample_mask, runs=runs
    )
    dtype = result_type(signals.dtype)
    if out is None:
        out = np.empty((cleaning.n_kept, n_columns), dtype)
    _check_out(out, (cleaning.n_kept, n_columns), dtype)
    parts = list(_blocks(cleaning, n_columns, signals.dtype.itemsize, block_bytes))
    workers = min(workers or cpu_count(), len(parts))

    def clean(part: slice) -> None:
        block = np.asarray(signals[:, part])
        if isinstance(out, np.ndarray):
            cleaning.apply(block, out[:, part])
        else:
            out[:, part] = cleaning.apply(block)

    with single_threaded_kernels():
        if workers <= 1:
            for part in parts:
                clean(part)
        else:
            with ThreadPoolExecutor(workers) as pool:
                for _ in pool.map(clean, parts):
                    pass
    return out


def _as_columns(signals: Any) -> Any:
    if hasattr(signals, "to_numpy") and not hasattr(signals, "dims"):  # a table, not xarray
        signals = signals.to_numpy()
    elif not (hasattr(signals, "shape") and hasattr(signals, "dtype")):
        signals = np.asarray(signals)
    if len(signals.shape) != 2:
        hint = ": give one series as signals[:, np.newaxis]" if len(signals.shape) == 1 else ""
        raise ValueError(
            f"signals must be (time points, columns), got the shape {tuple(signals.shape)}{hint}"
        )
    return signals


def _butterworth_options(given: dict[str, Any]) -> dict[str, Any]:
    known = {f"{_PREFIX}{name}": name for name in ("order", "padtype", "padlen", "copy")}
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f": did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"signal_clean has no parameter {name!r}{hint}")
    # (a copy is made in any case: nothing depends on it)
    return {known[name]: value for name, value in given.items() if known[name] != "copy"}


def _check_out(out: Any, shape: tuple[int, int], dtype: np.dtype) -> None:
    if tuple(out.shape) != shape:
        raise ValueError(
            f"out has the shape {tuple(out.shape)}, the result {shape}"
            + (": volumes are left out, so that it needs an array of its own"
               if out.shape[0] > shape[0] else "")
        )  # fmt: skip
    if not np.can_cast(dtype, out.dtype, "same_kind"):
        raise ValueError(f"out holds {out.dtype}, the result is {dtype}: give an array of that")


def _blocks(cleaning: Cleaning, n_columns: int, itemsize: int, block_bytes: int) -> Iterator[slice]:
    """Stretches of columns, in whole batches."""
    if block_bytes < 1:
        raise ValueError(f"block_bytes={block_bytes} must be above 0")
    fitting = block_bytes // (cleaning.n_times * itemsize)
    length = max(1, fitting // cleaning.batch) * cleaning.batch
    for start in range(0, n_columns, length):
        yield slice(start, min(n_columns, start + length))
