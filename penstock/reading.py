"""What a reader says of its variables: what reading takes of memory, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xarray as xr

_KEY = "reading"


@dataclass(frozen=True)
class Reading:
    """What reading a region of a variable takes, and in which order it is best read.

    Plans are made of it: a reader gives it to `penstock.dataset.lazy_variable`, and
    `penstock.testing.check_reader` holds the reader to it.

    Parameters
    ----------
    scratch : float, default 0
        Memory beside the values that are read, as a multiple of them.
    scratch_bytes : int, default 0
        Memory beside them that does not grow with the region [bytes]: buffers, a chunk.
    resident_bytes : int, default 0
        Memory that the process keeps as long as it works on the variable [bytes]: all values, where
        a file can only be loaded whole.
    interleaved : bool, default False
        Whether the leading dims vary fastest in the file (all channels of a moment, all voxels of a
        volume): one row lies scattered over all of it, and reading one reads the file.
    sequential : bool, default False
        Whether the file can only be read from front to back, as compressed ones are.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.dataset import lazy_variable
    >>> from penstock.reading import Reading, reading_of
    >>> values = np.zeros((4, 1000), "float32")
    >>> read = lambda channels, times: values[channels][:, times]
    >>> variable = lazy_variable(
    ...     ("channel", "time"), read, values.shape, "f4", reading=Reading(scratch=1.0)
    ... )
    >>> reading_of(variable).scratch
    1.0
    """

    scratch: float = 0.0
    scratch_bytes: int = 0
    resident_bytes: int = 0
    interleaved: bool = False
    sequential: bool = False

    def in_encoding(self) -> dict[str, Any]:
        """As it travels with a variable."""
        return {_KEY: self}


def reading_of(variable: xr.Variable | xr.DataArray) -> Reading:
    """What reading a variable takes, as far as its reader has said so.

    Readers that put ``read_scratch``, ``read_scratch_bytes``, ``resident``, ``interleaved`` and
    ``sequential`` into its encoding by themselves are understood.
    """
    told = variable.encoding
    found = told.get(_KEY)
    if isinstance(found, Reading):
        return found
    return Reading(
        float(told.get("read_scratch", 0.0)),
        int(told.get("read_scratch_bytes", 0)),
        int(told.get("resident", 0)),
        bool(told.get("interleaved", False)),
        bool(told.get("sequential", False)),
    )


def is_told(variable: xr.Variable | xr.DataArray) -> bool:
    """Whether a reader has said what reading takes."""
    return _KEY in variable.encoding or "read_scratch" in variable.encoding
