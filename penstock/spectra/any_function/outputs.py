"""What a function returns at one position, and how the results of all positions are laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.records import Field

RESULT = "result"
"""Name of what a function returns without naming it."""


@dataclass(frozen=True)
class Output:
    """One named result of a function: a fixed shape, or a list of varying length.

    Parameters
    ----------
    dtype : str, default "float64"
    shape : tuple of int, default ()
        Shape at every position; of a list: that of an entry is always ``()``.
    dims : tuple of str, optional
        Names of its dims. Default: ``<name>_0``, ``<name>_1``, ...; ``<name>_slot`` for lists.
    slots : int, optional
        For lists of varying length: how many entries there is room for at a position. Unused ones
        hold NaN (-1 for integers), and ``<name>_count`` says how many there are.
    units : str, optional
    """

    dtype: str = "float64"
    shape: tuple[int, ...] = ()
    dims: tuple[str, ...] | None = None
    slots: int | None = None
    units: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if self.dims is not None:
            object.__setattr__(self, "dims", tuple(map(str, self.dims)))
        if np.dtype(self.dtype).kind not in "biufc":
            raise ValueError(f"dtype {self.dtype!r} of an output is not a kind of number")
        if self.slots is not None and (self.slots < 1 or self.shape):
            raise ValueError("slots must be at least 1, for an output without a shape of its own")
        if self.dims is not None and len(self.dims) != len(self.full_shape):
            raise ValueError(f"dims {self.dims} do not name the axes of shape {self.full_shape}")

    @property
    def full_shape(self) -> tuple[int, ...]:
        """Shape of what is kept at a position."""
        return self.shape if self.slots is None else (self.slots,)

    @property
    def missing(self) -> Any:
        """What stands where there is no value."""
        kind = np.dtype(self.dtype).kind
        return np.nan if kind in "fc" else -1 if kind == "i" else 0

    def fields(self, name: str) -> dict[str, Field]:
        """The variables that hold it."""
        ends = ("slot",) if self.slots is not None else range(len(self.shape))
        dims = self.dims or tuple(f"{name}_{end}" for end in ends)
        attrs = {} if self.units is None else {"units": self.units}
        found = {name: Field(self.dtype, dims, self.full_shape, attrs)}
        if self.slots is not None:
            found[f"{name}_count"] = Field("int32")
        return found

    def place(self, value: Any, record: Any, name: str) -> None:
        """Put the value of one position into its record.

        Raises
        ------
        ValueError
            If it is not what was announced.
        """
        array = np.asarray(value)
        if not array.size:
            array = array.astype(self.dtype)  # (an empty list says nothing of its type)
        if array.dtype.kind not in "biufc":
            raise ValueError(f"{name} is {_shown(value)}, which is no number")
        if not np.can_cast(array.dtype, self.dtype, "same_kind"):
            raise ValueError(f"{name} is of type {array.dtype}, where {self.dtype} was announced")
        if self.slots is None:
            if array.shape != self.shape:
                raise ValueError(
                    f"{name} has shape {array.shape}, where {self.shape} was announced: declare "
                    "it in outputs, with slots=... if its length varies"
                )
            record[name] = array
            return
        values = array.reshape(-1)
        record[f"{name}_count"] = len(values)
        if len(values) > self.slots:
            raise ValueError(
                f"{name} has {len(values)} entries, but there is room for {self.slots}: give "
                "outputs more slots"
            )
        record[name][: len(values)] = values


def parse_outputs(given: Mapping[str, Any]) -> dict[str, Output]:
    """Outputs from plain values: a dtype, or a mapping of the parameters of `Output`."""
    found = {}
    for name, what in given.items():
        if isinstance(what, Output):
            found[name] = what
        elif isinstance(what, Mapping):
            try:
                found[name] = Output(**what)
            except TypeError as error:
                known = ", ".join(Output.__dataclass_fields__)
                raise ValueError(f"output {name!r}: {error}; it has {known}") from None
        else:
            found[name] = Output(np.dtype(what).name)
    if not found:
        raise ValueError("outputs must name at least one result")
    return found


def named(value: Any) -> dict[str, Any]:
    """What a function returned, by name."""
    if isinstance(value, Mapping):
        return {str(name): item for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, tuple) and any(np.ndim(item) for item in value):
        return {f"{RESULT}_{i}": item for i, item in enumerate(value)}
    return {RESULT: value}


def infer_outputs(values: Sequence[Any]) -> dict[str, Output]:
    """Outputs from what a function returned at a few positions.

    Lists, arrays of whole numbers, and arrays whose length varies get twice the room that the
    longest of them takes, at least 8.

    Raises
    ------
    ValueError
        If it returned None, something that is no number, or different things.
    """
    results = [named(value) for value in values]
    names = list(results[0])
    if any(list(result) != names for result in results) or not names:
        raise ValueError("the function returns differently named results at different positions")
    found = {}
    for name in names:
        given = [result[name] for result in results]
        if any(value is None for value in given):
            raise ValueError("the function returned None: it must return its result")
        arrays = [np.asarray(value) for value in given]
        filled = [array for array in arrays if array.size] or arrays
        dtype = np.result_type(*(array.dtype for array in filled))
        if dtype.kind not in "biufc":
            raise ValueError(
                f"the function returned {_shown(given[0])}: it must return numbers, or a "
                "dictionary of numbers and arrays"
            )
        shapes = {array.shape for array in arrays}
        # a list, or an array of whole numbers, is one of peaks: elsewhere its length is another
        listed = all(
            array.ndim == 1 and (isinstance(value, list) or array.dtype.kind in "iu")
            for value, array in zip(given, arrays, strict=True)
        )
        if len(shapes) == 1 and 0 not in arrays[0].shape and not listed:
            found[name] = Output(dtype.name, arrays[0].shape)
        elif all(array.ndim <= 1 for array in arrays):
            longest = max(array.size for array in arrays)
            found[name] = Output(dtype.name, slots=max(8, 2 * longest))
        else:
            raise ValueError(
                f"the function returned arrays of different shapes ({', '.join(map(str, shapes))}):"
                " only one-dimensional results may vary in length"
            )
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
