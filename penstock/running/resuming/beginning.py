"""Beginning a result, or going on with what an interrupted run left of it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

from penstock.memory.accounting import format_bytes
from penstock.planning.chain import Chain
from penstock.planning.plan import Plan, Stage
from penstock.planning.stages import create_scratch
from penstock.records import OutputArray, fields_of, output_arrays
from penstock.running.job import Job, Opened, result_provenance
from penstock.running.keys import versions
from penstock.running.resuming.unfinished import (
    Begun,
    DamagedError,
    lost_blocks,
    read_begun,
    restore_outline,
    with_outline,
)
from penstock.running.resuming.whole import export_damage, store_damage
from penstock.storage.ledger import Ledger, discard
from penstock.storage.own_folder import leads_elsewhere
from penstock.storage.store import create_array, create_group
from penstock.storage.zarr_files import group_document, write_document


def check_result(job: Job, key: str) -> str | None:
    """What is to be said of a result that is there: why it is made (again); None if it need not be.

    Raises
    ------
    FileExistsError
        If it must not be replaced.
    """
    about = result_provenance(job)
    ours = about is not None and about.get("key") == key
    if job.overwrite:
        # (an earlier call was killed between publishing it and cleaning up)
        published = ours and (job.building / "plan.json").exists() and not job.store.exists()
        return None if published else ""
    if not ours or about is None:
        raise FileExistsError(
            f"{job.target} exists already and was not made by this pipeline from this input: "
            "use overwrite (--overwrite) to replace it, or another folder"
        )
    zarr = job.format == "zarr"
    damage = store_damage(job.target) if zarr else export_damage(job.target, about)
    if damage is None:
        return None
    if damage.lost:
        return f"made again: of the result that was there {damage.reason}"
    raise FileExistsError(
        f"{job.target} was changed or damaged after it was made ({damage.reason}): remove it, or "
        "use overwrite (--overwrite), to make it again"
    )


def may_replace(opened: Opened) -> bool:
    """Whether a result that is there may be replaced: asked for, or one like it that is damaged."""
    about = result_provenance(opened.job)
    return opened.job.overwrite or (about is not None and about.get("key") == opened.key)


def pick_up(
    job: Job, key: str, parts: dict[str, str], plan: Plan
) -> tuple[Plan, Mapping[int, Set[int]], str]:
    """Go on with what an interrupted run left, where it was the same work.

    Raises
    ------
    FileExistsError
        If finished blocks of other work would be lost.
    """
    if leads_elsewhere(job.building):
        discard(job.building)
        return plan, {}, "started again: in place of the unfinished result there was a link"
    try:
        begun = read_begun(job.building)
        if begun is None:
            discard(job.building)
            return plan, {}, ""
        ledger = Ledger(job.building / "ledger")
        n = sum(map(len, ledger.finished().values()))
        if begun.key == key and _fits(begun, plan, job):
            return _go_on(job, begun, ledger, plan)
    except DamagedError as error:
        discard(job.building)
        return plan, {}, f"started again, because {error}"
    if begun.parts["source"] != parts["source"]:
        # (nobody could finish that)
        discard(job.building)
        note = "started again, because the input has changed since" if n else ""
        return plan, {}, note
    if n and not job.overwrite:
        raise FileExistsError(_not_this_work(job, begun, parts, n))
    discard(job.building)
    note = "started again: unfinished work of another pipeline or budget was discarded, as asked"
    return plan, {}, note if n else ""


def _fits(begun: Begun, plan: Plan, job: Job) -> bool:
    """Whether the blocks that a result was begun with are within what this run may use."""
    if begun.stages != _stages_of(plan):
        return False
    limits = job.limits.with_resident(plan.resident // job.limits.hosts)
    return plan.with_blocks(map(tuple, begun.blocks)).block_bytes <= limits.largest_task


def _stages_of(plan: Plan) -> list[list[str]]:
    """What tells the stages of one plan from those of another."""
    return [[stage.kind, stage.title] for stage in plan.stages]


def _not_this_work(job: Job, begun: Begun, parts: dict[str, str], n: int) -> str:
    blocks = "1 finished block" if n == 1 else f"{n} finished blocks"
    if begun.parts == parts:
        return (
            f"{job.building} holds {blocks} that a run with memory of {format_bytes(begun.memory)} "
            "made, and that are larger than this run may use, or of other stages: allow as much to "
            "go on with them, or use overwrite (--overwrite) to start again"
        )
    changed = [name for name in parts if begun.parts.get(name) != parts[name]]
    what = "another pipeline" if "pipeline" in changed else f"other {changed[0]}"
    return (
        f"{job.building} holds {blocks} of {what} ({', '.join(begun.steps)}): run that to its end, "
        "or use overwrite (--overwrite) to discard them and start with this, or another folder"
    )


def _go_on(
    job: Job, begun: Begun, ledger: Ledger, plan: Plan
) -> tuple[Plan, Mapping[int, Set[int]], str]:
    """The plan of an interrupted run, and which of its blocks are whole."""
    restore_outline(begun, job.building)
    shapes = [tuple(shape) for shape in begun.blocks]
    if shapes != [stage.grid.block for stage in plan.stages]:
        plan = plan.with_blocks(shapes)
    lost = lost_blocks(job.building, ledger)
    if lost:
        ledger.forget(lost)
    finished = ledger.finished()
    n = sum(map(len, finished.values()))
    note = f"resumed: {n} of {plan.n_blocks} blocks were finished" if n else ""
    if lost:
        again = "1 more was not whole" if len(lost) == 1 else f"{len(lost)} more were not whole"
        note = f"{note or 'begun again'}; {again} ({next(iter(lost.values()))})"
    now = versions()
    if n and begun.versions[-1] != now:
        before = begun.versions[-1]
        changes = [
            f"{name} {before.get(name)} to {now[name]}"
            for name in now
            if before.get(name) != now[name]
        ]
        note += f"; changed in between: {', '.join(changes)}"
        replace(begun, versions=[*begun.versions, now]).save(job.building)
    return plan, finished, note


def start_store(
    job: Job,
    key: str,
    parts: dict[str, str],
    about: dict[str, Any],
    plan: Plan,
    chain: Chain,
) -> None:
    """Make the empty arrays of all stages; `plan.json` comes last and says that they are there."""
    job.building.mkdir(parents=True, exist_ok=True)
    write_document(job.scratch, group_document({"penstock": {"scratch": True}}))
    fields = fields_of(chain.output)
    if fields is not None:
        about["results"] = list(fields)
    create_group(job.store, chain.output, about)
    for number, stage in enumerate(plan.stages):
        if stage.kind == "scratch":
            create_scratch(job.scratch, number, stage, plan.stages[number + 1])
            continue
        for array in written_arrays(stage):
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
    begun = Begun(
        key,
        parts,
        [list(stage.grid.block) for stage in plan.stages],
        _stages_of(plan),
        [type(processor).__name__ for processor in job.processors],
        job.limits.budget,
        [versions()],
    )
    with_outline(begun, job.building).save(job.building)


def written_arrays(stage: Stage) -> list[OutputArray]:
    """The variables of the result that a stage writes."""
    arrays = output_arrays(stage.chain.output)
    return [replace(arrays[0], name=stage.title)] if stage.kind == "copy" else arrays
