"""The contract of reductions: what one says of its results, and how it takes in the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from penstock.records import Field
from penstock.spectra.passes.layout import Layout, Piece

NanPolicy: TypeAlias = Literal["omit", "propagate"]
"""What values that are not finite do: be left out, or show in the result."""


def check_policy(policy: str) -> None:
    """Raise ValueError for anything that is no `NanPolicy`."""
    if policy not in ("omit", "propagate"):
        raise ValueError(f"nan_policy must be 'omit' or 'propagate', got {policy!r}")


def units_of(layout: Layout) -> dict[str, Any]:
    """The attribute of results in the unit of the data; none where that is not known."""
    return {} if layout.units is None else {"units": layout.units}


@dataclass(frozen=True, eq=False)
class Reduction:
    """Base of all reductions: a frozen dataclass of parameters.

    Derive from `MapReduction` (a result at every position) or `ImageReduction` (a result over the
    positions), which say what is to be written.
    """

    scratch: ClassVar[float] = 1.0
    """Peak extra memory as a multiple of a piece in double precision."""

    def check(self, layout: Layout) -> None:
        """Check parameters against the data; raise ValueError with what to do."""

    def fields(self, layout: Layout) -> dict[str, Field]:
        """Results by what their names end in (``""``: nothing): dtype, dims, shape, attrs.

        Dims and shape are those beside the loop dims for maps, and all of them for images.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no fields")

    def coords(self, layout: Layout) -> dict[str, Any]:
        """Coordinates of dims that the results have and the data lack."""
        return {}

    def implied_core_dims(self, dims: tuple[str, ...]) -> tuple[str, ...] | None:
        """Core dims that the parameters speak of, for data with these dims; None: none."""
        return None

    def describe(self) -> str:
        """Name and parameters, arrays by their shape."""
        shown = []
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, str | int | float | None):
                text = repr(value)
            else:
                text = f"array of {'×'.join(map(str, np.shape(value)))}"
            shown.append(f"{f.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, eq=False)
class MapReduction(Reduction):
    """A reduction of the values at every position: gives maps.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np, penstock as ps
    >>> from penstock.records import Field
    >>> from penstock.spectra.passes.reductions import MapReduction, reduce
    >>> @dataclass(frozen=True, eq=False)
    ... class Largest(MapReduction):
    ...     def fields(self, layout):
    ...         return {"": Field(layout.dtype)}
    ...
    ...     def kernel(self, piece, prepared, out):
    ...         piece.values.max(axis=1, out=out[""])
    >>> ds = ps.make_dataset(np.arange(6.0).reshape(3, 2), ("position", "frequency"))
    >>> reduce(ds, {"largest": Largest()}).largest.values.tolist()
    [1.0, 3.0, 5.0]
    """

    def prepare(self, layout: Layout) -> Any:
        """What the kernel needs, made once."""
        return None

    def kernel(self, piece: Piece, prepared: Any, out: Mapping[str, np.ndarray]) -> None:
        """Write the results of a piece, ``(positions, *shape)``, into the arrays of `out`."""
        raise NotImplementedError(f"{type(self).__name__} defines no kernel")


@dataclass(frozen=True, eq=False)
class ImageReduction(Reduction):
    """A reduction over the positions: gives images over the core dims.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np, penstock as ps
    >>> from penstock.records import Field
    >>> from penstock.spectra.passes.reductions import ImageReduction, reduce
    >>> @dataclass(frozen=True, eq=False)
    ... class Brightest(ImageReduction):
    ...     def fields(self, layout):
    ...         return {"": Field(dims=layout.core_dims, shape=layout.core_shape)}
    ...
    ...     def start(self, layout):
    ...         return np.full(layout.n_core, -np.inf)
    ...
    ...     def accumulate(self, piece, state):
    ...         np.maximum(state, piece.values.max(axis=0), out=state)
    ...
    ...     def merge(self, first, second):
    ...         return np.maximum(first, second)
    ...
    ...     def finish(self, state, layout):
    ...         return {"": state}
    >>> ds = ps.make_dataset(np.arange(6.0).reshape(3, 2), ("position", "frequency"))
    >>> reduce(ds, {"brightest": Brightest()}).brightest.values.tolist()
    [4.0, 5.0]
    """

    n_statistics: ClassVar[int] = 1
    """Arrays of the core dims' size, in double precision, that a state holds."""

    def start(self, layout: Layout) -> Any:
        """A state before any positions."""
        raise NotImplementedError(f"{type(self).__name__} defines no start")

    def accumulate(self, piece: Piece, state: Any) -> None:
        """Take a piece into a state, which is changed."""
        raise NotImplementedError(f"{type(self).__name__} defines no accumulate")

    def merge(self, first: Any, second: Any) -> Any:
        """One state of two, of which the first belongs to earlier positions."""
        raise NotImplementedError(f"{type(self).__name__} defines no merge")

    def finish(self, state: Any, layout: Layout) -> dict[str, np.ndarray]:
        """Values of all `fields`, core dims flattened or not."""
        raise NotImplementedError(f"{type(self).__name__} defines no finish")
