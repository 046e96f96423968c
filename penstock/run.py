"""Runs: recordings, a pipeline, a budget and a folder become results and a report."""

from __future__ import annotations

import contextlib
import fcntl
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from penstock import events
from penstock.cluster import active_client, client_executor, local_processes, thread_executor
from penstock.dataset import SIGNAL, reads_fresh
from penstock.engine import Engine
from penstock.formats import Format, check_format
from penstock.identity import dataset_token
from penstock.ledger import partial_path, remove
from penstock.local_paths import local_path
from penstock.memory import PeakSampler, lean_allocator, single_threaded_kernels
from penstock.plan import resources
from penstock.report import Report
from penstock.sources import resolve_sources
from penstock.store import write_store
from penstock.work import (
    Job,
    close_workplaces,
)

if TYPE_CHECKING:
    from penstock.pipeline import Pipeline


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


def executor_kind(pipeline: Pipeline, asked: str | None) -> str:
    """Threads, unless a kernel holds Python's lock."""
    if asked not in (None, "threads", "processes"):
        raise ValueError(f"executor must be 'threads' or 'processes', got {asked!r}")
    held = any(processor.gil == "held" for processor in pipeline)
    return asked or ("processes" if held else "threads")


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
) -> Report:
    """Process recordings into a folder (see `Pipeline.run`)."""
    from penstock.progress import progress_listener

    result_format = check_format(format)
    reading = dict(open_options or {})
    dtype = dtype or reading.pop("dtype", None)
    if dtype not in (None, "float32", "float64"):
        raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
    out = Path(local_path(out))
    items = resolve_sources(source, out, name, select)
    client = client if client is not None else active_client()
    kind = "cluster" if client is not None else executor_kind(pipeline, executor)
    limits = resources(memory, workers, kind=kind, client=client, modules=pipeline.modules)
    named = isinstance(source, Mapping) and not isinstance(source, xr.Dataset)
    jobs = [
        Job(
            uuid.uuid4().hex,
            item.name,
            item.path.absolute() if item.path is not None else None,
            item.dataset,
            pipeline.processors,
            pipeline.canonical(),
            _target(out, item.name, result_format, named=named),
            format,
            dtype,
            overwrite,
            limits,
            {"dataset": dataset_token(item.dataset)} if item.dataset is not None else None,
            # (a dataset is open already)
            reading if item.dataset is None else {},
        )
        for item in items
    ]
    _refuse_own_source(jobs)
    for folder in {out, *(job.target.parent for job in jobs)}:
        _make_folder(folder)
    report = Report(pipeline=pipeline.canonical(), out=str(out), limits=limits, kind=kind)
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
        if kind == "processes":
            client = stack.enter_context(local_processes(limits.workers))
        pool = stack.enter_context(
            thread_executor(limits.workers) if client is None else client_executor(client)
        )
        sampler = stack.enter_context(PeakSampler(tree=kind == "processes"))
        if client is not None:
            jobs = [stack.enter_context(_spooled(job)) for job in jobs]
        engine = Engine(pool, limits, heard, client)
        try:
            engine.run(jobs)
        finally:
            close_workplaces({job.token for job in jobs})
            report.finish(sampler.peak, cluster=kind == "cluster")
            if show is not None:
                show.close()
            report.save()
    return report


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
    path = out / ".penstock.lock"
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another run is writing into {out}: wait for it, or choose another folder"
            ) from None
        except OSError:
            pass  # a file system without locks: nothing to hold on to
        yield
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _spooled(job: Job) -> Iterator[Job]:
    """The job, with data in this process's memory put where other processes can read them."""
    ds = job.dataset
    signal = ds.variables[SIGNAL] if ds is not None else None
    lazy = signal is None or signal.chunks is not None or reads_fresh(signal)
    if ds is None or signal is None or (lazy and not signal.encoding.get("in_memory")):
        yield job
        return
    name = job.target.stem
    folder = job.target.with_name(f".{name}.input")
    write_store(ds, folder / f"{name}.zarr", overwrite=True)
    try:
        yield replace(job, dataset=None, path=folder / f"{name}.zarr")
    finally:
        remove(folder)
