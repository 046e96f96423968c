"""Runs: recordings, a pipeline, a budget and a folder become results and a report."""

from __future__ import annotations

import contextlib
import fcntl
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from penstock import events
from penstock.cluster import active_client, client_executor, local_processes, thread_executor
from penstock.dataset import SIGNAL, reads_fresh
from penstock.engine import Engine
from penstock.ledger import remove
from penstock.memory import PeakSampler, lean_allocator, single_threaded_kernels
from penstock.plan import resources
from penstock.report import Report
from penstock.store import provenance, sidecar_path, write_store
from penstock.work import (
    Job,
    close_workplaces,
    dataset_token,
)

if TYPE_CHECKING:
    from penstock.pipeline import Pipeline

SUFFIXES = {"zarr": ".zarr", "edf": ".edf", "fif": ".fif"}


@dataclass(frozen=True)
class SourceItem:
    """One recording as the user gave it."""

    name: str
    path: Path | None = None
    dataset: xr.Dataset | None = None


def resolve_sources(source: Any, out: Path | None = None) -> list[SourceItem]:
    """Recordings meant by a path, pattern, folder, dataset or a list of them, with result names.

    Where a folder or pattern also covers `out`, earlier results in it are left out, so that the
    same command can go on in the folder of its recordings.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or two would have one name.
    """
    from penstock.pipeline import expand_paths

    several = isinstance(source, list | tuple)
    items: list[SourceItem] = []
    for entry in source if several else [source]:
        if isinstance(entry, xr.Dataset):
            origin = entry.attrs.get("source") or entry.attrs.get("store")
            default = f"dataset{len(items) or ''}"
            items.append(SourceItem(Path(str(origin)).stem if origin else default, dataset=entry))
        elif isinstance(entry, str | Path):
            paths = expand_paths(entry)
            if out is not None and paths != [Path(entry).expanduser()]:
                paths = [p for p in paths if p.absolute().parent != out or not _is_result(p)]
            items += [SourceItem(path.stem, path=path) for path in paths]
        else:
            raise TypeError(f"expected paths or datasets, got {type(entry).__name__}")
    if not items:
        raise ValueError("no recordings given")
    names: dict[str, SourceItem] = {}
    for item in items:
        if item.name in names:
            first, second = (i.path or "a dataset" for i in (names[item.name], item))
            raise ValueError(
                f"{first} and {second} would both become {item.name!r}: "
                "rename one, or run them into different folders"
            )
        names[item.name] = item
    return items


def _is_result(path: Path) -> bool:
    about = provenance(path)
    return (about is not None and "key" in about) or sidecar_path(path).exists()


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
    dtype: str = "float32",
    executor: str | None = None,
    client: Any = None,
    progress: bool | None = None,
    listeners: Iterable[events.Listener] = (),
    open_options: Mapping[str, Any] | None = None,
) -> Report:
    """Process recordings into a folder (see `Pipeline.run`)."""
    from penstock.progress import progress_listener

    if format not in SUFFIXES:
        raise ValueError(f"format must be one of {', '.join(SUFFIXES)}, got {format!r}")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
    out = out.expanduser().absolute()
    items = resolve_sources(source, out)
    client = client if client is not None else active_client()
    kind = "cluster" if client is not None else executor_kind(pipeline, executor)
    limits = resources(memory, workers, kind=kind, client=client, modules=pipeline.modules)
    jobs = [
        Job(
            uuid.uuid4().hex,
            item.name,
            item.path.absolute() if item.path is not None else None,
            item.dataset,
            pipeline.processors,
            pipeline.canonical(),
            out / f"{item.name}{SUFFIXES[format]}",
            format,
            dtype,
            overwrite,
            limits,
            {"dataset": dataset_token(item.dataset)} if item.dataset is not None else None,
            dict(open_options or {}),
        )
        for item in items
    ]
    _refuse_own_source(jobs)
    _make_folder(out)
    report = Report(pipeline=pipeline.canonical(), out=str(out), limits=limits, kind=kind)
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
            report.save(out)
    return report


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
    if ds is None or reads_fresh(ds.variables[SIGNAL]) or ds.variables[SIGNAL].chunks is not None:
        yield job
        return
    folder = job.target.with_name(f".{job.name}.input")
    write_store(ds, folder / f"{job.name}.zarr", overwrite=True)
    try:
        yield replace(job, dataset=None, path=folder / f"{job.name}.zarr")
    finally:
        remove(folder)
