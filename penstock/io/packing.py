"""Values as files store them, and what they stand for: packed numbers, complex pairs.

Definition of packed numbers: the CF conventions 1.11, section 8.1, and the netCDF attributes
``_Unsigned``, ``missing_value``, ``valid_range``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from penstock.memory.buffers import scratch_buffer

PIECE_VALUES = 1 << 17
"""Values decoded at once: what that takes stays in the cache."""


class Decoding(Protocol):
    """How stored values become values."""

    def decode(self, values: np.ndarray, out: np.ndarray) -> None:
        """Write what stored values stand for to `out`, of the same shape."""

    @property
    def value_bytes(self) -> int:
        """Memory that decoding takes beside values and result, for each of `PIECE_VALUES`."""


@dataclass(frozen=True)
class Packing:
    """Numbers that stand for others: ``scale * stored + offset``, or for none at all."""

    scale: float = 1.0
    offset: float = 0.0
    missing: tuple[float, ...] = ()
    """Stored numbers that stand for no value."""
    low: float | None = None
    """Stored numbers below stand for no value."""
    high: float | None = None
    """Stored numbers above stand for no value."""
    stored: str | None = None
    """Type that the bytes are to be understood as, where it is not the one in the file."""
    higher: tuple[float, ...] = ()
    """Coefficients of the square, the cube, ... of the stored number."""

    value_bytes = 18
    """Two masks and a number of double precision, and one more for polynomials."""

    def decode(self, values: np.ndarray, out: np.ndarray) -> None:
        """Write what stored values stand for to `out`, of the same shape."""
        if values.size > PIECE_VALUES:
            axis = int(np.argmax(values.shape))
            for half in (
                slice(None, values.shape[axis] // 2),
                slice(values.shape[axis] // 2, None),
            ):
                part = (slice(None),) * axis + (half,)
                self.decode(values[part], out[part])
            return
        if self.stored is not None:
            values = values.view(np.dtype(self.stored).newbyteorder(values.dtype.byteorder))
        wide = np.complex128 if out.dtype.kind == "c" else np.float64
        exact = scratch_buffer("unpacked", values.shape, wide)
        np.copyto(exact, values, casting="unsafe")
        if self.higher:
            total = np.polynomial.polynomial.polyval(
                exact, np.array([self.offset, self.scale, *self.higher])
            )
            np.copyto(exact, total)
        else:
            if self.scale != 1.0:
                exact *= self.scale
            if self.offset != 0.0:
                exact += self.offset
        gone = np.zeros(values.shape, bool)
        for number in self.missing:
            # (in the type of the file: a fill value of single precision is not that of double)
            gone |= values == np.asarray(number).astype(values.dtype)
        if self.low is not None:
            gone |= values < self.low
        if self.high is not None:
            gone |= values > self.high
        if gone.any():
            exact[gone] = np.nan
        np.copyto(out, exact, casting="unsafe")

    def type_in_memory(self, stored: np.dtype, kinds: tuple[np.dtype, ...]) -> np.dtype:
        """Type that holds what values of a type in the file stand for.

        `kinds` are the types of scale and offset. As the conventions say, unpacked values have
        the type of these; whole numbers of more than 16 bits have double precision in any case.
        """
        if stored.kind == "c":
            return np.dtype(np.complex64 if stored.itemsize <= 8 else np.complex128)
        single = stored.itemsize <= (4 if stored.kind == "f" else 2)
        single = single and all(kind.itemsize <= 4 and kind.kind == "f" for kind in kinds)
        return np.dtype(np.float32 if single else np.float64)


@dataclass(frozen=True)
class ComplexPair:
    """Complex numbers kept as two fields of a compound type."""

    real: str
    imaginary: str

    value_bytes = 0

    def decode(self, values: np.ndarray, out: np.ndarray) -> None:
        """Write complex numbers to `out`, of the same shape."""
        out.real[...] = values[self.real]
        out.imag[...] = values[self.imaginary]


_PAIRS = {("real", "imag"), ("r", "i"), ("re", "im"), ("real", "imaginary")}


def complex_pair(stored: np.dtype) -> ComplexPair | None:
    """How a compound type of a real and an imaginary part is read; None for any other type."""
    names = stored.names or ()
    if tuple(name.lower() for name in names) not in _PAIRS:
        return None
    if any(stored[name].kind not in "iuf" or stored[name].shape for name in names):
        return None
    return ComplexPair(names[0], names[1])


def packing(
    stored: np.dtype, attribute: Callable[[str], Any], what: str
) -> tuple[Packing | None, tuple[np.dtype, ...]]:
    """How values are packed, from the attributes beside them.

    Parameters
    ----------
    stored : numpy.dtype
        Type in the file.
    attribute : callable
        Name of an attribute to its value, or None.
    what : str
        What they are, for errors.

    Returns
    -------
    packing : Packing or None
        None where they stand for themselves.
    kinds : tuple of numpy.dtype
        Types of scale and offset.

    Raises
    ------
    ValueError
        If an attribute is no number.
    """
    if stored.kind not in "iufc":
        return None, ()
    view = _other_sign(stored, attribute("_Unsigned"))
    plain = stored if view is None else np.dtype(view)
    scale, offset = (_numbers(attribute(n), n, what) for n in ("scale_factor", "add_offset"))
    for name, found in (("scale_factor", scale), ("add_offset", offset)):
        if found is not None and len(found) != 1:
            raise ValueError(
                f"{what} has {len(found)} numbers as {name} where one is meant: open the stored "
                "numbers with mask_and_scale=False"
            )
    missing: list[float] = []
    for name in ("_FillValue", "missing_value"):
        found = _numbers(attribute(name), name, what)
        missing += [] if found is None else _stored(found, plain)
    bounds = _numbers(attribute("valid_range"), "valid_range", what)
    low, high = (_numbers(attribute(n), n, what) for n in ("valid_min", "valid_max"))
    if bounds is not None and len(bounds) == 2:
        low, high = bounds[:1], bounds[1:]
    # (NaN is missing whether it is said or not; what the type cannot hold is never there)
    missing = [number for number in dict.fromkeys(missing) if _can_be(number, plain)]
    kinds = tuple(found.dtype for found in (scale, offset) if found is not None)
    made = Packing(
        scale=1.0 if scale is None else float(scale[0]),
        offset=0.0 if offset is None else float(offset[0]),
        missing=tuple(missing),
        low=None if low is None else _stored(low, plain)[0],
        high=None if high is None else _stored(high, plain)[0],
        stored=view,
    )
    return (made if kinds or made != Packing() else None), kinds


def _other_sign(stored: np.dtype, marked: Any) -> str | None:
    """The type of the other sign, where ``_Unsigned`` says that it is meant."""
    if marked is None or stored.kind not in "iu":
        return None
    entry = np.asarray(marked).reshape(-1)[:1].tolist()
    text = (entry[0].decode() if entry and isinstance(entry[0], bytes) else str(*entry)).lower()
    kind = {"true": "u", "false": "i"}.get(text)
    return None if kind in (None, stored.kind) else f"{kind}{stored.itemsize}"


def _numbers(value: Any, name: str, what: str) -> np.ndarray | None:
    if value is None:
        return None
    found = np.asarray(value).reshape(-1)
    if found.dtype.kind not in "biufc":
        try:
            found = found.astype(np.float64)
        except (TypeError, ValueError):
            raise ValueError(
                f"{what} has an attribute {name} that is no number: open the stored numbers with "
                "mask_and_scale=False"
            ) from None
    return found if found.size else None


def _can_be(number: Any, stored: np.dtype) -> bool:
    if number != number:
        return False
    if stored.kind not in "iu":
        return True
    limits = np.iinfo(stored)
    return limits.min <= number <= limits.max and int(number) == number


def _stored(numbers: np.ndarray, stored: np.dtype) -> list[Any]:
    """Numbers of attributes, whole ones of the other sign with the bits that they have there."""
    if stored.kind in "iu" and numbers.dtype.kind in "iu" and numbers.dtype.kind != stored.kind:
        numbers = numbers.astype(stored)
    return numbers.tolist()
