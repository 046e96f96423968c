"""The processor that cleans time series: of regions, of voxels, of whole images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from penstock.dataset import SIGNAL, blank_variable
from penstock.fmri.cleaning.censoring import slice_of_text
from penstock.fmri.cleaning.confounds import find_confounds, load_confounds_table
from penstock.fmri.cleaning.plan import Cleaning, CleaningOptions, kept_volumes, plan_cleaning
from penstock.fmri.cleaning.steps import BATCH_BYTES, LEAST_BATCH, as_slice
from penstock.fmri.cleaning.strategies import ConfoundStrategy, chosen_confounds
from penstock.fmri.images.images import floating_type
from penstock.fmri.images.volumes import repetition_time
from penstock.processor import Context, Processor
from penstock.running.sources import result_name

if TYPE_CHECKING:
    import xarray as xr

NAME = "{name}"
"""What the name of an image takes the place of, in paths of confounds."""

_BATCHES = 16
"""Batches of series in float64 that are alive at once in the filter and the spline, at most."""


@dataclass(frozen=True, repr=False)
class CleanSignals(Processor):
    """Detrend, filter and standardize time series, and take confounds out of them.

    Works along ``time`` on any other dims: regions, voxels, or x, y and z. See
    `penstock.fmri.signal_clean` for what each step does; defaults are those of nilearn's maskers,
    so that nothing is done unless asked.

    Parameters
    ----------
    detrend : bool, default False
        Take out the mean and the linear trend.
    standardize : {"zscore_sample", "psc", None}, default None
        Z-scores (the units become ``"1"``), or percent signal change (``"%"``).
    standardize_confounds : bool, default True
        Centre and scale the confounds to unit variance.
    filter : {"butterworth", "cosine", False}, default "butterworth"
        Kind of the filter; ``"butterworth"`` filters only if a frequency is given.
    low_pass, high_pass : float, optional
        Frequencies [Hz] above and below which signals are removed.
    t_r : float, optional
        Repetition time [s]. Default: that of the dataset's time coordinate.
    sample_mask : sequence of int or bool, optional
        Volumes of the whole series that are kept: their numbers in ascending order, True for each
        of them, or a stretch as text: ``"4:"`` leaves out the first four.
    runs : sequence of int or str, optional
        Run of each volume. Each run is cleaned on its own.
    confounds : str, array_like, list of them, optional
        Paths of tables (see `penstock.fmri.load_confounds_table`), or the values themselves;
        ``"auto"``: the table that fMRIPrep left beside the image; a path with ``{name}`` in it,
        relative to the image: the table that has the image's name.
    confound_columns : str or sequence of str, optional
        Names of the confounds that are used, or patterns such as ``"trans_*"``. Default: all.
    strategy : sequence of str, optional
        Instead of columns, what the confounds of fMRIPrep are about: ``["motion", "wm_csf",
        "scrub"]``, ``["motion=basic"]`` (see `ConfoundStrategy`). Volumes that it leaves out
        (``"scrub"``, and always those that fMRIPrep calls non-steady) are left out of the result.
    strategy_options : mapping, optional
        Its other parameters: ``{"fd_threshold": 0.2}``.
    ensure_finite : bool, default False
        Replace values that are not finite by 0. Otherwise a series with such a value is NaN
        throughout.
    extrapolate : bool, default False
        Whether the Butterworth filter also passes over volumes left out before the first and after
        the last kept one.
    order : int, default 5
        Order of the Butterworth filter.
    padtype : {"odd", "even", "constant", None}, default "odd"
        How series are continued at their ends for the Butterworth filter.
    padlen : int, optional
        By how many time points. Default: that of `scipy.signal.sosfiltfilt`.

    Raises
    ------
    OSError, ValueError
        If parameters contradict each other or do not fit the dataset, or confounds cannot be read.

    Notes
    -----
    Where volumes are left out, the time coordinate holds the times of the kept ones. All is
    computed in float64; the result has the type that holds the signals exactly.

    Confounds given as values become part of the pipeline's file.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.fmri.cleaning.processor import CleanSignals
    >>> rng = np.random.default_rng(0)
    >>> motion = rng.standard_normal((100, 6))
    >>> ds = ps.make_dataset(
    ...     100 + rng.standard_normal((3, 100)), ("region", "time"), sampling_frequency=0.5
    ... )
    >>> clean = CleanSignals(
    ...     detrend=True, standardize="zscore_sample", high_pass=0.01, confounds=motion
    ... )
    >>> cleaned = ps.Pipeline([clean])(ds)
    >>> bool(np.abs(cleaned.signal.values @ (motion - motion.mean(axis=0))).max() < 20)
    True
    """

    core_dims = ("time",)

    detrend: bool = False
    standardize: Literal["zscore_sample", "psc"] | bool | None = None
    standardize_confounds: bool = True
    filter: Literal["butterworth", "cosine"] | bool | None = "butterworth"
    low_pass: float | None = None
    high_pass: float | None = None
    t_r: float | None = None
    sample_mask: tuple[bool, ...] | tuple[int, ...] | str | None = None
    runs: tuple[int, ...] | tuple[str, ...] | None = None
    confounds: str | tuple[Any, ...] | None = None
    confound_columns: str | tuple[str, ...] | None = None
    strategy: tuple[str, ...] | None = None
    strategy_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    ensure_finite: bool = False
    extrapolate: bool = False
    order: int = 5
    padtype: Literal["odd", "even", "constant"] | None = "odd"
    padlen: int | None = None

    # the batches; where series are so long that a batch holds only the least number of them, rows
    scratch_bytes: ClassVar[int] = _BATCHES * BATCH_BYTES
    row_scratch: ClassVar[float] = 2.0 * _BATCHES * LEAST_BATCH

    def __post_init__(self) -> None:
        for name in ("sample_mask", "runs"):
            value = getattr(self, name)
            if hasattr(value, "tolist"):
                object.__setattr__(self, name, tuple(np.asarray(value).tolist()))
        self._keep_confounds()
        super().__post_init__()

    def _keep_confounds(self) -> None:
        """Confounds as text and numbers: what a file can hold, and what tells two apart."""
        given: Any = self.confounds
        if given is None or isinstance(given, str):
            return
        paths, columns = _paths(given), self.confound_columns
        if paths is None:
            values, _ = load_confounds_table(given, columns)
            columns = None
            object.__setattr__(self, "confounds", tuple(tuple(row) for row in values.tolist()))
        else:
            object.__setattr__(self, "confounds", paths)
        object.__setattr__(self, "confound_columns", columns)

    def __repr__(self) -> str:
        values = [(f.name, getattr(self, f.name), f.default) for f in fields(self)]
        values = [row for row in values if row[0] != "strategy_options" or row[1]]
        given = [f"{name}={_shown(value)}" for name, value, default in values if value != default]
        return f"CleanSignals({', '.join(given)})"

    def validate(self) -> None:
        options = self.options()
        modules = ["scipy.linalg"] if self.confounds is not None else []
        if options.filter == "butterworth":
            modules.append("scipy.signal")
            if self.sample_mask is not None:
                modules.append("scipy.interpolate")
        elif options.filter == "cosine":
            modules.append("scipy.linalg")
        object.__setattr__(self, "modules", tuple(modules))
        if isinstance(self.sample_mask, str):
            slice_of_text(self.sample_mask)
        if self.strategy is not None or self.strategy_options:
            self._check_strategy()
        if self.confounds is None and self.confound_columns is not None:
            raise ValueError(
                "confound_columns names columns of a table: give that table with confounds=..."
            )

    def _check_strategy(self) -> None:
        if self.strategy is None or self.confound_columns is not None:
            raise ValueError(
                "strategy chooses among the columns of fMRIPrep's tables, strategy_options belong "
                "to it, and confound_columns names columns: give one way of choosing"
            )
        if self.confounds is None or not (self._by_image or _paths(self.confounds)):
            raise ValueError(
                "strategy needs a table of fMRIPrep: give confounds='auto', or the path of one"
            )
        _ = self.chosen

    @property
    def chosen(self) -> ConfoundStrategy:
        """The strategy, with its parameters."""
        unknown = set(self.strategy_options) - {f.name for f in fields(ConfoundStrategy)}
        if unknown:
            raise ValueError(f"strategy_options: unknown {', '.join(sorted(unknown))}")
        return ConfoundStrategy(self.strategy or (), **self.strategy_options)

    def options(self, ds: xr.Dataset | None = None) -> CleaningOptions:
        """What is done to every series, with the repetition time of a dataset."""
        t_r = self.t_r
        if ds is not None and t_r is None:
            t_r = repetition_time(ds)
        options = CleaningOptions(
            detrend=self.detrend,
            standardize=self.standardize,
            standardize_confounds=self.standardize_confounds,
            filter=self.filter,
            low_pass=self.low_pass,
            high_pass=self.high_pass,
            t_r=t_r,
            ensure_finite=self.ensure_finite,
            extrapolate=self.extrapolate,
            order=self.order,
            padtype=self.padtype,
            padlen=self.padlen,
        )
        if ds is not None and options.filter is not None and t_r is None:
            raise ValueError(
                "CleanSignals: a filter needs the repetition time, and the dataset has no regular "
                "time coordinate: give t_r=... in seconds"
            )
        return options

    # ------------------------------------------------------------------ the contract

    def prepare(self, ds: xr.Dataset) -> Cleaning:
        n_times = ds.sizes["time"]
        table, names, kept = self._loaded(ds)
        return plan_cleaning(
            n_times,
            self.options(ds),
            confounds=table,
            names=names,
            sample_mask=kept,
            runs=self.runs,
        )

    def _loaded(self, ds: xr.Dataset) -> tuple[np.ndarray | None, tuple[str, ...], Any]:
        """Confounds and their names, and the volumes that are kept."""
        n_times, mask = ds.sizes["time"], self.sample_mask
        if self.confounds is None:
            return None, (), mask
        given = self._confounds_of(ds)
        if self.strategy is None:
            return *load_confounds_table(given, self.confound_columns, n_times), mask
        source = str(ds.attrs.get("source", ""))
        return chosen_confounds(given, self.chosen, source, n_times, mask, self.runs)

    def _confounds_of(self, ds: xr.Dataset) -> Any:
        if not self._by_image:
            return self.confounds
        source = ds.attrs.get("source")
        if not source:
            raise ValueError(
                f"CleanSignals: confounds={self.confounds!r} looks beside the image, and this "
                "dataset does not come from a file: give the table, confounds='path.tsv'"
            )
        return self._beside(source)

    @property
    def _by_image(self) -> bool:
        """Whether each image has a table of its own."""
        parts = self.confounds if isinstance(self.confounds, tuple) else (self.confounds,)
        return any(isinstance(part, str) and (part == "auto" or NAME in part) for part in parts)

    def _beside(self, source: str) -> tuple[str, ...]:
        """The tables of an image: that of fMRIPrep, or those at paths with its name in them."""
        parts = self.confounds if isinstance(self.confounds, tuple) else (self.confounds,)
        folder, name = os.path.dirname(source), result_name(Path(source))
        return tuple(
            str(find_confounds(source))
            if part == "auto"
            else os.path.join(folder, part.replace(NAME, name))
            for part in parts
        )

    def companions(self, source: str) -> tuple[str, ...]:
        return self._beside(source) if self._by_image else ()

    def outline(self, ds: xr.Dataset, state: Cleaning | None) -> xr.Dataset:
        options = self.options(ds)
        signal = ds[SIGNAL]
        if signal.dtype.kind not in "fiub":
            raise ValueError(f"CleanSignals works on real values, but the signal is {signal.dtype}")
        if state is not None:
            kept = state.kept
        else:
            mask = self.sample_mask if self.strategy is None else self._loaded(ds)[2]
            kept = kept_volumes(mask, ds.sizes["time"], self.runs)
        attrs = dict(signal.attrs)
        if options.standardize is not None:
            attrs["units"] = "%" if options.standardize == "psc" else "1"
        out = _with_times(ds.drop_vars(SIGNAL), kept, ds.sizes["time"])
        shape = tuple(len(kept) if dim == "time" else ds.sizes[dim] for dim in signal.dims)
        dtype = floating_type(signal.dtype)
        return out.assign(
            {SIGNAL: blank_variable(tuple(map(str, signal.dims)), shape, dtype, attrs)}
        )

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        cleaning: Cleaning = ctx.state
        out = ctx.empty((*block.shape[:-1], cleaning.n_kept), floating_type(block.dtype))
        cleaning.apply_rows(block, out)
        return out[..., ctx.output["time"]]

    def canonical(self) -> dict[str, Any]:
        """With what the named tables hold: another table under that name is another operation."""
        canonical = super().canonical()
        named = None if self.confounds is None or self._by_image else _paths(self.confounds)
        digests = [_digest(path) for path in named or ()]
        return {**canonical, "confound_tables": digests} if digests else canonical


def _shown(value: Any) -> str:
    """A parameter for people: long ones by their beginning and length."""
    if not isinstance(value, tuple) or len(value) <= 8:
        return repr(value)
    return f"({', '.join(map(repr, value[:2]))}, ... {len(value)} in all)"


def _with_times(ds: xr.Dataset, kept: np.ndarray, n_times: int) -> xr.Dataset:
    """Only the kept volumes; their times stay virtual where they follow each other."""
    at = as_slice(kept)
    if len(kept) == n_times:
        return ds
    return ds.isel(time=at, missing_dims="ignore")


def _paths(confounds: Any) -> tuple[str, ...] | None:
    """The paths, if there is nothing but paths."""
    parts = confounds if isinstance(confounds, list | tuple) else (confounds,)
    if all(isinstance(part, str | os.PathLike) for part in parts):
        return tuple(os.fspath(part) for part in parts)
    return None


def _digest(path: str) -> str:
    """Of a table's content; empty where it is missing, which `prepare` will say."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
