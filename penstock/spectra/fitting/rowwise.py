"""Whether a function of columns of parameters treats every row by itself.

A model of the user may be called once for many positions, with a column of values for every
parameter, if nothing of one row can reach another: ``np.min(t)`` over a column would. What the
function does is found out by giving it columns that allow operations element by element and refuse
all others, however little they show in the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

_ELEMENTWISE = (
    np.angle,
    np.clip,
    np.full_like,
    np.imag,
    np.isclose,
    np.nan_to_num,
    np.ndim,
    np.ones_like,
    np.real,
    np.select,
    np.shape,
    np.sinc,
    np.where,
    np.zeros_like,
)
"""Functions beside the ufuncs that treat every element by itself."""


class NotRowwise(TypeError):
    """An operation may mix rows, or cannot be followed."""


class RowwiseColumn(NDArrayOperatorsMixin):
    """A column of values, or what was computed of it: only operations by element are possible."""

    def __init__(self, values: np.ndarray):
        self._values = values

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return self._values.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        return self._values.shape

    @property
    def ndim(self) -> int:
        """Axes of the values."""
        return self._values.ndim

    @property
    def real(self) -> RowwiseColumn:
        """Real parts."""
        return RowwiseColumn(self._values.real)

    @property
    def imag(self) -> RowwiseColumn:
        """Imaginary parts."""
        return RowwiseColumn(self._values.imag)

    def conjugate(self) -> RowwiseColumn:
        """Complex conjugates."""
        return RowwiseColumn(self._values.conjugate())

    conj = conjugate

    def astype(self, dtype: Any) -> RowwiseColumn:
        """Values of another type."""
        return RowwiseColumn(self._values.astype(dtype))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or ufunc.signature is not None or kwargs.keys() - {"dtype"}:
            raise NotRowwise(f"{ufunc.__name__} may mix rows")
        return _wrapped(ufunc(*map(_plain, inputs), **kwargs))

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any
    ) -> Any:
        if function not in _ELEMENTWISE:
            raise NotRowwise(f"{function.__name__} may mix rows")
        return _wrapped(function(*map(_plain, args), **{k: _plain(v) for k, v in kwargs.items()}))

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise NotRowwise("values of several rows are asked for at once")

    __array__ = __bool__ = __float__ = __int__ = __complex__ = __index__ = _refuse
    __iter__ = __len__ = __getitem__ = __setitem__ = _refuse
    __array_priority__ = 1000.0


def _plain(value: Any) -> Any:
    if isinstance(value, RowwiseColumn):
        return value._values
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value


def _wrapped(value: Any) -> Any:
    if isinstance(value, tuple) and any(isinstance(item, np.ndarray) for item in value):
        return tuple(map(_wrapped, value))
    return RowwiseColumn(value) if isinstance(value, np.ndarray) else value


def treats_rows_alone(function: Callable[..., Any], x: Any, columns: list[np.ndarray]) -> bool:
    """Whether ``function(x, *columns)`` does nothing that could mix rows."""
    try:
        found = function(x, *map(RowwiseColumn, columns))
    except Exception:
        return False
    return isinstance(found, RowwiseColumn)
