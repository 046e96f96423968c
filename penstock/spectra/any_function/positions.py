"""Any function of one spectrum, on every position of a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, Region
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
from penstock.spectra.any_function.outputs import (
    RESULT,
    Output,
    infer_outputs,
    named,
    parse_outputs,
)
from penstock.spectra.passes.layout import spectral_dims

PROBES = 32
"""Positions at which a function is tried before the run, as long as `PROBE_SECONDS` last."""
PROBE_SECONDS = 0.5
GUESSED_SECONDS = 1e-3
"""What a position is taken to cost where nothing has been tried (a plan)."""


@dataclass(frozen=True)
class Tried:
    """What trying a function at a few positions told."""

    outputs: dict[str, Output]
    seconds: float
    """Time of one position [s]: the median."""


@dataclass(frozen=True, repr=False)
class PerPosition(Processor):
    """A function of one spectrum, on every position.

    The positions of a block are done one after the other in Python, so blocks go to processes, and
    are cut by the time that a few positions take before the run.

    Parameters
    ----------
    function : callable
        ``function(spectrum, *args, **kwargs)`` with a NumPy array of the core dims. It returns a
        number, an array, a list of varying length (peaks), or a dictionary or named tuple of such.
    args, kwargs : sequence and mapping, optional
        Further arguments of `function`.
    outputs : mapping, optional
        What it returns, by name (``"result"`` where it does not name it): a dtype, or a mapping of
        ``dtype``, ``shape``, ``dims``, ``slots`` (room for lists of varying length), ``units``.
        Default: found out at up to 32 positions spread over the dataset.
    core_dims : tuple of str, optional
        Dims of a spectrum. Default: the spectroscopic dims that a file tells, otherwise
        ``frequency`` or the last dim.
    gil : {"held", "released"}, default "held"
        ``"released"`` for functions that spend their time outside Python: they stay in threads.

    Notes
    -----
    Results: a variable for each output over the positions, ``<name>_count`` beside lists, and
    ``status`` (1 done, 2 failed). A position at which the function raises or returns something
    else holds NaN (-1 for integers) and is counted, the first ones with their reasons, in the
    report and in the result's attributes. The function's source is part of the result's identity:
    a changed function is not taken for the same.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra import PerPosition
    >>> ds = ps.make_dataset(np.random.rand(4, 5, 100), ("y", "x", "frequency"))
    >>> results = ps.Pipeline([PerPosition(np.argmax)])(ds)
    >>> results.result.dims
    ('y', 'x')
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] | None = None
    core_dims: tuple[str, ...] | None = field(default=None, kw_only=True)  # type: ignore[misc, assignment]
    gil: Literal["released", "held"] = field(default="held", kw_only=True)  # type: ignore[misc]

    # what a function takes beside its spectrum is not known: as `Apply` assumes, for one position
    row_scratch = 6.0
    takes_integers = True
    scratch_bytes = 1 << 20

    def validate(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {shown(self.function)}")
        if self.outputs is not None:
            parse_outputs(self.outputs)

    def canonical(self) -> dict[str, Any]:
        return {**super().canonical(), "function": function_identity(self.function)}

    def bound(self, ds: xr.Dataset) -> PerPosition:
        # (no dims at all are those of a function of one value)
        return self if self.core_dims is not None else replace(self, core_dims=self._dims(ds))

    def _dims(self, ds: xr.Dataset) -> tuple[str, ...]:
        return spectral_dims(ds) if self.core_dims is None else self.core_dims

    def prepare(self, ds: xr.Dataset) -> Tried:
        declared = None if self.outputs is None else parse_outputs(self.outputs)
        seconds: list[float] = []
        values: list[Any] = []
        errors: list[Exception] = []
        for spectrum in probed(ds, self._dims(ds)):
            began = time.perf_counter()
            try:
                values.append(self(spectrum))
            except Exception as error:
                errors.append(error)
            seconds.append(time.perf_counter() - began)
            # (the first call may import what it needs: it says nothing of the others)
            limit = PROBE_SECONDS if len(seconds) > 8 else 8 * PROBE_SECONDS
            if values and sum(seconds[1:]) > limit:
                break
        if not values and errors:
            raise ValueError(
                f"{self.function_name} failed at all of {len(errors)} positions tried: "
                f"{type(errors[0]).__name__}: {errors[0]}"
            ) from errors[0]
        if declared is None:
            try:
                declared = infer_outputs(values) if values else {RESULT: Output()}
            except ValueError as error:
                raise ValueError(f"{self.function_name}: {error}") from None
        return Tried(declared, float(np.median(seconds[1:] or seconds)) if seconds else 0.0)

    @property
    def function_name(self) -> str:
        """Name of the function, for people."""
        inner = getattr(self.function, "func", self.function)
        return getattr(inner, "__name__", type(inner).__name__)

    def __call__(self, spectrum: np.ndarray) -> Any:
        """The function's value for one spectrum."""
        return self.function(spectrum, *self.args, **self.kwargs)

    def kernel_bytes(self, ds: xr.Dataset, region: Region) -> int:
        # (what a function makes of whole numbers of few bits is likely to be floats)
        wider = max(1.0, 4 / ds.variables[SIGNAL].dtype.itemsize)
        return int(super().kernel_bytes(ds, region) * wider)

    def row_seconds(self, ds: xr.Dataset, state: Tried | None) -> float | None:
        return GUESSED_SECONDS if state is None else state.seconds

    def _outputs(self, state: Tried | None) -> dict[str, Output]:
        if state is not None:
            return state.outputs
        return {RESULT: Output()} if self.outputs is None else parse_outputs(self.outputs)

    def _fields(self, state: Tried | None) -> dict[str, Field]:
        fields: dict[str, Field] = {}
        for name, output in self._outputs(state).items():
            fields |= output.fields(name)
        return {**fields, "status": Field("uint8", attrs=STATUS_ATTRS)}

    def outline(self, ds: xr.Dataset, state: Tried | None) -> xr.Dataset:
        return results_outline(ds, self._dims(ds), self._fields(state))

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        outputs = self._outputs(ctx.state)
        loops = block.shape[: block.ndim - len(self._dims(ctx.dataset))]
        records = np.zeros(loops, record_dtype(self._fields(ctx.state)))
        for index in np.ndindex(*loops):
            record = records[index]
            try:
                values = named(self(block[index].copy()))
                if list(values) != list(outputs):
                    raise ValueError(
                        f"it returned {', '.join(values)}, where {', '.join(outputs)} was announced"
                    )
                for name, output in outputs.items():
                    record[name] = output.missing
                    output.place(values[name], record, name)
                record["status"] = STATUS_DONE
            except Exception as error:
                for name, output in outputs.items():
                    record[name] = output.missing
                record["status"] = STATUS_FAILED
                ctx.failed(index, error)
        return records

    def __hash__(self) -> int:
        return hash((self.function, str(self.parameters())))


def probed(ds: xr.Dataset, core_dims: tuple[str, ...], n: int = PROBES) -> Iterable[np.ndarray]:
    """Spectra at up to `n` positions spread over a dataset, one after the other."""
    signal = ds[SIGNAL]
    loops = [dim for dim in signal.dims if dim not in core_dims]
    shape = [ds.sizes[dim] for dim in loops]
    total = int(np.prod(shape))
    for flat in np.unique(np.linspace(0, total - 1, min(n, total)).astype(int)) if total else ():
        index = np.unravel_index(flat, shape) if shape else ()
        one = signal.isel(dict(zip(loops, map(int, index), strict=True)))
        yield one.transpose(*core_dims).values
