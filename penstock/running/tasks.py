"""What workers do: open and prepare a recording, compute a block, finish a result.

These functions run in a thread or on a worker of a cluster. They take and return small things only;
data go from the source file to the store and nowhere else.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, reads_fresh
from penstock.errors import BudgetError, RowTooLarge
from penstock.events import BlockFinished
from penstock.io.bids.sidecars import NOTES, has_sidecars
from penstock.io.export_memory import EXPORT_BUFFER_BYTES
from penstock.memory.accounting import trim_heap, use_lean_allocator
from penstock.memory.buffers import recycle, release_memory
from penstock.memory.footprints import footprint, forget_tasks, task_at_work
from penstock.memory.peaks import WATCH, process_name
from penstock.memory.worker_processes import this_process
from penstock.planning.chain import Chain
from penstock.planning.lazy import prepared
from penstock.planning.plan import Plan, Stage, make_plan, row_refusal
from penstock.planning.stages import (
    PARTIALS,
    SCRATCH,
    part_number,
    scratch_source,
    with_reduction,
)
from penstock.running.job import (
    Done,
    Job,
    Opened,
    provenance_of,
    read_json,
    result_key,
    result_provenance,
    source_identity,
)
from penstock.running.keys import digests_of, key_of
from penstock.running.result_facts import FAILURES_KEPT, export_facts, noted_facts
from penstock.running.resuming.beginning import (
    check_result,
    may_replace,
    pick_up,
    start_store,
    written_arrays,
)
from penstock.running.resuming.unfinished import (
    blocks_without_files,
    read_begun,
)
from penstock.running.resuming.whole import exported_files
from penstock.running.workplaces import forget, forget_run, keep_stages, kept_stages
from penstock.storage.durable import sync_file_system, write_whole
from penstock.storage.file_facts import array_files
from penstock.storage.ledger import Ledger, clean_leftovers, discard, publish, remove, replaced_path
from penstock.storage.own_folder import leads_elsewhere
from penstock.storage.store import (
    add_provenance,
    stored_provenance,
    write_block,
)
from penstock.storage.zarr_files import array_dims

P = ParamSpec("P")
R = TypeVar("R")

# ---------------------------------------------------------------------- this process


def close_run(run: str, tokens: set[str]) -> None:
    """Forget what a run opened in this process, stop watching its memory, and give that back."""
    forget(tokens)
    WATCH.end(run)
    _leave_nothing()


def _give_up(run: str) -> None:
    """The same for a run that nobody asks for any more."""
    forget_run(run)
    _leave_nothing()


def _leave_nothing() -> None:
    if not WATCH.records:
        forget_tasks()
        release_memory(all_threads=True)
        trim_heap()


def _set_up_process(job: Job) -> None:
    """On a cluster's worker nobody has set the process up; here the run has done so already."""
    WATCH.begin(job.run, forget=_give_up)
    if job.limits.home not in ("", this_process()):
        _worker_process()


def _watched(
    planned: Callable[..., int], step: str = ""
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function as a task of so many planned bytes, whose memory is watched."""

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def task(*args: P.args, **kwargs: P.kwargs) -> R:
            first: Any = args[0]
            job: Job = getattr(first, "job", first)
            _set_up_process(job)
            try:
                with task_at_work(planned(*args, **kwargs), job.limits.largest_base, step):
                    return function(*args, **kwargs)
            finally:
                if WATCH.has_ended(job.run):  # (it went on after the run was interrupted)
                    close_run(job.run, {job.token})

        return task

    return mark


@functools.cache
def _worker_process() -> None:
    import threadpoolctl

    threadpoolctl.threadpool_limits(limits=1)
    # (workers start with thresholds of their own choice, which cost half the speed)
    use_lean_allocator()


def _open_source(job: Job) -> xr.Dataset:
    if job.dataset is not None:
        return job.dataset
    from penstock.io import open_dataset

    assert job.path is not None
    return open_dataset(job.path, dtype=job.dtype, **job.options)


def _workplace(opened: Opened) -> tuple[Stage, ...]:
    """Stages of a recording, bound to its opened source and scratch; kept for the next block."""
    job = opened.job
    stages = kept_stages(job)
    if stages is not None:
        return stages
    chain = Chain(_open_source(job)).bind(job.processors, opened.states)
    chain = chain.with_measured(job.learned)
    plan = make_plan(chain, job.limits, name=job.name, format=job.format)
    return keep_stages(job, _bind_stages(job, plan.with_blocks(opened.blocks).stages))


def _bind_stages(job: Job, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Let later stages read what earlier ones left in scratch."""
    bound: list[Stage] = []
    kept: int | None = None
    for number, stage in enumerate(stages):
        chain = stage.chain
        before = stages[number - 1] if number else None
        if stage.kind != "copy" and before is not None and before.kind == "scratch":
            if before.keeps:
                kept = number - 1
            if kept is not None:  # (a stage that only reduces has read the same)
                chain = scratch_source(job.scratch, kept, chain)
            if before.reduces is not None:
                chain = with_reduction(job.scratch, number - 1, chain)
        bound.append(replace(stage, chain=chain))
    return tuple(bound)


# ---------------------------------------------------------------------- tasks


@_watched(lambda job, slot: slot, "opening")
def open_recording(job: Job, slot: int) -> Opened | Done:
    """Open, prepare and plan a recording, and start (or pick up) its store.

    Preparing may take `slot` bytes; `RowTooLarge` is raised where it needs more.

    A recording of a single block is processed here as well: one task instead of three.
    """
    identity = source_identity(job)
    key = key_of(job.pipeline, identity, job.format, job.dtype)
    _publish_sidecar(job)
    notes = []
    if job.target.exists():
        damaged = check_result(job, key)
        if damaged is None:
            _clean_up(job)  # (after a run killed between publishing and that)
            return Done(job.target, skipped=True)
        notes.append(damaged)
    source = _open_source(job)
    try:
        chain = prepared(Chain(source), job.processors, slot, strict=True)
    except RowTooLarge as error:
        if slot < job.limits.largest_task:
            raise  # (it is tried again with all that there is)
        raise row_refusal(
            Chain(source).bind(job.processors), job.limits, error, name=job.name, format=job.format
        ) from None
    job, chain, plan = _planned(job, chain)
    parts = digests_of(job.pipeline, identity, job.format, job.dtype)
    plan, finished, note = pick_up(job, key, parts, plan)
    notes.append(note)
    if not (job.building / "plan.json").exists():
        start_store(job, key, parts, provenance_of(job, key, identity), plan, chain)
    if job.path is not None and has_sidecars(job.path):
        notes.append(str(source.attrs.get(NOTES) or ""))
    opened = Opened(
        job,
        plan.to_dict(),
        chain.states,
        tuple(stage.grid.block for stage in plan.stages),
        tuple(len(stage.grid) for stage in plan.stages),
        tuple(stage.in_order for stage in plan.stages),
        # (what a reader keeps of the file counts with its blocks)
        plan.block_bytes + plan.resident,
        plan.task_bytes + plan.resident,
        plan.resident // job.limits.hosts,
        plan.resident,
        finished,
        "; ".join(filter(None, notes)),
        key,
    )
    keep_stages(job, _bind_stages(job, plan.stages))
    if plan.n_blocks == 1 and job.limits.at_once(plan.task_bytes) == job.limits.workers:
        blocks = () if finished else (run_block(opened, 0, 0),)
        return replace(finish_recording(opened), opened=opened, blocks=blocks)
    return opened


def _planned(job: Job, chain: Chain) -> tuple[Job, Chain, Plan]:
    """The plan, with what steps were seen to take where that leaves blocks that fit."""
    if job.learned:
        with contextlib.suppress(BudgetError):
            known = chain.with_measured(job.learned)
            return job, known, make_plan(known, job.limits, name=job.name, format=job.format)
        job = replace(job, learned={})  # (one block at a time, as far as the engine can tell)
    return job, chain, make_plan(chain, job.limits, name=job.name, format=job.format)


def refuse_budget(jobs: list[Job]) -> None:
    """Say how much the largest of some recordings needs, where the budget holds not even processes.

    Raises
    ------
    BudgetError
        With a budget that it goes through with.
    """

    def size(job: Job) -> int:
        if job.dataset is not None:
            return int(job.dataset[SIGNAL].nbytes)
        with contextlib.suppress(OSError):
            return os.stat(job.path or "").st_size
        return 0

    job = max(jobs, key=size)
    chain = Chain(_open_source(job)).bind(job.processors)
    make_plan(chain, job.limits, name=job.name, format=job.format)


def _publish_sidecar(job: Job) -> None:
    """End what a run began that was killed between publishing a result and its provenance."""
    left = (job.building / "plan.json").exists() and job.coming_sidecar.exists()
    if (
        left
        and not leads_elsewhere(job.building)
        and job.target.exists()
        and not job.exported.exists()
    ):
        os.replace(job.coming_sidecar, job.sidecar)


@_watched(lambda opened, number, block: opened.block_bytes)
def run_block(opened: Opened, number: int, block: int) -> BlockFinished:
    """Compute one block, write it, note it in the ledger."""
    job = opened.job
    stage = _workplace(opened)[number]
    region = stage.grid.region(block)
    seconds: dict[str, float] = {}
    facts: dict[str, Any] = {}
    files: list[Any] = []
    remarks: dict[str, int] = {}
    if stage.reduces is not None:
        step = _workplace(opened)[number + 1].chain.steps[0]
        values, partial = stage.chain.partial(region, step, seconds, remarks)
        began = time.perf_counter()
        if stage.keeps:
            write_block(job.scratch, f"{SCRATCH}{number}", region, values, files)
        part = part_number(stage, step, block)
        remaining = {
            dim: indexer for dim, indexer in region.items() if dim not in step.processor.reduce_dims
        }
        where = {
            "part": slice(part, part + 1),
            "statistic": slice(0, len(partial)),
            **remaining,
        }
        write_block(job.scratch, f"{PARTIALS}{number}", where, partial[np.newaxis], files)
    else:
        failures: list[tuple[dict[str, int], str]] = []
        values = stage.chain.compute(region, seconds, failures, remarks)
        began = time.perf_counter()
        if failures:
            facts = {"n_failed": len(failures), "failures": failures[:FAILURES_KEPT]}
        if stage.kind == "scratch":
            write_block(job.scratch, f"{SCRATCH}{number}", region, values, files)
        else:
            for array in written_arrays(stage):
                whole = {dim: slice(0, size) for dim, size in array.extra.items()}
                at = {**region, **whole}
                write_block(job.store, array.name, at, array.values(values), files)
            if job.format == "edf" and stage.kind == "process":
                axes = tuple(range(1, values.ndim))
                facts["low"] = values.min(axis=axes).astype(float).tolist()
                facts["high"] = values.max(axis=axes).astype(float).tolist()
    if remarks:
        facts["remarks"] = remarks
    Ledger(job.building / "ledger").add(number, block, files=files, **facts)
    n_bytes = values.nbytes
    if reads_fresh(stage.chain.source.variables[SIGNAL]):
        recycle(values)
    seconds["write"] = time.perf_counter() - began
    taken = footprint()
    return BlockFinished(
        job.name,
        number,
        block,
        stage.block.read,
        n_bytes,
        seconds,
        process_name(),
        WATCH.peak(job.run),
        taken,
    )


def run_stage(opened: Opened, number: int) -> tuple[BlockFinished, ...]:
    """Compute the blocks of a stage that are not in the ledger yet, one after the other.

    For sources that can only be read from front to back: in any other process the file would be
    read from its beginning again.
    """
    done = Ledger(opened.job.building / "ledger").finished().get(number, ())
    numbers = (block for block in range(opened.counts[number]) if block not in done)
    return tuple(run_block(opened, number, block) for block in numbers)


@_watched(lambda opened: opened.finish_bytes, "writing the result")
def finish_recording(opened: Opened) -> Done:
    """Check that every block is there, export where another format is asked, publish."""
    job = opened.job
    if _was_published(opened):
        _clean_up(job)
        return Done(job.target)
    ledger = Ledger(job.building / "ledger")
    finished = ledger.finished()
    for number, count in enumerate(opened.counts):
        missing = count - len(finished.get(number, ()))
        if missing:
            raise RuntimeError(
                f"{missing} of {count} blocks of stage {number + 1} are not in the ledger of "
                f"{job.building}: run the same command again"
            )
    blocks = _redo_lost(opened, ledger)
    clean_leftovers(job.store)
    begun = read_begun(job.building)
    facts: dict[str, Any] = {}
    if begun is not None and len(begun.versions) > 1:
        facts = {"versions": begun.versions[-1], "earlier_versions": begun.versions[:-1]}
    facts |= noted_facts(ledger)
    passed = _passed_through(job)
    if passed:
        facts["passed_through"] = passed
    add_provenance(job.store, {**facts, "files": array_files(job.store)})
    replaces = may_replace(opened)
    if job.format == "zarr":
        _check_source(opened)
        sync_file_system(job.building)
        publish(job.store, job.target, overwrite=replaces)
    else:
        from penstock.io import export
        from penstock.storage.store import open_store

        remove(job.coming_sidecar)
        remove(job.exported.parent)
        job.exported.parent.mkdir()
        ranges = _ranges(opened, ledger)
        result = export(
            open_store(job.store),
            job.exported,
            format=job.format,
            ranges=ranges,
            buffer_bytes=EXPORT_BUFFER_BYTES,
        )
        facts |= export_facts(result)
        about = {**(stored_provenance(job.store) or {}), **facts}
        about.pop("sampled", None)
        about["files"] = exported_files(sorted(job.exported.parent.iterdir()))
        parts = [name for name in about["files"] if name != job.exported.name]
        if parts:
            about["parts"] = parts
        write_whole(job.coming_sidecar, json.dumps(about, indent=1).encode())
        _check_source(opened)
        sync_file_system(job.building)
        _publish_parts(job, parts, replaces=replaces)
        if replaces:
            remove(job.sidecar)  # (that of an earlier result must never stand beside this one)
        publish(job.exported, job.target, overwrite=replaces)
        os.replace(job.coming_sidecar, job.sidecar)
    _clean_up(job)
    return Done(job.target, blocks=blocks, facts=facts)


def _clean_up(job: Job) -> None:
    """Leave nothing of a recording but its published result."""
    discard(job.building)
    remove(replaced_path(job.target))
    forget({job.token})


def _was_published(opened: Opened) -> bool:
    """Whether this was done by a worker that was lost before it could say so."""
    job = opened.job
    _publish_sidecar(job)
    if job.building.exists():
        exported = job.exported.parent.is_dir() and not job.exported.exists()
        left = not job.store.exists() if job.format == "zarr" else exported
        if not left or job.coming_sidecar.exists():
            return False
    about = result_provenance(job)
    return about is not None and about.get("key") == opened.key


def _redo_lost(opened: Opened, ledger: Ledger) -> tuple[BlockFinished, ...]:
    """Make blocks again that were written, but whose files are not there when they are wanted."""
    building = opened.job.building
    stages = {
        number for number, stage in enumerate(opened.plan["stages"]) if stage["kind"] != "scratch"
    }
    lost = blocks_without_files(building, ledger, stages)
    if not lost:
        return ()
    ledger.forget(lost)
    again = tuple(run_block(opened, number, block) for number, block in sorted(lost))
    still = blocks_without_files(building, ledger, stages)
    if still:
        raise RuntimeError(
            f"{building / next(iter(still.values()))} was written, but is not there: look at the "
            "disk of the results, and run the same command again"
        )
    return again


def _check_source(opened: Opened) -> None:
    """Refuse to publish what is made of two states of one input."""
    if result_key(opened.job) != opened.key:
        job = opened.job
        source = job.path if job.path is not None else job.name
        raise ValueError(
            f"{source} was changed while it was processed, so that its result is not published: "
            "run the same command again, once it stays as it is"
        )


def _publish_parts(job: Job, names: list[str], *, replaces: bool) -> None:
    """Publish what goes with a result that takes several files, before the file that names them."""
    # a run that was killed in between left some, and a result that is replaced may have had more
    begun = job.building / "parts.json"
    ours = set((read_json(begun) or {}).get("parts", []))
    if replaces:
        earlier = (read_json(job.sidecar) or {}).get("parts", [])
        ours |= {str(name) for name in earlier if os.path.basename(str(name)) == name}
    if names:
        write_whole(begun, json.dumps({"parts": names}).encode())
    for name in ours - set(names):
        remove(job.target.with_name(name))
    for name in names:
        target = job.target.with_name(name)
        publish(job.exported.with_name(name), target, overwrite=replaces or name in ours)


def _ranges(opened: Opened, ledger: Ledger) -> tuple[np.ndarray, np.ndarray] | None:
    """Smallest and largest value of every channel, as the blocks noted them in passing."""
    if opened.job.format != "edf":
        return None
    for number, stage in enumerate(_workplace(opened)):
        if stage.kind != "process":
            continue
        low = np.full(stage.grid.shape[0], np.inf)
        high = np.full(stage.grid.shape[0], -np.inf)
        for entry in ledger.entries():
            if entry["stage"] == number:
                rows = stage.grid.region(entry["block"])[stage.grid.dims[0]]
                low[rows] = np.minimum(low[rows], entry["low"])
                high[rows] = np.maximum(high[rows], entry["high"])
        return low, high
    return None


_SEVERAL_RATES = ("zarr", "edf")
"""Formats that hold signals of several sampling frequencies."""


def _passed_through(job: Job) -> list[str]:
    """Signals of other sampling frequencies, which processors of values leave as they are."""
    if all(processor.selects for processor in job.processors):
        return []
    if job.format not in _SEVERAL_RATES:
        return []  # (the export says that they are left out)
    return [
        name
        for name, dims in array_dims(job.store)
        if name.startswith(f"{SIGNAL}_") and f"channel{name.removeprefix(SIGNAL)}" in dims
    ]
