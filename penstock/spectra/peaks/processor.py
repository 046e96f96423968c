"""Peaks of spectra by continuous wavelet transform."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np

from penstock.dataset import SIGNAL
from penstock.messages import shown
from penstock.processor import Context, Processor, function_identity
from penstock.records import (
    STATUS_ATTRS,
    STATUS_DONE,
    STATUS_FAILED,
    Field,
    record_dtype,
    results_outline,
)
from penstock.spectra.passes.layout import spectral_dim
from penstock.spectra.peaks.kernels import (
    NUMPY,
    ROW_SCRATCH,
    SCRATCH_BYTES,
    Engine,
    Search,
    find_peaks,
)

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import ArrayLike

NanPolicy: TypeAlias = Literal["propagate", "omit", "raise"]
"""What values that are not finite do: leave their spectrum without peaks, be bridged, or stop."""


def gaussian_wavelet(points: float, width: float) -> np.ndarray:
    """A Gaussian of this standard deviation [points], as `scipy.signal.windows.gaussian`."""
    from scipy.signal.windows import gaussian

    return np.asarray(gaussian(points, width))


WIDEST = 1e7
"""Of a wavelet [points]."""
WAVELETS: dict[str, Callable[..., Any] | None] = {"ricker": None, "gaussian": gaussian_wavelet}
"""Wavelets that have a name."""

MISSING = -1
"""Index where a spectrum has fewer peaks than there are slots."""


def find_peaks_cwt(
    spectra: ArrayLike,
    widths: float | Sequence[float] | np.ndarray,
    wavelet: str | Callable[..., Any] | None = None,
    max_distances: Sequence[float] | np.ndarray | None = None,
    gap_thresh: float | None = None,
    min_length: float | None = None,
    min_snr: float = 1.0,
    noise_perc: float = 10.0,
    window_size: float | None = None,
    *,
    nan_policy: NanPolicy = "propagate",
    engine: Literal["auto", "numpy", "numba"] = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """Find the peaks of many spectra as `scipy.signal.find_peaks_cwt` finds those of one.

    Parameters
    ----------
    spectra : array_like
        Spectra along the last axis, (..., points). Complex spectra are searched by their magnitude.
    widths : float or sequence of float
        Widths of the wavelet [points], about as wide as the peaks looked for.
    wavelet : {"ricker", "gaussian"} or callable, optional
        Function ``wavelet(points, width)`` that gives real values (points,), as for SciPy. Default:
        the Ricker wavelet; ``"gaussian"`` is `scipy.signal.windows.gaussian`.
    max_distances : sequence of float, optional
        How far [points] a maximum may lie from a ridge line to extend it, one for each width.
        Default: ``widths / 4``.
    gap_thresh : float, optional
        Widths after which a ridge line ends that no maximum extends. Default: the first width,
        rounded up.
    min_length : float, optional
        Maxima that a ridge line must have. Default: a quarter of the number of widths, rounded up.
    min_snr : float, default 1.0
        Least ratio of the transform at the end of a ridge line and the noise there.
    noise_perc : float, default 10.0
        The noise is this percentile [%] of the transform at the first width ...
    window_size : float, optional
        ... in a window of this length [points]; 0 accepts all. Default: a twentieth of the points,
        rounded up.
    nan_policy : {"propagate", "omit", "raise"}, default "propagate"
        Whether a spectrum with values that are not finite has no peaks, gets straight lines over
        its gaps, or is an error.
    engine : {"auto", "numpy", "numba"}, default "auto"
        ``"numba"`` takes 10 to 30 % less time once it is compiled, and 110 MiB more memory;
        ``"auto"`` uses it where numba is loaded already. The results are the same.

    Returns
    -------
    index : numpy.ndarray
        Columns of the peaks in ascending order, int32, (..., slots), filled up with -1. There are
        as many slots as the spectrum with most peaks needs.
    count : numpy.ndarray
        Number of peaks of every spectrum, int32, (...).

    Raises
    ------
    ValueError
        If a parameter is out of its range, or the spectra have no points.
    TypeError
        If the spectra are not numbers.

    Notes
    -----
    The method is that of Du, Kibbe and Lin [1]_; every detail is as in SciPy 1.17, with the
    spectrum given in float64. (For spectra of several thousand points in float32 SciPy computes its
    convolutions in single precision.) Where rounding errors decide whether there is a peak, as on
    plateaus of whole numbers, SciPy's own convolution is asked: such spectra take longer.

    A wavelet of ten widths has an even number of points where ten widths are an even number: it
    then lies half a point beside its column, and an index may be one too high, as in SciPy.

    Complex spectra are searched by their magnitude, as ``find_peaks_cwt(abs(spectra), ...)``; SciPy
    by itself does not take the magnitude.

    A spectrum with a value that is not finite has no peaks here unless `nan_policy` says otherwise,
    where SciPy looks for some around the gap.

    References
    ----------
    .. [1] P. Du, W. A. Kibbe and S. M. Lin, Bioinformatics 22 (2006) 2059-2065,
       :doi:`10.1093/bioinformatics/btl355`.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.spectra.peaks.processor import find_peaks_cwt
    >>> x = np.arange(99)
    >>> spectra = [np.exp(-(((x - 30) / 8) ** 2)), np.zeros(99)]
    >>> index, count = find_peaks_cwt(spectra, np.arange(10, 20))
    >>> index.tolist(), count.tolist()
    ([[30], [-1]], [1, 0])
    """
    array = np.asarray(spectra)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"spectra must be numbers, got an array of {array.dtype}")
    if array.ndim == 0:
        raise ValueError("spectra must have at least one axis, the points: got a single number")
    search = _checked(
        "find_peaks_cwt",
        array.shape[-1],
        np.atleast_1d(np.asarray(widths, dtype=np.float64)),
        max_distances,
        gap_thresh,
        min_length,
        min_snr,
        noise_perc,
        window_size,
        wavelet,
        nan_policy,
    )
    if nan_policy == "raise" and not np.isfinite(array).all():
        raise ValueError(
            "the spectra have values that are not finite: replace them, or bridge them with "
            "nan_policy='omit'"
        )
    parts = list(find_peaks(array, search, _engine(engine)))
    counts = np.concatenate([np.zeros(0, np.int64), *(part.counts for part in parts)])
    columns = np.concatenate([np.zeros(0, np.int64), *(part.columns for part in parts)])
    index = np.full((len(counts), counts.max(initial=0)), MISSING, np.int32)
    _fill(index, counts, columns)
    loops = array.shape[:-1]
    return index.reshape(*loops, index.shape[1]), counts.astype(np.int32).reshape(loops)


@dataclass(frozen=True, repr=False)
class FindPeaksCWT(Processor):
    """Find the peaks of every spectrum by continuous wavelet transform.

    Parameters
    ----------
    widths : tuple of float
        Widths of the wavelet [points], about as wide as the peaks looked for (see `between`).
    max_distances : tuple of float, optional
        How far [points] a maximum may lie from a ridge line to extend it, one for each width.
        Default: ``widths / 4``.
    gap_thresh : float, optional
        Widths after which a ridge line ends that no maximum extends. Default: the first width,
        rounded up.
    min_length : float, optional
        Maxima that a ridge line must have. Default: a quarter of the number of widths, rounded up.
    min_snr : float, default 1.0
        Least ratio of the transform at the end of a ridge line and the noise there.
    noise_perc : float, default 10.0
        The noise is this percentile [%] of the transform at the first width ...
    window_size : float, optional
        ... in a window of this length [points]; 0 accepts all. Default: a twentieth of the points,
        rounded up.
    max_peaks : int, optional
        Slots for the peaks of a spectrum. Default: half its points, rounded up.
    core_dim : str, optional
        Dim along which the peaks are looked for. Default: ``frequency``, otherwise the last of the
        spectroscopic dims that a file tells, otherwise the last dim.
    wavelet : {"ricker", "gaussian"} or callable, optional
        Function ``wavelet(points, width)`` that gives real values (points,), as for SciPy. Default:
        the Ricker wavelet; ``"gaussian"`` is `scipy.signal.windows.gaussian`.
    nan_policy : {"propagate", "omit", "raise"}, default "propagate"
        Whether a spectrum with values that are not finite has no peaks, gets straight lines over
        its gaps, or is an error.
    engine : {"auto", "numpy", "numba"}, default "auto"
        ``"numba"`` takes 10 to 30 % less time once it is compiled, and 110 MiB more memory;
        ``"auto"`` uses it where numba is loaded already. The results are the same.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or a spectrum has more than `max_peaks` peaks.
    TypeError
        If `widths` is no list of numbers.

    Notes
    -----
    Results at every position: ``peak_index`` (slot), columns of the peaks in ascending order filled
    up with -1; ``peak_count``; ``status``, 1 where the peaks were looked for and 2 where a value of
    the spectrum is not finite. Peaks are those of `find_peaks_cwt`.

    Complex spectra are searched by their magnitude; SciPy by itself does not take it.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra.peaks.processor import FindPeaksCWT
    >>> x = np.arange(99)
    >>> spectra = np.stack([np.exp(-(((x - at) / 8) ** 2)) for at in (30, 60)])
    >>> ds = ps.make_dataset(spectra, ("position", "frequency"))
    >>> found = ps.Pipeline([FindPeaksCWT.between(10, 20, max_peaks=3)])(ds)
    >>> found.peak_index.values.tolist()
    [[30, -1, -1], [60, -1, -1]]
    """

    scratch_bytes: ClassVar[int] = SCRATCH_BYTES
    row_scratch: ClassVar[float] = ROW_SCRATCH

    widths: tuple[float, ...]
    max_distances: tuple[float, ...] | None = None
    gap_thresh: float | None = None
    min_length: float | None = None
    min_snr: float = 1.0
    noise_perc: float = 10.0
    window_size: float | None = None
    max_peaks: int | None = None
    core_dim: str | None = None
    engine: Literal["auto", "numpy", "numba"] = "auto"
    wavelet: str | Callable[..., Any] | None = field(default=None, kw_only=True)
    nan_policy: NanPolicy = field(default="propagate", kw_only=True)

    @classmethod
    def between(cls, low: float, high: float, steps: int = 20, **parameters: Any) -> FindPeaksCWT:
        """With `steps` widths evenly spaced from `low` to `high` [points].

        Raises
        ------
        ValueError
            If `low` is greater than `high`.
        """
        if low > high:
            raise ValueError(
                f"{cls.__name__}.between: the narrowest width comes first, got {low:g} and {high:g}"
            )
        return cls(tuple(np.linspace(low, high, steps).tolist()), **parameters)

    def __post_init__(self) -> None:
        if isinstance(self.widths, int | float | str | None):
            raise TypeError(
                f"{type(self).__name__}: widths must be a list of numbers, got {shown(self.widths)}"
            )
        super().__post_init__()

    def validate(self) -> None:
        if max(self.widths, default=0.0) > WIDEST:
            raise ValueError(f"widths must be at most {WIDEST:g} points, got {max(self.widths):g}")
        self._search(1)
        if self.max_peaks is not None and self.max_peaks < 1:
            raise ValueError(f"max_peaks={self.max_peaks} must be at least 1")

    @property
    def core_dims(self) -> tuple[str, ...]:  # type: ignore[override]
        return () if self.core_dim is None else (self.core_dim,)

    def bound(self, ds: xr.Dataset) -> FindPeaksCWT:
        return self if self.core_dim else replace(self, core_dim=spectral_dim(ds))

    def _n_points(self, ds: xr.Dataset) -> int:
        return int(ds.sizes[self.core_dim or spectral_dim(ds)])

    @property
    def modules(self) -> tuple[str, ...]:  # type: ignore[override]
        compiled = ("penstock.spectra.peaks.numba_kernels",) if self.engine == "numba" else ()
        return ("scipy.signal", *compiled)

    def row_seconds(self, ds: xr.Dataset, state: Any) -> float:
        # two numbers multiplied and added for each of half the points at every width, and as much
        # again for maxima and ridges (measured: 16 µs for 119 points and 30 widths)
        n_points = self._n_points(ds)
        return 4e-11 * len(self.widths) * n_points * min(n_points, 400)

    def _search(self, n_points: int) -> Search:
        names = [f.name for f in fields(Search) if f.name != "bridge"]
        given = {name: getattr(self, name) for name in (*names, "nan_policy")}
        given["widths"] = np.asarray(self.widths)
        return _checked(type(self).__name__, n_points, **given)

    def canonical(self) -> dict[str, Any]:
        canonical = super().canonical()
        if callable(self.wavelet):
            canonical["wavelet"] = function_identity(self.wavelet)
        return canonical

    def check_writable(self) -> None:
        if callable(self.wavelet):
            raise ValueError(
                "FindPeaksCWT with a wavelet of yours cannot be written to a file: name one of "
                f"{', '.join(WAVELETS)}"
            )

    def __hash__(self) -> int:
        return hash((self.wavelet, str(self.parameters())))

    def _fields(self, n_points: int) -> dict[str, Field]:
        slots = (n_points + 1) // 2 if self.max_peaks is None else self.max_peaks
        along = f"along {self.core_dim}" if self.core_dim else ""
        index = {"long_name": f"index of the peaks {along}, {MISSING} where there are no more"}
        return {
            "peak_index": Field("int32", ("slot",), (slots,), index),
            "peak_count": Field("int32", attrs={"long_name": f"number of peaks {along}"}),
            "status": Field("uint8", attrs=STATUS_ATTRS),
        }

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        _engine(self.engine)
        dtype = ds[SIGNAL].dtype
        if dtype.kind not in "biufc":
            raise TypeError(f"{type(self).__name__} needs numbers, but the signal is {dtype}")
        n_points = self._n_points(ds)
        self._search(n_points)
        core_dims = (self.core_dim or spectral_dim(ds),)
        return results_outline(ds, core_dims, self._fields(n_points))

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        loops, n_points = block.shape[:-1], block.shape[-1]
        records = ctx.empty(loops, record_dtype(self._fields(n_points)))
        rows = records.reshape(-1)
        for part in find_peaks(block, self._search(n_points), _engine(self.engine)):
            here = rows[part.positions]
            slots, most = here["peak_index"].shape[1], int(part.counts.max(initial=0))
            if most > slots:
                raise ValueError(
                    f"a spectrum has {most} peaks, more than the {slots} that there is room for: "
                    f"give max_peaks={most} or more"
                )
            here["peak_index"] = MISSING
            _fill(here["peak_index"], part.counts, part.columns)
            here["peak_count"] = part.counts
            here["status"] = np.where(part.usable, STATUS_DONE, STATUS_FAILED)
            for at in np.flatnonzero(~part.usable) + part.positions.start:
                index = tuple(int(i) for i in np.unravel_index(at, loops))
                reason = "the spectrum has values that are not finite"
                if self.nan_policy == "raise":
                    place = ", ".join(map(str, index)) or "0"
                    raise ValueError(
                        f"{reason} (position {place} of the block): bridge gaps with "
                        "nan_policy='omit'"
                    )
                ctx.failed(index, reason)
        return records


def _fill(index: np.ndarray, count: np.ndarray, columns: np.ndarray) -> None:
    """Put the columns of consecutive rows into the first slots of each."""
    row = np.repeat(np.arange(len(count)), count)
    slot = np.arange(len(columns)) - np.repeat(np.cumsum(count) - count, count)
    index[row, slot] = columns


def _engine(name: str) -> Engine:
    if name == "numpy" or (name == "auto" and "numba" not in sys.modules):
        return NUMPY
    if name not in ("auto", "numba"):
        raise ValueError(f"engine={name!r} must be one of 'auto', 'numpy', 'numba'")
    if importlib.util.find_spec("numba") is None:
        raise ImportError(
            "engine='numba' needs numba: pip install \"penstock[fast]\", or use engine='numpy'"
        )
    from penstock.spectra.peaks.numba_kernels import NUMBA

    return NUMBA


def _checked(
    name: str,
    n_points: int,
    widths: np.ndarray,
    max_distances: Sequence[float] | np.ndarray | None,
    gap_thresh: float | None,
    min_length: float | None,
    min_snr: float,
    noise_perc: float,
    window_size: float | None,
    wavelet: str | Callable[..., Any] | None,
    nan_policy: str,
) -> Search:
    """SciPy's defaults for what is None; parameters that make no sense are refused."""
    if n_points < 1:
        raise ValueError(f"{name}: the spectra have no points")
    if widths.ndim != 1 or not len(widths):
        raise ValueError(f"{name}: widths must be a list of at least one width [points]")
    wrong = widths[~((widths > 0) & np.isfinite(widths))]
    if len(wrong):
        raise ValueError(f"{name}: widths must be positive numbers of points, got {wrong[0]:g}")
    distances = np.asarray(widths / 4 if max_distances is None else max_distances, np.float64)
    if distances.ndim != 1 or len(distances) < len(widths):
        raise ValueError(
            f"{name}: max_distances has {distances.size} values for {len(widths)} widths: "
            "give one for each width"
        )
    numbers = {
        "max_distances": float(distances.min()),
        "gap_thresh": math.ceil(widths[0]) if gap_thresh is None else gap_thresh,
        "min_length": math.ceil(len(widths) / 4) if min_length is None else min_length,
        "window_size": math.ceil(n_points / 20) if window_size is None else window_size,
    }
    for parameter, value in numbers.items():
        if not value >= 0:
            raise ValueError(f"{name}: {parameter} must be 0 or more, got {value:g}")
    if not 0 <= noise_perc <= 100:
        raise ValueError(f"{name}: noise_perc={noise_perc:g} must be a percentile from 0 to 100")
    if isinstance(wavelet, str) and wavelet not in WAVELETS:
        raise ValueError(
            f"{name}: wavelet={wavelet!r} must be one of {', '.join(WAVELETS)}, or a function "
            "wavelet(points, width)"
        )
    if not isinstance(wavelet, str | None) and not callable(wavelet):
        raise TypeError(f"{name}: wavelet must be a function wavelet(points, width)")
    if nan_policy not in get_args(NanPolicy):
        raise ValueError(
            f"{name}: nan_policy={nan_policy!r} must be one of {', '.join(get_args(NanPolicy))}"
        )
    if math.isnan(min_snr):
        raise ValueError(f"{name}: min_snr must be a number, got nan")
    return Search(
        tuple(widths.tolist()),
        tuple(distances.tolist()),
        float(numbers["gap_thresh"]),
        float(numbers["min_length"]),
        float(min_snr),
        float(noise_perc),
        int(min(numbers["window_size"], 2 * n_points + 1)),
        WAVELETS[wavelet] if isinstance(wavelet, str) else wavelet,
        nan_policy == "omit",
    )
