"""Pipelines: processors in order, as Python, YAML or JSON, applied lazily or run into a store."""

from __future__ import annotations

import difflib
import glob
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import xarray as xr

from penstock.chain import Chain
from penstock.cluster import active_client
from penstock.dataset import check_dataset
from penstock.memory import MIB
from penstock.plan import Plan, Plans, make_plan, resources
from penstock.processor import Apply, Processor, registered_processors

if TYPE_CHECKING:
    from penstock.report import Report

Source: TypeAlias = "str | Path | xr.Dataset | Sequence[str | Path | xr.Dataset]"

_DOMAINS = ("penstock.eeg", "penstock.spectra")
"""Packages whose processors may be named in files without saying where they live."""

_SAFE_FUNCTIONS = (
    "numpy", "numpy.fft", "numpy.linalg", "scipy.fft", "scipy.linalg", "scipy.ndimage",
    "scipy.signal", "scipy.special", "scipy.stats",
)  # fmt: skip
"""Modules whose functions ``Apply`` may name in files: functions of arrays, which neither run what
they are given nor write it (`numpy.testing` does). Others must be allowed by the user."""


class Pipeline:
    """Processors in order.

    Parameters
    ----------
    processors : iterable of Processor
        Applied from first to last. Plain functions of an array are wrapped in `Apply`.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.eeg import HighPassFilter, Resample
    >>> ds = ps.make_dataset(np.ones((4, 4000), "float32"), sampling_frequency=400.0)
    >>> pipeline = ps.Pipeline([HighPassFilter(1.0), Resample(100.0)])
    >>> pipeline(ds).signal.shape
    (4, 1000)
    """

    def __init__(self, processors: Iterable[Any] = ()):
        items = [processors] if isinstance(processors, Processor) else list(processors)
        self.processors: tuple[Processor, ...] = tuple(map(_as_processor, items))

    # ------------------------------------------------------------------ as a sequence

    def __len__(self) -> int:
        return len(self.processors)

    def __iter__(self) -> Iterator[Processor]:
        return iter(self.processors)

    def __getitem__(self, index: Any) -> Any:
        found = self.processors[index]
        return Pipeline(found) if isinstance(index, slice) else found

    def __or__(self, other: Any) -> Pipeline:
        if isinstance(other, Pipeline):
            return Pipeline((*self.processors, *other.processors))
        return Pipeline((*self.processors, _as_processor(other)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self.processors == other.processors

    def __hash__(self) -> int:
        return hash(json.dumps(self.canonical(), sort_keys=True, default=str))

    def __repr__(self) -> str:
        inside = ", ".join(map(repr, self.processors))
        return f"Pipeline([{inside}])"

    def _repr_html_(self) -> str:
        from penstock.report import pipeline_html

        return pipeline_html(self)

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that the processors import on first use."""
        return tuple(sorted({name for one in self.processors for name in one.modules}))

    # ------------------------------------------------------------------ use

    def __call__(self, ds: xr.Dataset, *, block_bytes: int = 64 * MIB) -> xr.Dataset:
        """Apply lazily: an ordinary dask-backed dataset, of which nothing is computed yet.

        Only what processors prepare (triggers, alignment) is worked out now. `block_bytes` bounds
        the memory of one block while it is computed, unless a single row needs more.
        """
        source = check_dataset(ds)
        return Chain(source).prepared(self.processors, block_bytes).lazy(block_bytes)

    def plan(
        self,
        source: Source,
        *,
        memory: int | float | str | None = None,
        workers: int | None = None,
        format: str = "zarr",
        client: Any = None,
        open_options: Mapping[str, Any] | None = None,
    ) -> Plan | Plans:
        """Blocks, concurrency and predicted peak memory. Computes nothing and reads no samples.

        Parameters
        ----------
        source : path, pattern, folder, dataset, or a list of them
            What would be processed.
        memory : str or int, optional
            Budget of the whole run, all processes added up, e.g. ``"512 MiB"``. Default: half of
            what is available.
        workers : int, optional
            Threads (or processes) at work at once. Default: the cores there are.
        format : {"zarr", "edf", "fif"}
            What would be written.
        open_options : mapping, optional
            Options of `open_dataset` for every file.

        Returns
        -------
        Plan or Plans
            `Plans` for several recordings.

        Raises
        ------
        BudgetError
            If the budget cannot be kept, with what would make it fit.
        """
        from penstock.io import open_dataset
        from penstock.run import SUFFIXES, executor_kind, resolve_sources

        if format not in SUFFIXES:
            raise ValueError(f"format must be one of {', '.join(SUFFIXES)}, got {format!r}")
        client = client if client is not None else active_client()
        kind = executor_kind(self, None)
        several = not isinstance(source, xr.Dataset | str | Path)
        plans = []
        for item in resolve_sources(source):
            ds = item.dataset
            if ds is None:
                ds = open_dataset(item.path or "", **(open_options or {}))
            limits = resources(memory, workers, kind=kind, client=client, modules=self.modules)
            chain = Chain(ds).bind(self.processors)
            plans.append(make_plan(chain, limits, name=item.name, format=format))
        return plans[0] if len(plans) == 1 and not several else Plans(plans)

    def run(
        self,
        source: Source,
        out: str | Path,
        *,
        memory: int | float | str | None = None,
        workers: int | None = None,
        format: str = "zarr",
        overwrite: bool = False,
        dtype: str = "float32",
        executor: str | None = None,
        client: Any = None,
        progress: bool | None = None,
        listeners: Iterable[Any] = (),
        open_options: Mapping[str, Any] | None = None,
    ) -> Report:
        """Process recordings into a folder, within a memory budget, and report.

        The same call goes on where an interrupted one stopped; results that are there already and
        were made by the same pipeline from the same input are left as they are.

        Parameters
        ----------
        source : path, pattern, folder, dataset, or a list of them
            What to process.
        out : path
            Folder for the results, one a recording, and the report.
        memory : str or int, optional
            Budget of the whole run, all processes added up. Default: half of what is available.
        workers : int, optional
            Threads (or processes) at work at once. Default: the cores there are.
        format : {"zarr", "edf", "fif"}
            What to write.
        overwrite : bool, default False
            Replace results that are there already.
        dtype : {"float32", "float64"}, default "float32"
            Precision in which files are read and processed.
        executor : {"threads", "processes"}, optional
            Default: threads, or processes where a processor holds Python's lock. An active
            `distributed.Client` comes first.
        client : distributed.Client, optional
            Cluster to run on. Default: the active client, if there is one.
        progress : bool, optional
            Show progress. Default: yes.
        listeners : iterable of callable
            Called with every event of the run (see `penstock.events`).
        open_options : mapping, optional
            Options of `open_dataset` for every file: ``{"dataset": "Channel_001/Raw_Data"}``.

        Returns
        -------
        Report
            With ``peak_memory``, ``predicted_memory``, ``failed``.

        Raises
        ------
        FileNotFoundError, ValueError
            For wrong usage. A recording that fails does not raise: it is in ``report.failed``.
        """
        from penstock.run import run

        return run(
            self,
            source,
            Path(out),
            memory=memory,
            workers=workers,
            format=format,
            overwrite=overwrite,
            dtype=dtype,
            executor=executor,
            client=client,
            progress=progress,
            listeners=listeners,
            open_options=open_options,
        )

    # ------------------------------------------------------------------ files

    def canonical(self) -> list[dict[str, Any]]:
        """Names, versions and parameters of all processors, as plain values."""
        return [processor.canonical() for processor in self.processors]

    def to_dict(self) -> dict[str, Any]:
        """The pipeline as plain values; `from_dict` turns them back without loss."""
        steps = []
        for processor in self.processors:
            processor.check_writable()
            steps.append({processor.qualified_name(): processor.parameters()})
        return {"penstock": 1, "pipeline": steps}

    @classmethod
    def from_dict(cls, data: Any, *, allow: Sequence[str] = ()) -> Pipeline:
        """Build a pipeline from plain values.

        Parameters
        ----------
        data : mapping
            ``{"pipeline": [...]}``; every entry is a name, or ``{name: parameters}`` with a mapping
            of parameters, a list of positional ones, or a single value for the first.
        allow : sequence of str
            Modules, beside Penstock, NumPy and SciPy, whose processors and functions may be named.
            They are imported; nothing else is.

        Raises
        ------
        ValueError, TypeError
            With the step that is wrong and what would be right.
        """
        steps = data.get("pipeline") if isinstance(data, dict) else data
        if not isinstance(steps, list):
            raise ValueError(
                "a pipeline file needs a list under 'pipeline:', for example\n"
                "pipeline:\n  - HighPassFilter: {freq: 1.0}"
            )
        known_keys = {"penstock", "pipeline"}
        unknown = sorted(set(data) - known_keys) if isinstance(data, dict) else []
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r} in the pipeline file: only 'pipeline' is")
        for module in (*_DOMAINS, *allow):
            _import(module)
        return cls(_parse_step(step, number, allow) for number, step in enumerate(steps, 1))

    def to_yaml(self, path: str | Path | None = None) -> str:
        """The pipeline as YAML text; also written to `path` where one is given."""
        import yaml

        text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_yaml(cls, text: str | Path, *, allow: Sequence[str] = ()) -> Pipeline:
        """Read a pipeline from YAML: a path, or the text itself (see `from_dict`)."""
        import yaml

        where = "the pipeline"
        if isinstance(text, Path) or "\n" not in text:
            where, text = str(text), Path(text).read_text(encoding="utf-8")
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or "it is not YAML"
            raise ValueError(f"{where}{line}: {problem}") from error
        try:
            return cls.from_dict(data, allow=allow)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{where}: {error}") from error

    def to_json(self) -> str:
        """The pipeline as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str, *, allow: Sequence[str] = ()) -> Pipeline:
        """Read a pipeline from JSON text."""
        return cls.from_dict(json.loads(text), allow=allow)


def _as_processor(item: Any) -> Processor:
    if isinstance(item, Processor):
        return item
    if isinstance(item, type) and issubclass(item, Processor):
        raise TypeError(f"{item.__name__} is a class: write {item.__name__}(...) in the pipeline")
    if callable(item):
        return Apply(item)
    raise TypeError(f"a pipeline holds processors and functions, got {item!r}")


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"cannot import {module!r}: {error}") from error


def _parse_step(step: Any, number: int, allow: Sequence[str]) -> Processor:
    if isinstance(step, str):
        name, given = step, None
    elif isinstance(step, dict) and len(step) == 1:
        name, given = next(iter(step.items()))
    else:
        raise ValueError(
            f"step {number}: write 'Name' or 'Name: {{parameter: value}}', got {step!r}"
        )
    cls = _find_processor(str(name), number)
    if _takes_function(cls):
        if not isinstance(given, dict):
            given = dict(zip(("function", "kwargs"), _as_list(given), strict=False))
        given = {**given, "function": _find_function(given.get("function"), number, allow)}
    if given is None:
        given = {}
    try:
        if isinstance(given, dict):
            return cls(**given)
        positional: Any = cls  # (the base class has no parameters of its own)
        return positional(*given) if isinstance(given, list) else positional(given)
    except TypeError as error:
        raise TypeError(f"step {number}: {_parameter_error(cls, given, error)}") from error
    except ValueError as error:
        raise ValueError(f"step {number}: {cls.__name__}: {error}") from error


def _as_list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _parameter_error(cls: type[Processor], given: Any, error: TypeError) -> str:
    import dataclasses

    names = [f.name for f in dataclasses.fields(cls) if f.init]
    unknown = [key for key in given if key not in names] if isinstance(given, dict) else []
    if isinstance(given, list) and len(given) > len(names):
        return f"{cls.__name__} has {len(names)} parameters ({', '.join(names)}), got {len(given)}"
    if unknown and "required" not in str(error):
        close = difflib.get_close_matches(str(unknown[0]), names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names) or 'none'}"
        return f"{cls.__name__} has no parameter {unknown[0]!r}: {hint}"
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.init
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and not (isinstance(given, dict) and f.name in given)
    ]
    if missing and "required" in str(error):
        return f"{cls.__name__} needs the parameter {missing[0]!r}"
    return str(error)


def _takes_function(cls: type[Processor]) -> bool:
    """Whether a processor is made of a function, which files name as ``module:name``."""
    return "function" in getattr(cls, "__dataclass_fields__", {})


def _load(name: str | None = None) -> None:
    """Import the processors of that name, or all: domains load their modules on first use."""
    for domain in _DOMAINS:
        package = _import(domain)
        for label in package.__all__:
            if name in (None, label, f"{domain}.{label}"):
                getattr(package, label)


def _find_processor(name: str, number: int) -> type[Processor]:
    _load(name)
    known = registered_processors()
    if name in known:
        return known[name]
    found = [cls for cls in known.values() if cls.__name__ == name]
    if len(found) == 1:
        return found[0]
    if found:
        places = ", ".join(cls.qualified_name() for cls in found)
        raise ValueError(f"step {number}: {name!r} may be any of {places}: write the full name")
    _load()
    known = registered_processors()
    short = sorted({cls.__name__ for cls in known.values()})
    close = difflib.get_close_matches(name, [*short, *known], 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(short)}"
    raise ValueError(f"step {number}: unknown processor {name!r}: {hint}")


def _find_function(name: Any, number: int, allow: Sequence[str]) -> Any:
    if not isinstance(name, str) or ":" not in name:
        raise ValueError(f"step {number}: it needs 'function: module:name', got {name!r}")
    module, _, attribute = name.partition(":")
    # Importing a module runs it: a file may only name packages that the user trusts anyway.
    if module not in _SAFE_FUNCTIONS and module not in allow:
        raise ValueError(
            f"step {number}: functions of {module!r} may not be named by a file unless you allow "
            f"it: --allow {module}"
        )
    if any(part.startswith("_") for part in attribute.split(".")):
        raise ValueError(f"step {number}: {attribute!r} is private")
    found = _import(module)
    for part in attribute.split("."):
        # (a method may do anything with a block: ndarray.tofile writes it to any path)
        found = None if isinstance(found, type) else getattr(found, part, None)
    if not callable(found) or isinstance(found, type):
        raise ValueError(f"step {number}: {module!r} has no function {attribute!r}")
    home = "numpy" if isinstance(found, np.ufunc) else str(getattr(found, "__module__", None))
    trusted = {"numpy", "scipy", *(name.split(".")[0] for name in allow)}
    if home.split(".")[0] not in trusted and not (module in allow and "." not in attribute):
        raise ValueError(
            f"step {number}: {module}:{attribute} is a function of {home!r}, which a file may not "
            "name"
        )
    return found


def expand_paths(pattern: str | Path) -> list[Path]:
    """Recordings meant by a path, a pattern, or a folder (the known formats in it).

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    from penstock.io import extensions

    text = str(Path(pattern).expanduser())
    path = Path(text)
    if path.is_dir() and not (path / "zarr.json").exists():
        found = sorted(
            item
            for item in path.iterdir()
            if item.suffix.lower() in extensions() and not item.name.startswith(".")
        )
        if not found:
            raise FileNotFoundError(
                f"{path}: no recordings in this folder (known: {', '.join(sorted(extensions()))})"
            )
        return found
    if path.exists():
        return [path]
    if glob.has_magic(text):
        found = sorted(map(Path, glob.glob(text, recursive=True)))
        if found:
            return found
        raise FileNotFoundError(f"{pattern}: no file matches this pattern")
    raise FileNotFoundError(f"{pattern}: no such file or folder")
