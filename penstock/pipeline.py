"""Pipelines: processors in order, as Python, YAML or JSON, applied lazily or run into a store."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import xarray as xr

from penstock.dataset import SIGNAL, check_dataset
from penstock.formats import check_format
from penstock.io.objects import as_dataset, is_object
from penstock.local_paths import check_local
from penstock.memory.accounting import MIB
from penstock.pipeline_files import parse_steps
from penstock.plain_values import from_json, from_yaml, read_text
from penstock.planning.chain import Chain
from penstock.planning.lazy import lazy_result, prepared
from penstock.planning.plan import Plan, Plans, make_plan, resources
from penstock.planning.shown import pipeline_html
from penstock.processor import Apply, Processor
from penstock.records import fields_of, unpacked
from penstock.running.workers.executors import active_client

if TYPE_CHECKING:
    from penstock.running.report import Report

Source: TypeAlias = (
    "str | Path | xr.Dataset | Sequence[str | Path | xr.Dataset] "
    "| Mapping[str, str | Path | xr.Dataset]"
)


class Pipeline:
    """Processors in order.

    Parameters
    ----------
    processors : iterable of Processor
        Applied from first to last. Plain functions of an array are wrapped in `Apply`.
    open_options : mapping, optional
        Options of `open_dataset` with which recordings are opened when a path is processed:
        ``{"gaps": "join", "bads": ["T7"]}``. In a file they stand under ``open:``. Those of a call
        come before them.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.eeg import HighPassFilter, Resample
    >>> ds = ps.make_dataset(np.ones((4, 4000), "float32"), sampling_frequency=400.0)
    >>> pipeline = ps.Pipeline([HighPassFilter(1.0), Resample(100.0)])
    >>> pipeline(ds).signal.shape
    (4, 1000)
    """

    def __init__(
        self, processors: Iterable[Any] = (), *, open_options: Mapping[str, Any] | None = None
    ):
        items = [processors] if isinstance(processors, Processor) else list(processors)
        self.processors: tuple[Processor, ...] = tuple(map(_as_processor, items))
        # (as a file would give them back)
        self.open_options: dict[str, Any] = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in (open_options or {}).items()
        }

    # ------------------------------------------------------------------ as a sequence

    def __len__(self) -> int:
        return len(self.processors)

    def __iter__(self) -> Iterator[Processor]:
        return iter(self.processors)

    def __getitem__(self, index: Any) -> Any:
        found = self.processors[index]
        if isinstance(index, slice):
            return Pipeline(found, open_options=self.open_options)
        return found

    def __or__(self, other: Any) -> Pipeline:
        if isinstance(other, Pipeline):
            options = {**other.open_options, **self.open_options}
            return Pipeline((*self.processors, *other.processors), open_options=options)
        added = _as_processor(other)
        return Pipeline((*self.processors, added), open_options=self.open_options)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pipeline) or self.open_options != other.open_options:
            return False
        return self.processors == other.processors

    def __hash__(self) -> int:
        return hash(json.dumps(self.canonical(), sort_keys=True, default=str))

    def __repr__(self) -> str:
        inside = ", ".join(map(repr, self.processors))
        options = f", open_options={self.open_options!r}" if self.open_options else ""
        return f"Pipeline([{inside}]{options})"

    def _repr_html_(self) -> str:
        return pipeline_html(self)

    def modules_of_run(self, paths: Iterable[str | Path | None], format: str) -> tuple[str, ...]:
        """Modules that a run imports beside Penstock's own: for its files, steps and results."""
        from penstock.io.registry import reading_modules

        reading = reading_modules(path for path in paths if path is not None)
        return (*self.modules, *reading, *check_format(format).modules)

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that the processors import on first use."""
        return tuple(sorted({name for one in self.processors for name in one.modules}))

    # ------------------------------------------------------------------ use

    def __call__(self, ds: xr.Dataset, *, block_bytes: int = 64 * MIB) -> xr.Dataset:
        """Apply lazily: an ordinary dask-backed dataset, of which nothing is computed yet.

        Raw and Epochs objects of MNE-Python are taken as what `from_mne` makes of them.

        Only what processors prepare (triggers, alignment) is worked out now. `block_bytes` bounds
        the memory of one block while it is computed [bytes]: what is read for it with its margins,
        and what kernels take beside; chunks of the result are smaller than that. Where not even a
        short stretch of one row fits, blocks are such stretches; rows that a processor needs whole
        are whole.
        """
        source = check_dataset(as_dataset(ds))
        return lazy_result(prepared(Chain(source), self.processors, block_bytes), block_bytes)

    def compute(
        self,
        source: xr.Dataset | str | Path,
        *,
        memory: int | float | str | None = None,
        workers: int | None = None,
        progress: bool | None = None,
        open_options: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """The whole result in memory, computed block by block within a budget.

        For results that are small beside what they are made of, such as region signals; others go
        into a store (`run`) or stay lazy (calling the pipeline).

        Parameters
        ----------
        source : xarray.Dataset or path
            What to process.
        memory : str or int, optional
            Budget of this process, the result included. Default: half of what is available.
        workers : int, optional
            Threads at work. Default: the cores there are.
        progress : bool, optional
            True and False: show it or not. Default: show it once the work has taken two seconds.
        open_options : mapping, optional
            Options of `open_dataset`, where `source` is a path.

        Returns
        -------
        xarray.Dataset
            The result, its signal a NumPy array.

        Raises
        ------
        BudgetError
            If the result and a block do not fit the budget.

        Examples
        --------
        >>> import numpy as np, penstock as ps
        >>> ds = ps.make_dataset(-np.ones((2, 10), "float32"), sampling_frequency=10.0)
        >>> float(ps.Pipeline([np.abs]).compute(ds).signal.sum())
        20.0
        """
        from penstock.io import open_dataset
        from penstock.running.in_memory import collect

        found = as_dataset(source)
        options = {**self.open_options, **(open_options or {})}
        ds = found if isinstance(found, xr.Dataset) else open_dataset(found, **options)
        chain = prepared(Chain(check_dataset(ds)), self.processors, 64 * MIB)
        values = collect(chain, memory=memory, workers=workers, progress=progress)
        if fields_of(chain.output) is not None:
            return unpacked(chain.output, values)
        signal = chain.output.variables[SIGNAL]
        return chain.output.assign({SIGNAL: (signal.dims, values, signal.attrs)})

    def plan(
        self,
        source: Source,
        *,
        memory: int | float | str | None = None,
        workers: int | None = None,
        format: str = "zarr",
        dtype: str | None = None,
        executor: str | None = None,
        client: Any = None,
        open_options: Mapping[str, Any] | None = None,
        name: str | None = None,
        select: Mapping[str, str] | None = None,
        progress: bool | None = None,
        skip_failed: bool = False,
    ) -> Plan | Plans:
        """Blocks, concurrency and predicted peak memory. Computes nothing and reads no samples.

        The plan is that of `run` with the same arguments: blocks, processes and predicted memory
        are those of its report. (Where processors hold Python's lock and no executor is named, a
        run tries a small dataset at two positions to choose between threads and processes; a plan
        guesses.)

        Parameters
        ----------
        source : path, pattern, folder, dataset, a list of them, or a mapping
            What would be processed.
        memory : str or int, optional
            Budget of the whole run, all processes added up, e.g. ``"512 MiB"``. Default: half of
            what is available to this job; on a cluster what its workers may take. A block also
            stays below the memory limit of the worker that runs it.
        workers : int, optional
            Threads (or processes) at work at once. Default: the cores there are; of processes as
            many as memory holds.
        format : {"zarr", "edf", "fif", "nifti", "nii", "parquet", "csv", "tsv"}
            What would be written.
        dtype : {"float32", "float64"}, optional
            Precision in which files would be read (see `run`).
        executor : {"threads", "processes"}, optional
            Where it would run. Default: threads, or processes where a processor holds Python's
            lock. An active `distributed.Client` comes first.
        client : distributed.Client, optional
            Cluster that it would run on; its workers are asked what they take and may take.
            Default: the active client, if there is one.
        open_options : mapping, optional
            Options of `open_dataset` for every file.
        name : str, optional
            What results are called: text with ``{name}``, ``{folder}``, ``{folders}``,
            ``{number}``, or entities of BIDS names (``{sub}``, ``{task}``), and ``/`` between
            folders. Default: names of the files; below folders like those of the recordings where
            two files have one name.
        select : mapping, optional
            Which images of a run are meant (see `run`).
        progress : bool, optional
            Of several recordings, on standard error. Default: once they have taken two seconds.
        skip_failed : bool
            Go on where one of several recordings cannot be planned, as a run does: `Plans.failed`
            has its name and the reason.

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
        from penstock.running.extras import check_extras
        from penstock.running.plan_many import plan_many
        from penstock.running.run import as_workers_see, executor_kind
        from penstock.running.sources import SourceItem, resolve_sources

        result_format = check_format(format)
        client = client if client is not None else active_client()
        several = not (isinstance(source, xr.Dataset | str | Path) or is_object(source))
        options = {**self.open_options, **(open_options or {})}
        dtype = dtype or options.pop("dtype", None)
        items = resolve_sources(source, name=name, select=select)
        check_extras(self, result_format, [item.path for item in items], options)
        kind = "cluster"
        if client is None:
            kind = executor_kind(self, executor, [item.dataset for item in items])
        modules = self.modules_of_run([item.path for item in items], format)
        limits = resources(memory, workers, kind=kind, client=client, modules=modules)

        def plan_one(item: SourceItem) -> Plan:
            with contextlib.ExitStack() as stack:
                ds = item.dataset
                if ds is None:
                    ds = open_dataset(item.path or "", dtype=dtype, **options)
                elif kind != "threads":
                    ds = stack.enter_context(as_workers_see(ds, dtype))
                chain = Chain(ds).bind(self.processors)
                return make_plan(chain, limits, name=item.name, format=format)

        if len(items) == 1 and not several:
            return plan_one(items[0])
        failed: dict[str, str] = {}
        plans = plan_many(
            plan_one,
            {item.name: item for item in items},
            progress=progress,
            failed=failed if skip_failed else None,
        )
        return Plans.within(limits, plans, failed)

    def run(
        self,
        source: Source,
        out: str | Path,
        *,
        memory: int | float | str | None = None,
        workers: int | None = None,
        format: str = "zarr",
        overwrite: bool = False,
        dtype: str | None = None,
        executor: str | None = None,
        client: Any = None,
        progress: bool | None = None,
        listeners: Iterable[Any] = (),
        open_options: Mapping[str, Any] | None = None,
        name: str | None = None,
        select: Mapping[str, str] | None = None,
        on_error: Literal["report", "raise"] = "report",
    ) -> Report:
        """Process recordings into a folder, within a memory budget, and report.

        The same call goes on where an interrupted one stopped; results that are there already and
        were made by the same pipeline from the same input are left as they are.

        Parameters
        ----------
        source : path, pattern, folder, dataset, mne.io.Raw, a list of them, or a mapping
            What to process. A mapping names the results: ``{"night1": "recording.edf"}``.
        out : path
            Folder for the results, one a recording, and the report.
        memory : str or int, optional
            Budget of the whole run, all processes added up. Default: half of what is available to
            this job; on a cluster what its workers may take. A block also stays below the memory
            limit of the worker that runs it.
        workers : int, optional
            Threads (or processes) at work at once. Default: the cores there are; of processes as
            many as memory holds.
        format : {"zarr", "edf", "fif", "nifti", "nii", "parquet", "csv", "tsv"}
            What to write.
        overwrite : bool, default False
            Replace results that are there already.
        dtype : {"float32", "float64"}, optional
            Precision in which files are read and processed. Default: the smallest one that holds
            their values exactly (see `penstock.open_dataset`).
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
            Options of `open_dataset` for every file: ``{"gaps": "join", "bads": ["T7"]}``.
        name : str, optional
            What results are called: text with ``{name}``, ``{folder}``, ``{folders}``,
            ``{number}``, or entities of BIDS names (``{sub}``, ``{task}``), and ``/`` between
            folders. Default: names of the files; below folders like those of the recordings where
            two files have one name.
        select : mapping, optional
            Which images are meant where folders or patterns hold several of one run, by the
            entities of their BIDS names: ``{"space": "MNI152NLin2009cAsym", "res": "2"}``. Without
            a choice such a folder is refused; ``"all"`` takes all, ``"none"`` those that lack the
            entity (``"func"``, too, for the space of the scanner).
        on_error : {"report", "raise"}, default "report"
            What a recording does that fails: it stands in ``report.failed`` while the others are
            done, or it ends the run with a `penstock.errors.RecordingError`. What is finished is
            kept either way.

        Returns
        -------
        Report
            With ``peak_memory``, ``predicted_memory``, ``failed``.

        Raises
        ------
        FileNotFoundError, ValueError
            For wrong usage.
        RecordingError
            With ``on_error="raise"``, for the first recording that fails.
        """
        from penstock.running.run import run

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
            open_options={**self.open_options, **(open_options or {})},
            name=name,
            select=select,
            on_error=on_error,
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
        reading = {"open": dict(self.open_options)} if self.open_options else {}
        return {"penstock": 1, **reading, "pipeline": steps}

    @classmethod
    def from_dict(cls, data: Any, *, allow: Sequence[str] = ()) -> Pipeline:
        """Build a pipeline from plain values.

        Parameters
        ----------
        data : mapping
            ``{"pipeline": [...]}``; every entry is a name, or ``{name: parameters}`` with a mapping
            of parameters, a list of positional ones, or a single value for the first. Beside it
            ``"open"`` may hold a mapping of options of `open_dataset`.
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
        given = data if isinstance(data, dict) else {}
        unknown = sorted(map(str, set(given) - {"penstock", "open", "pipeline"}))
        if unknown:
            raise ValueError(
                f"unknown key {unknown[0]!r} in the pipeline file: only 'pipeline' and 'open' are "
                "known"
            )
        options = given.get("open") or {}
        if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
            raise ValueError(
                "under 'open:' stand options of open_dataset, for example\nopen: {gaps: join}"
            )
        return cls(parse_steps(steps, allow), open_options=options)

    def to_yaml(self, path: str | Path | None = None) -> str:
        """The pipeline as YAML text; also written to `path` where one is given."""
        import yaml

        text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        if path is not None:
            check_local(path)
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_yaml(cls, text: str | Path, *, allow: Sequence[str] = ()) -> Pipeline:
        """Read a pipeline from YAML: a path, or the text itself (see `from_dict`)."""
        where = "the pipeline"
        if isinstance(text, Path) or "\n" not in text:
            check_local(text)
            where, text = str(text), read_text(text)
        try:
            data = from_yaml(text)
        except ValueError as error:
            joint = ", " if str(error).startswith("line ") else ": "
            raise ValueError(f"{where}{joint}{error}") from error
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
        try:
            data = from_json(text)
        except ValueError as error:
            raise ValueError(f"the pipeline is not JSON ({error})") from error
        return cls.from_dict(data, allow=allow)


def _as_processor(item: Any) -> Processor:
    if isinstance(item, Processor):
        return item
    if isinstance(item, type) and issubclass(item, Processor):
        raise TypeError(f"{item.__name__} is a class: write {item.__name__}(...) in the pipeline")
    if callable(item):
        return Apply(item)
    raise TypeError(f"a pipeline holds processors and functions, got {item!r}")
