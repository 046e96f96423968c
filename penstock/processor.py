"""The processor: one declared operation with plain parameters.

A processor says which dims it must see whole (`core_dims`), what its output looks like
(`outline`), how much context a cut needs (`margin`), what it costs (`scratch`), and how a block
becomes a block (`kernel`: NumPy in, NumPy out). Everything else (blocks, memory, threads,
clusters, resume) follows from that.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from penstock import messages
from penstock.dataset import (
    SIGNAL,
    Region,
    blank_variable,
    indexer_length,
    sampling_frequency,
)
from penstock.function_source import source_digest
from penstock.memory.buffers import new_array, scratch_buffer

if TYPE_CHECKING:
    import xarray as xr

_REGISTRY: dict[str, type[Processor]] = {}


@dataclass(frozen=True)
class Context:
    """What a kernel knows about its block."""

    region: Region
    """Where the block lies in the processor's input: one indexer for every dim."""
    output: Region
    """Which part of the processor's output is asked for."""
    dataset: xr.Dataset
    """Outline of the whole input: sizes, coordinates and attributes, no data."""
    state: Any = None
    """What `prepare` returned."""
    reduced: Any = None
    """What `combine` returned, for processors with `reduce_dims`; cut to the block's region."""
    failures: list[tuple[dict[str, int], str]] = field(default_factory=list)
    """Positions that could not be done, as `failed` noted them."""
    remarks: dict[str, int] = field(default_factory=dict)
    """What was lost on the way, as `remark` noted it, and how often."""

    @property
    def sampling_frequency(self) -> float:
        """Sampling frequency of the input along time [Hz]."""
        return sampling_frequency(self.dataset)

    def size(self, dim: str) -> int:
        """Length of a dim of the whole input."""
        return self.dataset.sizes[dim]

    def span(self, dim: str = "time") -> tuple[int, int]:
        """First and one past last position of the block along a dim of the input."""
        return _span(self.region[dim])

    def output_span(self, dim: str = "time") -> tuple[int, int]:
        """First and one past last position asked for along a dim of the output."""
        return _span(self.output[dim])

    def take(self, dim: str, values: Any) -> np.ndarray:
        """The entries of a per-position array (one value along the whole `dim`) for this block."""
        return np.asarray(values)[self.region[dim]]

    def failed(self, index: tuple[int, ...], reason: str | BaseException) -> None:
        """Note that a position could not be done; the others go on.

        `index` is the position along the block's loop axes. The kernel fills its result with NaN
        or another mark; the reason reaches the ledger, the report and the result's attributes.
        """
        where = {}
        for (dim, indexer), i in zip(self.output.items(), index, strict=False):
            where[dim] = int(indexer.start + i if isinstance(indexer, slice) else indexer[i])
        text = reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
        self.failures.append((where, text))

    def remark(self, text: str, count: int) -> None:
        """Note what the result does not hold, such as codes lost by resampling.

        Counts of all blocks add up; ``{count}`` in `text` is replaced by the sum, which must be
        above zero to be told: as a warning, or in the notes of a run's report.
        """
        if count:
            self.remarks[text] = self.remarks.get(text, 0) + int(count)

    buffer = staticmethod(scratch_buffer)
    empty = staticmethod(new_array)


def _span(indexer: slice | np.ndarray) -> tuple[int, int]:
    if not isinstance(indexer, slice):
        raise TypeError("this dim is picked position by position here: it has no single span")
    return int(indexer.start), int(indexer.stop)


@dataclass(frozen=True)
class Processor:
    """Base of all processors: a frozen dataclass of plain parameters.

    Subclasses set what applies of the class attributes below and override `kernel`; a processor
    that changes shape, dtype, coordinates or units overrides `outline`; one that must look at the
    recording first overrides `prepare`.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np, penstock as ps
    >>> @dataclass(frozen=True)
    ... class Demean(ps.Processor):
    ...     core_dims = ("time",)
    ...     scratch = 1.0
    ...
    ...     def kernel(self, block, ctx):
    ...         return block - block.mean(axis=-1, keepdims=True)
    >>> ds = ps.make_dataset(np.ones((4, 100), "float32"), sampling_frequency=100.0)
    >>> float(ps.Pipeline([Demean()])(ds).signal.sum())
    0.0
    """

    core_dims: ClassVar[tuple[str, ...]] = ()
    """Dims that a block must hold whole (or with a margin). They are the last axes of a block."""
    version: ClassVar[int] = 1
    """Raised when the same parameters give another result: part of the resume key."""
    gil: ClassVar[Literal["released", "held"]] = "released"
    """Whether the kernel spends its time in code that releases Python's lock."""
    overwrites: ClassVar[bool] = False
    """Whether the kernel may write into its input block (it is then given one of its own)."""
    in_place: ClassVar[bool] = False
    """Whether the result lies where the input was (with `overwrites`): it takes nothing beside."""
    takes_integers: ClassVar[bool] = False
    """Whether whole numbers and truth values are handed to the kernel as they are. Otherwise they
    come as the smallest floating type that holds them exactly (see `penstock.dataset.in_floats`).
    """
    selects: ClassVar[bool] = False
    """Whether the output is a selection of the input: no kernel, only `source_region`."""
    reduce_dims: ClassVar[tuple[str, ...]] = ()
    """Core dims over which the kernel only needs a reduction (`partial`, `combine`), so that they
    may be cut after all: the reduction is streamed first."""
    merges: ClassVar[bool] = False
    """Whether what `combine` returns can itself be combined with the next partial result: then they
    are read one after the other."""
    n_statistics: ClassVar[int] = 1
    """Statistics in a partial reduction: the length of the first axis of what `partial` returns."""
    anonymizes: ClassVar[bool] = False
    """Whether the result must not say what it was made of: its provenance names no source."""
    modules: ClassVar[tuple[str, ...]] = ()
    """Modules imported on first use: memory of the process beside what Penstock itself takes. One
    that is missing is told by whoever needs it."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Modules of an extra without which it does nothing: they are looked for before a run opens
    anything."""
    scratch: ClassVar[float] = 0.0
    """Peak extra memory of the kernel as a multiple of the input block, output not counted."""
    row_scratch: ClassVar[float] = 0.0
    """Peak extra memory as a multiple of one row of the input (its core dims at one position of the
    loop dims), for kernels that work through a block row by row."""
    scratch_bytes: ClassVar[int] = 0
    """Peak extra memory of the kernel that does not depend on the block [bytes]."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_"):
            _REGISTRY[f"{cls.__module__}.{cls.__qualname__}"] = cls

    def __post_init__(self) -> None:
        _check_parameters(self)
        self.validate()

    def validate(self) -> None:
        """Check parameters against each other; raise ValueError with what to do."""

    # ------------------------------------------------------------------ the contract

    def bound(self, ds: xr.Dataset) -> Processor:
        """The processor for a dataset (an outline): core dims that it leaves to the data are named.

        Called before anything else of the contract. The default has nothing to name.
        """
        return self

    def prepare(self, ds: xr.Dataset) -> Any:
        """Look at the recording once, before the blocks; return a small, picklable state.

        `ds` is the lazy upstream result: compute only what is needed of it, a channel at a time.
        """
        return None

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        """The output's dims, coordinates, dtype, attributes and units, without data.

        `ds` is the outline of the input, `state` what `prepare` returned, or None while planning.
        """
        return ds

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        """Turn a block into a block. Core dims are the last axes, in the order of `core_dims`."""
        raise NotImplementedError(f"{type(self).__name__} defines no kernel")

    def margin(self, ds: xr.Dataset) -> int | None:
        """Samples needed at each side along the core dims for an exact result when they are cut.

        None: the core dims must be whole.
        """
        return None

    def kernel_bytes(self, ds: xr.Dataset, region: Region) -> int:
        """Peak extra memory of the kernel on a region of its input (outline `ds`) [bytes].

        The default adds up `scratch` and `row_scratch`; `scratch_bytes` comes on top. Processors
        whose memory is no multiple of their input override it.
        """
        signal = ds[SIGNAL]
        lengths = {str(dim): indexer_length(region[str(dim)]) for dim in signal.dims}
        n_bytes = math.prod(lengths.values()) * signal.dtype.itemsize
        n_rows = math.prod(n for dim, n in lengths.items() if dim not in self.core_dims)
        return int(self.scratch * n_bytes + self.row_scratch * n_bytes / max(1, n_rows))

    def resident_bytes(self, ds: xr.Dataset) -> int:
        """What every process keeps for all blocks of a dataset (outline `ds`): atlases, tables."""
        return 0

    def row_seconds(self, ds: xr.Dataset, state: Any) -> float | None:
        """Estimated time of one position of the loop dims [s], where the kernel is slow.

        Blocks of such a processor are cut by time. None: a block's size alone decides.
        """
        return None

    def companions(self, source: str) -> tuple[str, ...]:
        """Files beside a recording that the processor reads as well, such as a table of confounds.

        Where one of them changes, an earlier result is not that of the same input any more.
        """
        return ()

    def source_region(self, region: Region, ds: xr.Dataset) -> Region:
        """The part of the input (outline `ds`) that an output region needs.

        The default keeps loop dims, takes core dims whole, or widened by `margin`. Processors that
        shift or stretch a dim override it.
        """
        margin = self.margin(ds) if self.core_dims else None
        source: Region = {}
        for dim in map(str, ds.variables[SIGNAL].dims):
            size = ds.sizes[dim]
            indexer = region.get(dim)
            if dim not in self.core_dims and isinstance(indexer, slice | np.ndarray):
                source[dim] = indexer
            elif indexer is None or (margin is None and dim not in self.reduce_dims):
                source[dim] = slice(0, size)
            elif isinstance(indexer, slice):
                widen = margin or 0
                source[dim] = slice(max(0, indexer.start - widen), min(size, indexer.stop + widen))
            else:
                source[dim] = indexer
        return source

    def partial(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        """Partial reduction over `reduce_dims`: ``(statistics, *remaining dims)``, float64."""
        raise NotImplementedError(f"{type(self).__name__} defines no partial reduction")

    def statistics(self, ds: xr.Dataset) -> int:
        """Statistics in a partial reduction of a dataset (outline `ds`), where it decides."""
        return self.n_statistics

    def combine(self, partials: np.ndarray) -> np.ndarray:
        """Merge partial results stacked along the first axis, in block order."""
        raise NotImplementedError(f"{type(self).__name__} defines no way to combine partials")

    # ------------------------------------------------------------------ canonical form

    @classmethod
    def qualified_name(cls) -> str:
        """Name in files and provenance, e.g. ``penstock.eeg.HighPassFilter``."""
        module = cls.__module__
        parts = module.split(".")
        if parts[0] == "penstock" and len(parts) > 2:
            module = ".".join(parts[:2])
        elif parts[0] == "penstock":
            module = "penstock"
        return f"{module}.{cls.__qualname__}"

    def parameters(self) -> dict[str, Any]:
        """Constructor arguments as plain values (what YAML and provenance hold)."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.init}

    def canonical(self) -> dict[str, Any]:
        """Name, version and parameters: what makes two processors the same operation."""
        return {
            "processor": self.qualified_name(),
            "version": self.version,
            "parameters": self.parameters(),
        }

    def recorded(self) -> dict[str, Any]:
        """The canonical form as reports and the provenance of results show it."""
        return self.canonical()

    def check_writable(self) -> None:
        """Raise ValueError where a file could not name what the processor was given."""
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if callable(value) and "#" in (name := function_name(value)):
                raise ValueError(
                    f"{type(self).__name__}({name.split('#')[0]}) cannot be written to a file: "
                    "define the function in a module that can be imported"
                )

    def __repr__(self) -> str:
        shown = []
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            default = f.default
            if f.default_factory is not dataclasses.MISSING:
                default = f.default_factory()
            if f.init and not (type(value) is type(default) and value == default):
                shown.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __or__(self, other: Any) -> Any:
        import penstock  # (pipelines are made of processors: this goes round by the front door)

        return penstock.Pipeline([self]) | other


UNKNOWN_SCRATCH = 6.0
"""What a function is taken to need of which nothing is known, as a multiple of its input."""


@dataclass(frozen=True, repr=False)
class Apply(Processor):
    """Make a processor of any function of a NumPy array.

    Parameters
    ----------
    function : callable
        ``function(block, **kwargs) -> array`` of the same shape; core dims are the last axes.
    kwargs : mapping, optional
        Keyword arguments for `function`.
    core_dims : tuple of str, default ("time",)
        Dims that `function` must see whole. ``()`` for elementwise functions.
    margin_samples : int, optional
        Context at each side with which a cut along the core dims is exact; None: never cut.
    gil : {"released", "held"}, default "released"
        ``"held"`` for functions that loop in Python: they then run in processes.
    scratch : float, default 6.0
        Peak extra memory of `function` as a multiple of its input. What a NumPy ufunc of one array
        takes is known: for those the default is what the types of its result ask for.
    dtype : str, optional
        Type of the result, where it is not that of the input.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(-np.ones((2, 10), "float32"), sampling_frequency=10.0)
    >>> float(ps.Pipeline([ps.Apply(np.abs, core_dims=())])(ds).signal.min())
    1.0
    """

    function: Callable[..., Any]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    core_dims: tuple[str, ...] = field(default=("time",), kw_only=True)  # type: ignore[misc]
    margin_samples: int | None = None
    gil: Literal["released", "held"] = field(default="released", kw_only=True)  # type: ignore[misc]
    dtype: str | None = field(default=None, kw_only=True)
    scratch: float = field(default=UNKNOWN_SCRATCH, kw_only=True)  # type: ignore[misc]

    def validate(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {messages.shown(self.function)}")

    @property
    def modules(self) -> tuple[str, ...]:  # type: ignore[override]
        """Where the function comes from: a process that starts loads it as well."""
        return function_modules(self.function)

    @property
    def takes_integers(self) -> bool:  # type: ignore[override]
        """Whether the result is announced as whole numbers or truth values."""
        return self.dtype is not None and np.dtype(self.dtype).kind in "biu"

    def margin(self, ds: xr.Dataset) -> int | None:
        return self.margin_samples

    def kernel_bytes(self, ds: xr.Dataset, region: Region) -> int:
        made = None
        if self.scratch == UNKNOWN_SCRATCH and not self.kwargs:
            made = _elementwise_result(self.function, ds.variables[SIGNAL].dtype)
        if made is None:
            return super().kernel_bytes(ds, region)
        announced = self.outline(ds, None).variables[SIGNAL].dtype
        if made == announced:
            return 0
        # (what the function made is there until it is converted)
        lengths = (indexer_length(region[str(dim)]) for dim in ds.variables[SIGNAL].dims)
        return math.prod(lengths) * made.itemsize

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        if self.dtype is None:
            return ds
        signal = ds[SIGNAL]
        dims = tuple(map(str, signal.dims))
        return ds.assign({SIGNAL: blank_variable(dims, signal.shape, self.dtype, signal.attrs)})

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        result = np.asarray(self.function(block, **self.kwargs))
        if result.shape != block.shape:
            name = getattr(self.function, "__name__", repr(self.function))
            raise ValueError(
                f"{name} returned shape {result.shape} for a block of shape {block.shape}: Apply "
                "keeps the shape; write a Processor with an outline for functions that change it"
            )
        return result

    def canonical(self) -> dict[str, Any]:
        return {**super().canonical(), "function": function_identity(self.function)}

    def __hash__(self) -> int:
        return hash((self.function, str(self.parameters())))


def _elementwise_result(function: Callable[..., Any], given: np.dtype) -> np.dtype | None:
    """Type that a ufunc of one array makes of another, taking nothing beside; None: not known."""
    if not isinstance(function, np.ufunc) or (function.nin, function.nout) != (1, 1):
        return None
    if function.signature is not None:  # (a function of whole rows, which may copy them)
        return None
    try:
        made = function.resolve_dtypes((np.dtype(given), None))[-1]
    except TypeError:  # (what it cannot be applied to is told when it is)
        return None
    return None if made.hasobject else made


def registered_processors() -> dict[str, type[Processor]]:
    """Every known processor class by qualified name."""
    return {cls.qualified_name(): cls for cls in _REGISTRY.values()}


# ---------------------------------------------------------------------- parameters


def function_name(function: Callable[..., Any]) -> str:
    """``module:name`` of a function that can be imported by it; otherwise its source's hash.

    Two different lambdas must not look like one operation to a resumed run.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if isinstance(function, np.ufunc):
        return f"numpy:{function.__name__}"
    found: Any = sys.modules.get(module) if module and module != "__main__" else None
    for part in (name or "").split("."):
        found = getattr(found, part, None)
    if found is function:  # (a bound method or a closure is not what its name says)
        return f"{module}:{name}"
    import cloudpickle

    digest = hashlib.sha256(cloudpickle.dumps(function)).hexdigest()[:16]
    return f"{module or 'builtins'}:{name or type(function).__name__}#{digest}"


def function_modules(function: Callable[..., Any]) -> tuple[str, ...]:
    """The module that importing a function takes, for `Processor.modules`; empty where none."""
    module = getattr(function, "__module__", None)
    own = ("__main__", "builtins", "functools")
    return () if not isinstance(module, str) or module.split(".")[0] in own else (module,)


def function_identity(function: Callable[..., Any]) -> dict[str, str]:
    """What makes a function of a user the same one later: its source, and its library's version.

    `function_name` alone would take an edited function for the one of yesterday.
    """
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    found = {"name": function_name(function), "source": source_digest(function)}
    package = (getattr(inner, "__module__", None) or "").partition(".")[0]
    libraries = {"numpy": np, package: sys.modules.get(package)}
    for name, module in libraries.items():
        version = getattr(module, "__version__", None)
        if isinstance(version, str):
            found[name] = version
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if callable(value):
        return function_name(value)
    return value


def _check_parameters(processor: Processor) -> None:
    """Coerce what is unambiguous (lists, arrays to tuples; whole floats to int), refuse others."""
    hints = _hints(type(processor))
    for f in dataclasses.fields(processor):
        if not f.init or f.name not in hints:
            continue
        value = getattr(processor, f.name)
        accepted, coerced = _coerce(value, hints[f.name])
        if not accepted:
            raise TypeError(
                f"{type(processor).__name__}: {f.name}={messages.shown(value)} must be "
                f"{_describe(hints[f.name])}{_got(value, hints[f.name])}"
            )
        if coerced is not value:
            object.__setattr__(processor, f.name, coerced)


_hints_of: dict[Any, dict[str, Any]] = {}
"""Types of a class's parameters; working them out takes longer than all else in making one."""


def _hints(kind: Any) -> dict[str, Any]:
    if kind not in _hints_of:
        _hints_of[kind] = typing.get_type_hints(kind)
    return _hints_of[kind]


def _got(value: Any, hint: Any) -> str:
    """Of which type a value is, where that is what is wrong with it."""
    choices = [hint, *typing.get_args(hint)]
    if isinstance(value, str) and any(typing.get_origin(one) is Literal for one in choices):
        return ""
    return f", got {type(value).__name__}"


def _coerce(value: Any, hint: Any) -> tuple[bool, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True, value
    if origin in (types.UnionType, typing.Union):
        # an exact match in any branch comes before a coercion in an earlier one
        results = [_coerce(value, argument) for argument in arguments]
        accepted = [coerced for ok, coerced in results if ok]
        exact = [coerced for coerced in accepted if coerced is value]
        return bool(accepted), (exact or accepted or [value])[0]
    if origin is Literal:
        return value in arguments, value
    if origin is tuple:
        if isinstance(value, np.ndarray) and value.ndim:
            value = value.tolist()
        if not isinstance(value, tuple | list):
            return False, value
        items = tuple(value)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            kinds: tuple[Any, ...] = (arguments[0],) * len(items)
        elif len(arguments) == len(items):
            kinds = arguments
        else:
            return False, value
        results = [_coerce(item, kind) for item, kind in zip(items, kinds, strict=True)]
        coerced = tuple(item for _, item in results)
        same = isinstance(value, tuple) and all(a is b for a, b in zip(coerced, value, strict=True))
        return all(ok for ok, _ in results), value if same else coerced
    if origin is not None:
        origin_class = typing.get_origin(hint)
        return isinstance(value, origin_class) if inspect.isclass(origin_class) else True, value
    if isinstance(value, np.generic):
        value = value.item()
    if hint is float:
        ok = isinstance(value, int | float) and not isinstance(value, bool)
        try:
            return ok, float(value) if ok and not isinstance(value, float) else value
        except OverflowError:  # (a whole number with more digits than floats have)
            return False, value
    if hint is int:
        if isinstance(value, float) and value.is_integer():
            return True, int(value)
        return isinstance(value, int) and not isinstance(value, bool), value
    if hint is None or hint is type(None):
        return value is None, value
    return isinstance(value, hint) if inspect.isclass(hint) else True, value


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(repr(argument) for argument in arguments)
    if origin is tuple:
        if len(arguments) > 1 and arguments[1] is not Ellipsis:
            return f"{len(arguments)} values, each " + _describe(arguments[0])
        return "a list of " + _describe(arguments[0])
    if hint is type(None):
        return "none"
    names = {float: "a number", int: "a whole number", str: "a string", bool: "true or false"}
    if origin is not None and inspect.isclass(origin) and issubclass(origin, Mapping):
        return "a mapping"
    return names.get(hint, getattr(hint, "__name__", str(hint)))
