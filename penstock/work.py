"""What workers do: open and prepare a recording, compute a block, finish a result.

These functions run in a thread or on a worker of a cluster. They take and return small things only;
data go from the source file to the store and nowhere else.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from penstock.buffers import recycle
from penstock.chain import Chain
from penstock.dataset import SIGNAL, reads_fresh
from penstock.events import BlockFinished
from penstock.identity import file_identity, key_of, versions
from penstock.io.parts import parts_of
from penstock.io.recording_sidecars import NOTES, has_sidecars, sidecars_of
from penstock.ledger import (
    Ledger,
    clean_leftovers,
    discard,
    partial_path,
    publish,
    remove,
)
from penstock.memory import PeakSampler, use_lean_allocator
from penstock.own_folder import leads_elsewhere
from penstock.plan import Plan, Resources, Stage, make_plan
from penstock.processor import Processor
from penstock.rechunk import (
    PARTIALS,
    SCRATCH,
    create_scratch,
    part_number,
    scratch_source,
    with_reduction,
)
from penstock.results import (
    OutputArray,
    failures_text,
    fields_of,
    output_arrays,
    remarks_texts,
)
from penstock.store import (
    FORMAT,
    add_provenance,
    create_array,
    create_group,
    sidecar_path,
    stored_provenance,
    write_block,
)


@dataclass(frozen=True)
class Job:
    """One recording to process: what, how, where to, within what."""

    token: str
    """Unique to this run and recording."""
    name: str
    path: Path | None
    dataset: xr.Dataset | None
    processors: tuple[Processor, ...]
    pipeline: list[dict[str, Any]]
    """Canonical form of the processors, as they are in the client."""
    target: Path
    format: str
    dtype: str | None
    """In which files are read; None: what holds their values exactly."""
    overwrite: bool
    limits: Resources
    identity: dict[str, Any] | None = None
    """What tells this input from another, where the path does not."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of `open_dataset`."""

    @property
    def building(self) -> Path:
        """Folder of the unfinished result."""
        return partial_path(self.target)

    @property
    def store(self) -> Path:
        """Zarr store under construction."""
        return self.building / "store"

    @property
    def scratch(self) -> Path:
        """Zarr group of what stages pass on to later stages."""
        return self.building / "scratch"

    @property
    def exported(self) -> Path:
        """The result in a format other than Zarr, before it is published."""
        return self.building / "exported" / self.target.name

    @property
    def sidecar(self) -> Path:
        """Provenance of a result whose format cannot hold it."""
        return sidecar_path(self.target)

    @property
    def coming_sidecar(self) -> Path:
        """The same, before the result is published."""
        return self.building / "sidecar.json"


@dataclass(frozen=True)
class Opened:
    """A recording that is ready for its blocks."""

    job: Job
    plan: dict[str, Any]
    states: tuple[Any, ...]
    blocks: tuple[tuple[int, ...], ...]
    """Block shape of every stage."""
    counts: tuple[int, ...]
    """Blocks of every stage."""
    in_order: tuple[bool, ...]
    """Whether a stage reads its source from front to back."""
    block_bytes: int
    finish_bytes: int
    finished: dict[int, set[int]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Done:
    """A recording whose result has its final name."""

    target: Path
    skipped: bool = False
    opened: Opened | None = None
    blocks: tuple[BlockFinished, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------------- identity


def source_identity(job: Job) -> dict[str, Any]:
    """What tells one input from another: path, size and time of change, or the data themselves."""
    if job.identity is not None:
        identity = dict(job.identity)
        source = str(job.dataset.attrs.get("source", "")) if job.dataset is not None else ""
    else:
        assert job.path is not None
        source = str(job.path.absolute())
        identity = file_identity(Path(source))
        parts = parts_of(source)
        if parts:
            identity["parts"] = [file_identity(part) for part in parts]
        told = sidecars_of(source) if job.options.get("sidecars", True) else []
        if told:
            identity["sidecars"] = [file_identity(sidecar) for sidecar in told]
    if job.options:
        identity["options"] = job.options
    beside = [path for one in job.processors for path in one.companions(source)] if source else []
    if beside:
        identity["companions"] = [file_identity(Path(path)) for path in beside]
    return identity


def result_key(job: Job) -> str:
    """Digest of all that decides the result's bytes: two runs with one key make the same result."""
    return key_of(job.pipeline, source_identity(job), job.format, job.dtype)


def _about(job: Job, key: str) -> dict[str, Any]:
    """Provenance kept with a result; that of an anonymised one does not say of what it is made."""
    anonymous = any(processor.anonymizes for processor in job.processors)
    return {
        "format": FORMAT,
        "key": key,
        "pipeline": [processor.recorded() for processor in job.processors],
        "source": {"withheld": "anonymised"} if anonymous else source_identity(job),
        "versions": versions(),
    }


# ---------------------------------------------------------------------- this process


_sampler: PeakSampler | None = None
_lock = threading.Lock()
_workplaces: OrderedDict[str, tuple[Stage, ...]] = OrderedDict()
_WORKPLACES_KEPT = 8


def process_name() -> str:
    """Host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _peak() -> int:
    """Highest memory of this process since it first worked; the watcher starts here."""
    global _sampler
    with _lock:
        if _sampler is None:
            _sampler = PeakSampler().__enter__()
    return _sampler.peak


def close_workplaces(tokens: set[str]) -> None:
    """Forget opened recordings, and stop watching memory when none is left."""
    global _sampler
    with _lock:
        for token in tokens:
            _workplaces.pop(token, None)
        if not _workplaces and _sampler is not None:
            _sampler.__exit__()
            _sampler = None


def _set_up_process(job: Job) -> None:
    """On a cluster's worker nobody has set the process up; here the run has done so already."""
    _peak()
    if job.limits.processes > 1:
        _worker_process()


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
    with _lock:
        stages = _workplaces.get(job.token)
        if stages is not None:
            _workplaces.move_to_end(job.token)
            return stages
    chain = Chain(_open_source(job)).bind(job.processors, opened.states)
    plan = make_plan(chain, job.limits, name=job.name, format=job.format)
    return _keep(job, _bind_stages(job, plan.with_blocks(opened.blocks).stages))


def _keep(job: Job, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    with _lock:
        _workplaces[job.token] = stages
        while len(_workplaces) > _WORKPLACES_KEPT:
            _workplaces.popitem(last=False)
    return stages


def _bind_stages(job: Job, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Let later stages read what earlier ones left in scratch."""
    bound: list[Stage] = []
    for number, stage in enumerate(stages):
        chain = stage.chain
        before = stages[number - 1] if number else None
        if stage.kind != "copy" and before is not None and before.kind == "scratch":
            if before.keeps:
                chain = scratch_source(job.scratch, number - 1, chain)
            if before.reduces is not None:
                chain = with_reduction(job.scratch, number - 1, chain)
        bound.append(replace(stage, chain=chain))
    return tuple(bound)


# ---------------------------------------------------------------------- tasks


def open_recording(job: Job, slot: int) -> Opened | Done:
    """Open, prepare and plan a recording, and start (or pick up) its store.

    Preparing may take `slot` bytes; `RowTooLarge` is raised where it needs more.

    A recording of a single block is processed here as well: one task instead of three.
    """
    _set_up_process(job)
    key = result_key(job)
    _publish_sidecar(job)
    if job.target.exists() and not job.overwrite:
        about = stored_provenance(job.target) or _read_json(job.sidecar)
        if about is not None and about.get("key") == key:
            discard(job.building)  # (left by a run killed between publishing and cleaning up)
            return Done(job.target, skipped=True)
        raise FileExistsError(
            f"{job.target} exists already and was not made by this pipeline from this input: "
            "use overwrite (--overwrite) to replace it, or another folder"
        )
    source = _open_source(job)
    chain = Chain(source).prepared(job.processors, slot, strict=True)
    plan = make_plan(chain, job.limits, name=job.name, format=job.format)
    plan, finished, note = _pick_up(job, key, plan)
    if not (job.building / "plan.json").exists():
        _start_store(job, key, plan, chain)
    if job.path is not None and has_sidecars(job.path) and source.attrs.get(NOTES):
        note = "; ".join(filter(None, (note, str(source.attrs[NOTES]))))
    opened = Opened(
        job,
        plan.to_dict(),
        chain.states,
        tuple(stage.grid.block for stage in plan.stages),
        tuple(len(stage.grid) for stage in plan.stages),
        tuple(stage.in_order for stage in plan.stages),
        # (what a reader keeps of the file counts with its blocks)
        plan.block_bytes + plan.base - job.limits.base,
        plan.task_bytes + plan.base - job.limits.base,
        finished,
        note,
    )
    _keep(job, _bind_stages(job, plan.stages))
    if plan.n_blocks == 1 and job.limits.workers * plan.task_bytes <= job.limits.available:
        blocks = () if finished else (run_block(opened, 0, 0),)
        return replace(finish_recording(opened), opened=opened, blocks=blocks)
    return opened


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


def _pick_up(job: Job, key: str, plan: Plan) -> tuple[Plan, dict[int, set[int]], str]:
    """Go on with what an interrupted run left, if it was the same work and its blocks still fit."""
    if leads_elsewhere(job.building):
        discard(job.building)
        return plan, {}, "started again: in place of the unfinished result there was a link"
    left = _read_json(job.building / "plan.json")
    if left is None or not (job.store / "zarr.json").exists():
        discard(job.building)
        return plan, {}, ""
    if left.get("key") == key and len(left["blocks"]) == len(plan.stages):
        shapes = [tuple(shape) for shape in left["blocks"]]
        if shapes != [stage.grid.block for stage in plan.stages]:
            plan = plan.with_blocks(shapes)
        if plan.block_bytes <= job.limits.available:
            finished = Ledger(job.building / "ledger").finished()
            n = sum(map(len, finished.values()))
            note = f"resumed: {n} of {plan.n_blocks} blocks were finished" if n else ""
            return plan, finished, note
    discard(job.building)
    return plan, {}, "started again: the unfinished result was of another pipeline or budget"


def _start_store(job: Job, key: str, plan: Plan, chain: Chain) -> None:
    """Make the empty arrays of all stages; `plan.json` comes last and says that they are there."""
    job.building.mkdir(parents=True, exist_ok=True)
    job.scratch.mkdir(exist_ok=True)
    import zarr

    zarr.create_group(job.scratch, overwrite=True)
    about = _about(job, key)
    fields = fields_of(chain.output)
    if fields is not None:
        about["results"] = list(fields)
    create_group(job.store, chain.output, about)
    for number, stage in enumerate(plan.stages):
        if stage.kind == "scratch":
            create_scratch(job.scratch, number, stage, plan.stages[number + 1])
            continue
        for array in _written(stage):
            create_array(
                job.store,
                array.name,
                array.dims,
                array.shape,
                array.dtype,
                (*stage.grid.block, *array.extra.values()),
                array.attrs,
                compress=job.format == "zarr",
            )
    content = {"key": key, "blocks": [stage.grid.block for stage in plan.stages]}
    temporary = job.building / "plan.json.new"
    temporary.write_text(json.dumps(content))
    os.replace(temporary, job.building / "plan.json")


def _written(stage: Stage) -> list[OutputArray]:
    """The variables of the result that a stage writes."""
    arrays = output_arrays(stage.chain.output)
    return [replace(arrays[0], name=stage.title)] if stage.kind == "copy" else arrays


FAILURES_KEPT = 5
"""How many failed positions of a block, and of a recording, are named with their reasons."""


def run_block(opened: Opened, number: int, block: int) -> BlockFinished:
    """Compute one block, write it, note it in the ledger."""
    _set_up_process(opened.job)
    job = opened.job
    stage = _workplace(opened)[number]
    region = stage.grid.region(block)
    seconds: dict[str, float] = {}
    facts: dict[str, Any] = {}
    remarks: dict[str, int] = {}
    if stage.reduces is not None:
        step = _workplace(opened)[number + 1].chain.steps[0]
        values, partial = stage.chain.partial(region, step, seconds, remarks)
        began = time.perf_counter()
        if stage.keeps:
            write_block(job.scratch, f"{SCRATCH}{number}", region, values)
        part = part_number(stage, step, block)
        remaining = {
            dim: indexer for dim, indexer in region.items() if dim not in step.processor.reduce_dims
        }
        where = {
            "part": slice(part, part + 1),
            "statistic": slice(0, len(partial)),
            **remaining,
        }
        write_block(job.scratch, f"{PARTIALS}{number}", where, partial[np.newaxis])
    else:
        failures: list[tuple[dict[str, int], str]] = []
        values = stage.chain.compute(region, seconds, failures, remarks)
        began = time.perf_counter()
        if failures:
            facts = {"n_failed": len(failures), "failures": failures[:FAILURES_KEPT]}
        if stage.kind == "scratch":
            write_block(job.scratch, f"{SCRATCH}{number}", region, values)
        else:
            for array in _written(stage):
                whole = {dim: slice(0, size) for dim, size in array.extra.items()}
                write_block(job.store, array.name, {**region, **whole}, array.values(values))
            if job.format == "edf" and stage.kind == "process":
                axes = tuple(range(1, values.ndim))
                facts["low"] = values.min(axis=axes).astype(float).tolist()
                facts["high"] = values.max(axis=axes).astype(float).tolist()
    if remarks:
        facts["remarks"] = remarks
    Ledger(job.building / "ledger").add(number, block, **facts)
    n_bytes = values.nbytes
    if reads_fresh(stage.chain.source.variables[SIGNAL]):
        recycle(values)
    seconds["write"] = time.perf_counter() - began
    return BlockFinished(
        job.name, number, block, stage.block.read, n_bytes, seconds, process_name(), _peak()
    )


def run_stage(opened: Opened, number: int) -> tuple[BlockFinished, ...]:
    """Compute the blocks of a stage that are not in the ledger yet, one after the other.

    For sources that can only be read from front to back: in any other process the file would be
    read from its beginning again.
    """
    done = Ledger(opened.job.building / "ledger").finished().get(number, set())
    numbers = (block for block in range(opened.counts[number]) if block not in done)
    return tuple(run_block(opened, number, block) for block in numbers)


def finish_recording(opened: Opened) -> Done:
    """Check that every block is there, export where another format is asked, publish."""
    _set_up_process(opened.job)
    job = opened.job
    ledger = Ledger(job.building / "ledger")
    finished = ledger.finished()
    for number, count in enumerate(opened.counts):
        missing = count - len(finished.get(number, ()))
        if missing:
            raise RuntimeError(
                f"{missing} of {count} blocks of stage {number + 1} are not in the ledger of "
                f"{job.building}: run the same command again"
            )
    clean_leftovers(job.store)
    facts = _failures(ledger) | _remarks(ledger)
    passed = _passed_through(job)
    if passed:
        facts["passed_through"] = passed
    if facts:
        add_provenance(job.store, facts)
    if job.format == "zarr":
        publish(job.store, job.target, overwrite=job.overwrite)
    else:
        from penstock.io import export
        from penstock.store import open_store

        remove(job.coming_sidecar)
        remove(job.exported.parent)
        job.exported.parent.mkdir()
        ranges = _ranges(opened, ledger)
        result = export(open_store(job.store), job.exported, format=job.format, ranges=ranges)
        facts |= _export_facts(result)
        about = {**(stored_provenance(job.store) or {}), **facts}
        about.pop("sampled", None)
        parts = _publish_parts(job)
        if parts:
            about["parts"] = parts
        job.coming_sidecar.write_text(json.dumps(about, indent=1))
        if job.overwrite:
            remove(job.sidecar)  # (that of an earlier result must never stand beside this one)
        publish(job.exported, job.target, overwrite=job.overwrite)
        os.replace(job.coming_sidecar, job.sidecar)
    discard(job.building)
    return Done(job.target, facts=facts)


def _publish_parts(job: Job) -> list[str]:
    """Publish what goes with a result that takes several files, before the file that names them.

    Returns the names of those files.
    """
    parts = sorted(path for path in job.exported.parent.iterdir() if path != job.exported)
    names = [path.name for path in parts]
    # a run that was killed in between left some, and a result that is replaced may have had more
    begun = job.building / "parts.json"
    ours = set((_read_json(begun) or {}).get("parts", []))
    if job.overwrite:
        earlier = (_read_json(job.sidecar) or {}).get("parts", [])
        ours |= {str(name) for name in earlier if os.path.basename(str(name)) == name}
    if names:
        begun.write_text(json.dumps({"parts": names}))
    for name in ours - set(names):
        remove(job.target.with_name(name))
    for path in parts:
        target = job.target.with_name(path.name)
        publish(path, target, overwrite=job.overwrite or path.name in ours)
    return names


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


def _failures(ledger: Ledger) -> dict[str, Any]:
    """How many positions failed, and why the first of them did; empty where none did."""
    noted = [entry for entry in ledger.entries() if "n_failed" in entry]
    if not noted:
        return {}
    noted.sort(key=lambda entry: (entry["stage"], entry["block"]))
    first = [failure for entry in noted for failure in entry["failures"]]
    return {
        "n_failed": sum(entry["n_failed"] for entry in noted),
        "failures": first[:FAILURES_KEPT],
    }


def _remarks(ledger: Ledger) -> dict[str, Any]:
    """What all blocks together lost on the way, as sentences; empty where nothing was lost."""
    total: Counter[str] = Counter()
    for entry in ledger.entries():
        total.update(entry.get("remarks", {}))
    texts = remarks_texts(total)
    return {"remarks": texts} if texts else {}


_SEVERAL_RATES = ("zarr", "edf")
"""Formats that hold signals of several sampling frequencies."""


def _passed_through(job: Job) -> list[str]:
    """Signals of other sampling frequencies, which processors of values leave as they are."""
    from penstock.store import open_store

    if all(processor.selects for processor in job.processors):
        return []
    if job.format not in _SEVERAL_RATES:
        return []  # (the export says that they are left out)
    ds = open_store(job.store)
    beside = [str(name) for name in ds.data_vars if str(name).startswith(f"{SIGNAL}_")]
    return [
        name for name in beside if f"channel{name.removeprefix(SIGNAL)}" in map(str, ds[name].dims)
    ]


def _export_facts(result: Any) -> dict[str, Any]:
    """What the format could not hold as it was: for the sidecar and the report."""
    facts: dict[str, Any] = {}
    clipped = {str(name): int(n) for name, n in dict(result.clipped or {}).items() if n}
    if clipped:
        facts["clipped"] = clipped
    if result.padded_seconds:
        facts["padded_seconds"] = round(float(result.padded_seconds), 6)
    if result.renamed:
        facts["renamed"] = dict(result.renamed)
    if result.notes:
        facts["not_kept"] = list(result.notes)
    return facts


def result_note(facts: dict[str, Any]) -> str:
    """What is not as it should be, in one sentence; empty where nothing was lost."""
    parts = []
    if "n_failed" in facts:
        parts.append(failures_text(facts["n_failed"], facts["failures"][0]))
    parts += facts.get("remarks", [])
    if "passed_through" in facts:
        names = ", ".join(facts["passed_through"])
        parts.append(
            f"signals of other sampling frequencies are passed on as they are ({names}; open with "
            "rate= to process them)"
        )
    if "clipped" in facts:
        parts.append(f"{sum(facts['clipped'].values())} samples were clipped")
    if "padded_seconds" in facts:
        parts.append(
            f"the last data record is filled with {facts['padded_seconds']:g} s of the last value"
        )
    if "renamed" in facts:
        pairs = [f"{before} to {after}" for before, after in facts["renamed"].items()]
        more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        parts.append(f"channels are renamed ({', '.join(pairs[:5])}{more})")
    return "; ".join(part for part in (" and ".join(parts), *facts.get("not_kept", ())) if part)


def _read_json(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        return content if isinstance(content, dict) else None
    return None
