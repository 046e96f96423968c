"""Runs: recordings, a pipeline, a budget and a folder become results and a report."""

from __future__ import annotations

import contextlib
import fcntl
import math
import tempfile
import threading
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from penstock import events
from penstock.dataset import SIGNAL
from penstock.errors import BudgetError, RecordingError
from penstock.formats import Format, check_format
from penstock.local_paths import local_path
from penstock.memory.accounting import (
    MIB,
    THREAD_ALLOWANCE,
    format_bytes,
    lean_allocator,
    single_threaded_kernels,
)
from penstock.memory.overruns import OverrunWarning
from penstock.memory.peaks import RunWatch
from penstock.planning.budget import Resources, resources
from penstock.planning.chain import Chain
from penstock.planning.lazy import prepared
from penstock.running.attempts import MARKS
from penstock.running.engine import Engine
from penstock.running.extras import check_extras
from penstock.running.failures import Failure, of_error
from penstock.running.job import Job, result_key
from penstock.running.keys import dataset_identity
from penstock.running.logs import RunLog
from penstock.running.registrations import registrations
from penstock.running.report import Report
from penstock.running.sources import resolve_sources
from penstock.running.tasks import close_run, refuse_budget
from penstock.running.workers.dask_logs import quiet_dask
from penstock.running.workers.executors import (
    active_client,
    client_executor,
    local_processes,
    thread_executor,
)
from penstock.running.workers.watch import wait_for_workers
from penstock.storage.durable import sync_file_system
from penstock.storage.ledger import LOCK, partial_path, remove
from penstock.storage.own_folder import own_file, refuse_elsewhere
from penstock.storage.store import (
    fill_shape,
    outline_store,
    spool_bytes,
    stored_provenance,
    write_store,
)

if TYPE_CHECKING:
    from penstock.pipeline import Pipeline

START_SECONDS = 2.0
"""What starting processes costs, with what they import: work below it stays here."""
SMALL_BYTES = 64 * MIB
"""Signals that are small enough to find out, before anything is started, how long they take."""


def _refuse_own_source(jobs: list[Job]) -> None:
    """A result must never take the place of what it is made from, not even with `overwrite`."""
    sources: list[Path] = []
    for job in jobs:
        if job.path is not None:
            sources.append(job.path)
        elif job.dataset is not None:
            origins = (
                job.dataset[SIGNAL].encoding.get("source"),
                job.dataset.attrs.get("source"),
                job.dataset.attrs.get("store"),
            )
            sources += [Path(str(origin)) for origin in origins if origin]
    real = {path.resolve() for path in sources}
    for job in jobs:
        if job.target.resolve() in real:
            raise ValueError(
                f"the result of {job.name!r} would replace the recording {job.target} itself: "
                "choose another folder for the results"
            )


def executor_kind(
    pipeline: Pipeline,
    asked: str | None,
    datasets: Sequence[xr.Dataset | None] = (),
    *,
    trying: bool = False,
) -> str:
    """Threads, unless a kernel holds Python's lock and there is more to do than starting costs.

    How long that takes is guessed (planning reads nothing), or tried at two positions (`trying`).
    """
    if asked not in (None, "threads", "processes"):
        raise ValueError(f"executor must be 'threads' or 'processes', got {asked!r}")
    held = any(processor.gil == "held" for processor in pipeline)
    if asked or not held:
        return asked or "threads"
    return "threads" if datasets and _are_done_soon(pipeline, datasets, trying) else "processes"


def _are_done_soon(pipeline: Pipeline, datasets: Sequence[xr.Dataset | None], trying: bool) -> bool:
    """Whether all of the work takes less than starting processes would."""
    seconds = 0.0
    for ds in datasets:
        if ds is None or SIGNAL not in ds or ds[SIGNAL].nbytes > SMALL_BYTES:
            return False
        try:
            found = _seconds_of(pipeline, ds, trying)
        except Exception:  # (whatever is wrong with it is told of this dataset, where it is opened)
            return False
        if found is None:
            return False
        seconds += found
    return seconds < START_SECONDS


def _seconds_of(pipeline: Pipeline, ds: xr.Dataset, trying: bool) -> float | None:
    """Estimated time of a dataset; None where it is unknown."""
    bound = Chain(ds).bind(pipeline.processors)
    core = {dim for step in bound.steps for dim in step.processor.core_dims}
    loops = {str(dim): n for dim, n in ds[SIGNAL].sizes.items() if dim not in core}
    if trying:
        few = zip(loops, fill_shape(tuple(loops.values()), 2), strict=True)
        part = ds.isel({dim: slice(0, n) for dim, n in few})
        bound = prepared(Chain(part), pipeline.processors, SMALL_BYTES)
    for_one = bound.row_seconds()
    return None if for_one is None else for_one * math.prod(loops.values())


def _is_finished(job: Job) -> bool:
    """Whether a job's result is there, so that nothing has to be started for it."""
    if job.overwrite or not job.target.exists():
        return False
    about = stored_provenance(job.target)
    try:
        return about is not None and about.get("key") == result_key(job)
    except (OSError, ValueError):
        return False  # (what is wrong with it is told where it is opened)


def run(
    pipeline: Pipeline,
    source: Any,
    out: Path,
    *,
    memory: int | float | str | None = None,
    workers: int | None = None,
    format: str = "zarr",
    overwrite: bool = False,
    dtype: str | None = None,
    executor: str | None = None,
    client: Any = None,
    progress: bool | None = None,
    listeners: Iterable[events.Listener] = (),
    open_options: Mapping[str, Any] | None = None,
    name: str | None = None,
    select: Mapping[str, str] | None = None,
    on_error: str = "report",
) -> Report:
    """Process recordings into a folder (see `Pipeline.run`)."""
    from penstock.running.progress import LogProgress, progress_listener

    result_format = check_format(format)
    if on_error not in ("report", "raise"):
        raise ValueError(f"on_error must be 'report' or 'raise', got {on_error!r}")
    reading = dict(open_options or {})
    dtype = dtype or reading.pop("dtype", None)
    if dtype not in (None, "float32", "float64"):
        raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
    out = Path(local_path(out))
    items = resolve_sources(source, out, name, select)
    check_extras(pipeline, result_format, [item.path for item in items], reading)
    client = client if client is not None else active_client()
    named = isinstance(source, Mapping) and not isinstance(source, xr.Dataset)
    token = uuid.uuid4().hex
    jobs = [
        Job(
            f"{token}.{number}",
            item.name,
            item.path.absolute() if item.path is not None else None,
            item.dataset,
            pipeline.processors,
            pipeline.canonical(),
            _target(out, item.name, result_format, named=named),
            format,
            dtype,
            overwrite,
            Resources(0, 0),  # (what there is depends on where they run)
            dataset_identity(item.dataset) if item.dataset is not None else None,
            # (a dataset is open already)
            reading if item.dataset is None else {},
        )
        for number, item in enumerate(items)
    ]
    _refuse_own_source(jobs)
    refuse_elsewhere(out, {job.target.parent for job in jobs})
    finished = client is None and all(map(_is_finished, jobs))
    if client is not None:
        kind = "cluster"
        waits: list[events.Listener] = [*listeners]
        wait_for_workers(client, waits if progress is False else [*waits, LogProgress()])
    else:
        # (nothing is started for what is there)
        asked = executor or ("threads" if finished else None)
        kind = executor_kind(pipeline, asked, [item.dataset for item in items], trying=True)
    modules = pipeline.modules_of_run([job.path for job in jobs], format)
    limits = resources(memory, workers, kind=kind, client=client, modules=modules)
    jobs = [replace(job, limits=limits) for job in jobs]
    if limits.available < THREAD_ALLOWANCE:
        refuse_budget(jobs)
    for folder in {out, *(job.target.parent for job in jobs)}:
        _make_folder(folder)
    recorded = [processor.recorded() for processor in pipeline]
    report = Report(pipeline=recorded, out=str(out), limits=limits, kind=kind)
    if named and len(source) == 1:
        # (its folder may hold the reports of others)
        report.name = f"{items[0].name}-report"
    heard: list[events.Listener] = [report.listen, *listeners]
    show = progress_listener(progress)
    if show is not None:
        heard.append(show)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_exclusive(out))
        stack.enter_context(lean_allocator())
        stack.enter_context(single_threaded_kernels())
        watch = stack.enter_context(RunWatch(token, kind))
        heard += [watch.hear, RunLog()]
        if on_error == "raise":
            heard.append(_raise_failed)
        if kind == "processes" and not finished:
            client = stack.enter_context(local_processes(limits.workers))
        pool = stack.enter_context(
            thread_executor(limits.workers) if client is None else client_executor(client)
        )
        refused: dict[str, Failure] = {}
        if client is not None:
            stack.enter_context(quiet_dask())
            marks = stack.enter_context(_marks(out))
            jobs = [
                replace(job, registered=registrations(), marks=marks)
                for job in _all_spooled(jobs, stack, refused)
            ]
        engine = Engine(pool, limits, heard, client, own=kind == "processes", modules=modules)
        try:
            engine.run(jobs, refused)
        finally:
            overruns = report.finish(watch.peak, engine.overruns)
            _close(token, {job.token for job in jobs}, client if kind == "cluster" else None)
            if show is not None:
                show.close()
            report.save()
            with contextlib.suppress(OSError):  # (what is not on disk is found and made again)
                sync_file_system(out)
    for overrun in overruns:
        warnings.warn(str(overrun), OverrunWarning, stacklevel=3)
    return report


def _raise_failed(event: events.Event) -> None:
    """End the run at the first recording that fails."""
    if isinstance(event, events.RecordingFailed):
        raise RecordingError(event.name, event.reason, event.error, event.traceback)


CLOSING_SECONDS = 10.0
"""How long workers are waited for that do not answer when a run ends."""


def _close(run: str, tokens: set[str], client: Any) -> None:
    """Leave nothing of a run behind: here, and on the workers of a cluster."""
    close_run(run, tokens)
    if client is None:
        return

    def tell_workers() -> None:
        with contextlib.suppress(Exception):  # (workers that are gone keep nothing)
            client.run(close_run, run, tokens, on_error="ignore")

    telling = threading.Thread(target=tell_workers, daemon=True)
    telling.start()
    telling.join(CLOSING_SECONDS)


def _target(out: Path, name: str, format: Format, *, named: bool) -> Path:
    """Where a result goes. Names that the user gave are kept; so is what an earlier run began."""
    plain = out / f"{name}{format.suffix}"
    if named or plain.exists() or partial_path(plain).exists():
        return plain
    return out / format.file_name(name)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".penstock-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"cannot write into {out} ({error.strerror}): choose another folder for the results"
        ) from error


@contextlib.contextmanager
def _exclusive(out: Path) -> Iterator[None]:
    """One run a folder: two would write each other's unfinished results. Freed when we die."""
    path = out / LOCK
    with own_file(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another run is writing into {out}: wait for it, or choose another folder"
            ) from None
        except OSError:
            pass  # a file system without locks: nothing to hold on to
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


TRAVELS_BYTES = 1 * MIB
"""Data in memory up to which they are sent with every task; larger ones are spooled once."""


def _travels(ds: xr.Dataset) -> bool:
    """Whether a dataset can be sent to other processes, and is small enough to be with each task.

    What is read from a file is; values in memory are not, in a dask array's graph neither.
    """
    import cloudpickle

    sizes: list[int] = []
    try:  # (buffers are counted where they lie, not copied)
        plain = cloudpickle.dumps(
            ds, protocol=5, buffer_callback=lambda buffer: sizes.append(buffer.raw().nbytes)
        )
    except Exception:  # (an open file, a lock: it can be read here and nowhere else)
        return False
    return len(plain) + sum(sizes) <= TRAVELS_BYTES


@contextlib.contextmanager
def as_workers_see(ds: xr.Dataset, dtype: str | None = None) -> Iterator[xr.Dataset]:
    """A dataset as other processes open it, for planning: data in memory look as if spooled."""
    from penstock.io import open_dataset

    if _travels(ds):
        yield ds
        return
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        yield open_dataset(outline_store(ds, Path(folder) / "outline.zarr"), dtype=dtype)


@contextlib.contextmanager
def _marks(out: Path) -> Iterator[Path]:
    """Folder of the marks of tasks under way; what a run left that was killed is removed."""
    folder = out / MARKS
    remove(folder)
    folder.mkdir()
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            remove(folder)


def _all_spooled(
    jobs: list[Job], stack: contextlib.ExitStack, refused: dict[str, Failure]
) -> Iterator[Job]:
    """Jobs as other processes can read them; `refused` takes the reasons of those that cannot."""
    for job in jobs:
        try:
            yield stack.enter_context(_spooled(job))
        except Exception as error:
            refused[job.name] = of_error(error)


@contextlib.contextmanager
def _spooled(job: Job) -> Iterator[Job]:
    """The job, with data in this process's memory put where other processes can read them."""
    ds = job.dataset
    if ds is None or _travels(ds):
        yield job
        return
    need = spool_bytes(ds.variables[SIGNAL])
    if need > job.limits.available:
        raise BudgetError(
            f"{job.name}: putting its data where other processes can read them takes "
            f"{format_bytes(need)} a chunk, but the budget leaves "
            f"{format_bytes(job.limits.available)}: allow more memory, or use smaller chunks"
        )
    name = job.target.stem
    folder = job.target.with_name(f".{name}.input")
    remove(folder)  # (left by a killed run, or a link that somebody put there)
    write_store(ds, folder / f"{name}.zarr", overwrite=True)
    try:
        yield replace(job, dataset=None, path=folder / f"{name}.zarr")
    finally:
        remove(folder)
