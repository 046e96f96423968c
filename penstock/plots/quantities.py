"""How quantities are shown: units with SI prefixes, labels, ticks, where the entries of a dim lie.

Values keep their own units in the plots; only what is written beside the ticks is scaled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.messages import shown_text

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.ticker import Formatter

PREFIXES = {-15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}
"""Powers of ten and their names."""
BASE_UNITS = (*"msVAWJNFSHTKgΩ", "Hz", "Pa", "eV", "Ohm")
"""Units that take a prefix."""
NEVER_LARGER = ("s", "K")
"""Of these, units of which nobody writes thousands with a prefix."""


LONGEST_NAME = 48
"""Characters of a name that are drawn beside others."""


def drawn_text(text: object, longest: int | None = None) -> str:
    """Names and units of others in a picture: as they are, where dollars would make formulas."""
    shown = shown_text(text, lines=True)
    if longest is not None and len(shown) > longest:
        shown = f"{shown[: longest - 1]}…"
    return shown.replace("$", r"\$")


def split_units(units: str) -> tuple[int, str] | None:
    """Power of ten and base unit of a simple unit; None for others.

    Examples
    --------
    >>> from penstock.plots.quantities import split_units
    >>> split_units("nm"), split_units("V"), split_units("V Hz-1")
    ((-9, 'm'), (0, 'V'), None)
    """
    if units in BASE_UNITS:
        return 0, units
    spelt = {**PREFIXES, -6: "uµμ"}
    for power, letters in spelt.items():
        if units[:1] and units[0] in letters and units[1:] in BASE_UNITS:
            return power, units[1:]
    return None


@dataclass(frozen=True)
class Scale:
    """What values are divided by before they are written, and the unit that they have then."""

    factor: float = 1.0
    units: str = ""

    @classmethod
    def of(cls, units: str | None, *values: Any) -> Scale:
        """The scale at which the largest of some values has one to three digits before the point.

        Simple units get an SI prefix, others a power of ten where numbers would be long.

        Examples
        --------
        >>> from penstock.plots.quantities import Scale
        >>> Scale.of("m", [0.0, 2.5e-6])
        Scale(factor=1e-06, units='µm')
        >>> Scale.of("counts", 300.0)
        Scale(factor=1.0, units='counts')
        """
        flat = np.concatenate([np.abs(np.asarray(v, dtype=np.float64)).reshape(-1) for v in values])
        largest = float(flat[np.isfinite(flat)].max(initial=0.0))
        written = "" if units in (None, "1") else drawn_text(units)
        if not largest:
            return cls(1.0, _superscripts(written))
        # (what is 1000 but for rounding counts as 1000)
        power = 3 * math.floor((math.log10(largest) + 1e-9) / 3)
        simple = split_units(written)
        if simple is not None:
            own, base = simple
            highest = 0 if base in NEVER_LARGER else max(PREFIXES)
            whole = min(max(power + own, min(PREFIXES)), max(highest, own))
            return cls(10.0 ** (whole - own), PREFIXES[whole] + base)
        if -3 <= power < 6:
            return cls(1.0, _superscripts(written))
        return cls(10.0**power, f"$10^{{{power}}}$ {_superscripts(written)}".strip())

    def label(self, name: str) -> str:
        """What is written beside an axis: ``frequency [kHz]``."""
        name = drawn_text(name)
        return f"{name} [{self.units}]" if self.units else name

    def formatter(self) -> Formatter:
        """Writes ticks with as many decimals as their distance needs, never with an offset."""
        from matplotlib.ticker import Formatter

        factor = self.factor

        class ScaledTicks(Formatter):
            decimals = 0

            def set_locs(self, locs: Any) -> None:
                self.decimals = decimals_of(np.asarray(locs, dtype=np.float64) / factor)

            def __call__(self, value: float, number: int | None = None) -> str:
                # (without a number it is the place of the pointer)
                form = ".6g" if number is None else f".{self.decimals}f"
                return _signed(format(value / factor, form))

        return ScaledTicks()

    def apply(self, axis: Axis, name: str) -> None:
        """Label an axis and its ticks."""
        axis.set_label_text(self.label(name))
        axis.set_major_formatter(self.formatter())


def decimals_of(ticks: np.ndarray) -> int:
    """Decimals that tell ticks apart."""
    if len(ticks) < 2:
        return 0 if not len(ticks) or float(ticks[0]).is_integer() else 3
    tolerance = 1e-3 * float(np.min(np.diff(np.sort(ticks))))
    for decimals in range(12):
        if np.abs(ticks - np.round(ticks, decimals)).max() <= tolerance:
            return decimals
    return 12


def _signed(text: str) -> str:
    """With a minus sign instead of a hyphen, and no minus before zero."""
    if text.startswith("-") and not text.strip("-0."):
        text = text[1:]
    return text.replace("-", "−")


def _superscripts(units: str) -> str:
    """``V Hz-2`` as ``V Hz⁻²``."""
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return re.sub(r"(?<=[A-Za-z)])-?\d+", lambda found: found[0].translate(raised), units)


def quantity(value: float, units: str | None, error: float | None = None) -> str:
    """A value with its standard error and unit, for people.

    Examples
    --------
    >>> from penstock.plots.quantities import quantity
    >>> quantity(320123.4, "Hz", 41.2), quantity(4.7e-7, "m")
    ('320.123 ± 0.041 kHz', '470 nm')
    """
    scale = Scale.of(units, value) if split_units(units or "") else Scale(1.0, units or "")
    ending = f" {_superscripts(scale.units)}" if scale.units not in ("", "1") else ""
    shown = value / scale.factor
    if error is None or math.isnan(error):
        return _signed(f"{shown:.4g}") + ending
    if math.isinf(error):
        return _signed(f"{shown:.4g}") + " ± ∞" + ending
    spread = error / scale.factor
    decimals = 1 - math.floor(math.log10(spread)) if spread > 0 else 12
    small = max(abs(shown), spread)
    if decimals > 9 or not 1e-3 <= small < 1e7:
        return _signed(f"{shown:.6g}") + f" ± {spread:.2g}{ending}"
    return _signed(f"{shown:.{max(0, decimals)}f}") + f" ± {spread:.{max(0, decimals)}f}{ending}"


# ---------------------------------------------------------------------- dims


@dataclass(frozen=True)
class DimAxis:
    """Where the entries of a dim lie along an axis of a plot."""

    dim: str
    values: np.ndarray
    """Increasing or decreasing numbers: of the coordinate, or counted from 0."""
    units: str | None = None
    note: str = ""
    """Why the coordinate is not used."""
    texts: tuple[str, ...] = ()
    """What stands at the entries, where they have no numbers."""
    counted: bool = False

    @classmethod
    def of(cls, array: xr.DataArray, dim: str, *, ordered: bool = True) -> DimAxis:
        """The axis of a dim: its coordinate if that has numbers, in order where `ordered`."""
        counted = np.arange(float(array.sizes[dim]))
        if dim not in array.coords:
            return cls(dim, counted, counted=True)
        raw = array[dim].values
        if raw.dtype.kind not in "fiu":
            texts = tuple(map(str, raw)) if len(raw) <= 24 else ()
            note = "" if texts else "its values are no numbers"
            return cls(dim, counted, None, note, texts, counted=True)
        values = raw.astype(np.float64)
        steps = np.diff(values)
        if not np.isfinite(values).all():
            note = "its values are not finite"
        elif not ordered or (steps > 0).all() or (steps < 0).all():
            return cls(dim, values, array[dim].attrs.get("units"))
        else:
            repeats = len(np.unique(values)) < len(values)
            note = "its values repeat" if repeats else "its values are not in order"
        return cls(dim, counted, None, note, counted=True)

    @property
    def step(self) -> float:
        """Mean distance of the entries; 0 where there is only one."""
        n = len(self.values)
        return float(abs(self.values[-1] - self.values[0]) / (n - 1)) if n > 1 else 0.0

    @property
    def name(self) -> str:
        """The dim, with a note where it is counted though it has values."""
        return f"{self.dim} (index: {self.note})" if self.note else self.dim

    def is_regular(self) -> bool:
        """Whether the entries are evenly spaced, as far as an eye can tell."""
        even = np.linspace(self.values[0], self.values[-1], len(self.values))
        return bool(np.abs(self.values - even).max() <= 0.01 * self.step)

    def edges(self, other: DimAxis | None = None) -> np.ndarray:
        """Borders of the cells around the entries.

        A single entry is as wide as the cells of `other`, if that has the same units.
        """
        if len(self.values) == 1:
            alike = other is not None and other.units == self.units
            width = (other.step if alike and other is not None else 0.0) or 1.0
            return self.values[0] + width * np.array([-0.5, 0.5])
        middles = (self.values[1:] + self.values[:-1]) / 2
        first = self.values[0] - (middles[0] - self.values[0])
        last = self.values[-1] + (self.values[-1] - middles[-1])
        return np.concatenate([[first], middles, [last]])

    def nearest(self, value: float) -> int:
        """Number of the entry nearest to a place on the axis."""
        return int(np.argmin(np.abs(self.values - value)))

    def label(self, axis: Axis, scale: Scale | None = None) -> None:
        """Write name, units and ticks beside an axis of a plot."""
        from matplotlib.ticker import FixedLocator, MaxNLocator

        (scale or Scale.of(self.units, self.values)).apply(axis, self.name)
        if self.texts:
            axis.set_major_locator(FixedLocator(list(self.values)))
            axis.set_ticklabels(list(map(drawn_text, self.texts)))
        elif len(self.values) == 1:
            axis.set_major_locator(FixedLocator(list(self.values)))
        else:
            steps = [1, 2, 2.5, 5, 10]
            axis.set_major_locator(
                MaxNLocator("auto", steps=steps, integer=self.counted, min_n_ticks=1)
            )


def name_of(array: xr.DataArray, name: str) -> str:
    """What a variable is called in a plot."""
    return str(array.attrs.get("long_name", name))


# ---------------------------------------------------------------------- entries


def entry_index(sizes: Mapping[Any, int], dim: str, entry: Any, what: str) -> int:
    """Number of an entry, counted from 0, checked against the size of its dim.

    Raises
    ------
    TypeError, IndexError
        If it is no whole number, or there is no such entry.
    """
    if isinstance(entry, bool | np.bool_) or not isinstance(entry, int | np.integer):
        raise TypeError(f"{what}: {dim}={entry!r} must be a whole number, counted from 0")
    size = sizes[dim]
    if not -size <= entry < size:
        raise IndexError(f"{what}: there is no {dim} {entry}, it goes from 0 to {size - 1}")
    return int(entry) % size


def labelled_index(array: xr.DataArray, labels: Mapping[str, Any], what: str) -> dict[str, int]:
    """Entries by the values of coordinates: the nearest numbers, the very texts.

    Several coordinates along one dim (``x`` and ``y`` of scattered positions) select the entry that
    is nearest in all of them together.

    Raises
    ------
    ValueError
        If there is no such coordinate, or nothing near the value.
    """
    squares: dict[str, Any] = {}
    for name, label in labels.items():
        if name not in array.coords or array[name].ndim != 1:
            there = [str(c) for c in array.coords if array[c].ndim == 1]
            raise ValueError(
                f"{what}: there are no values of {name!r} to select by (only of "
                f"{', '.join(there) or 'none'}): give its index, a whole number"
            )
        values = array[name].values
        if values.dtype.kind in "fiu" and not isinstance(label, str):
            try:
                distance = np.abs(values - float(label))
            except (TypeError, ValueError):
                raise ValueError(f"{what}: {name}={label!r} must be one number") from None
            low, high = float(np.nanmin(values)), float(np.nanmax(values))
            slack = float(np.nanmax(np.diff(np.sort(values)), initial=1e-9 * abs(high)))
            if not low - slack <= float(label) <= high + slack:
                units = array[name].attrs.get("units", "")
                raise ValueError(
                    f"{what}: {name}={label!r} lies outside of its values, which go from {low:g} "
                    f"to {high:g} {units}".rstrip()
                )
        else:
            distance = np.where(values.astype(str) == str(label), 0.0, np.nan)
            if np.isnan(distance).all():
                some = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
                raise ValueError(f"{what}: {name} is never {label!r}, it is one of {some}")
        dim = str(array[name].dims[0])
        squares[dim] = squares.get(dim, 0.0) + distance**2
    return {dim: int(np.nanargmin(distance)) for dim, distance in squares.items()}


# ---------------------------------------------------------------------- axes


def require_matplotlib() -> None:
    """Raise an ImportError that says what to install where matplotlib is missing."""
    try:
        import matplotlib.pyplot  # noqa: F401
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "matplotlib"') from error


def take_axes(
    n: int, ax: Axes | Sequence[Axes] | None, ratios: Sequence[float] = (2, 1)
) -> tuple[Axes, ...]:
    """The axes that are given for `n` plots, or those of a new figure, one above the other.

    Raises
    ------
    ValueError
        If there are more plots than axes, or fewer.
    """
    require_matplotlib()
    import matplotlib.pyplot as plt

    if ax is None:
        _, made = plt.subplots(
            n, sharex=True, squeeze=False, layout="constrained", height_ratios=ratios[:n]
        )
        return tuple(made[:, 0])
    given = tuple(np.atleast_1d(np.asarray(ax, dtype=object)))
    if len(given) != n:
        raise ValueError(
            f"there are {n} plots to draw (complex values are two), but {len(given)} axes are "
            f"given: pass ax=({', '.join(f'ax{k}' for k in range(n))})"
        )
    return given
