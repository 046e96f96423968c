"""Plans and pipelines for people: text tables, and HTML for notebooks and pages."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from penstock.memory.accounting import format_bytes
from penstock.messages import folded, shown_text
from penstock.pages import escaped, html_table, memory_bar, piece

ROWS_SHOWN = 1000
"""Rows of a table of a page; the JSON file beside it holds all of them."""

COLUMNS = 80
"""Of a terminal that plans are printed for."""


def plan_rows(plan: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a plan's table (from `Plan.to_dict`)."""
    header = [
        "stage",
        "steps",
        "blocks",
        "block",
        "read",
        "written",
        "memory a block",
        "decided by",
    ]
    rows = []
    for number, stage in enumerate(plan["stages"], 1):
        block = " × ".join(
            f"{unit} {dim}" for dim, unit in zip(stage["dims"], stage["block"], strict=True)
        )
        kind = {"process": "", "scratch": " → scratch", "copy": " (copied)"}[stage["kind"]]
        margin = stage["margin_overhead"]
        read = format_bytes(stage["bytes_in"])
        if margin > 0.005:
            read += f" (margins {margin:.0%})"
        if stage.get("in_order"):
            read += ", front to back"
        rows.append(
            [
                str(number),
                stage["title"] + kind,
                str(stage["blocks"]),
                block,
                read,
                format_bytes(stage["bytes_out"]),
                format_bytes(stage["block_peak"]),
                stage["largest_step"],
            ]
        )
    return header, rows


def plan_summary(plan: dict[str, Any]) -> str:
    """One line: predicted peak, budget, concurrency and why."""
    return (
        f"predicted peak {format_bytes(plan['predicted_memory'])} of "
        f"{format_bytes(plan['budget'])} allowed: {_what_adds_up(plan)}"
    )


def _what_adds_up(plan: dict[str, Any]) -> str:
    """What the predicted peak is made of, and why so many blocks run at once."""
    return (
        f"{format_bytes(plan['base'])} for "
        f"{plan['processes']} process{'es' if plan['processes'] > 1 else ''} + "
        f"{plan['concurrency']} block{'s' if plan['concurrency'] > 1 else ''} at once "
        f"({plan['reason']})"
    )


def plan_text(plan: Any) -> str:
    """A plan as text: a few labelled lines a stage, which fit a terminal of 80 columns."""
    data = plan.to_dict()
    lines = [shown_text(plan.name)]
    _, rows = plan_rows(data)
    for number, steps, blocks, block, read, written, memory, decided_by in rows:
        told = {
            f"stage {number}": steps,
            "blocks": f"{blocks} of {block}",
            "read": read,
            "written": written,
            "memory": f"{memory} a block, decided by {decided_by}",
        }
        lines += [f"  {label:<9} {shown_text(text)}" for label, text in told.items()]
    lines.append(plan_summary(data))
    return "\n".join(folded(line, COLUMNS) for line in lines)


def plan_html(plan: Any) -> str:
    """A plan for Jupyter."""
    data = plan.to_dict()
    blocks = data["predicted_memory"] - data["base"]
    return piece(
        f"<b>Plan of {escaped(plan.name)}</b>{html_table(*plan_rows(data))}"
        f"{memory_bar(data['base'], blocks, data['budget'])}"
        f"<p>{escaped(plan_summary(data))}</p>"
    )


def plan_of_several(data: dict[str, Any], n_plans: int) -> str:
    """The plan of one of several recordings, whose peak is not that of the run."""
    if n_plans == 1:
        return f"{html_table(*plan_rows(data))}<p>{escaped(plan_summary(data))}</p>"
    alone = (
        f"alone it would take {format_bytes(data['predicted_memory'])}: {_what_adds_up(data)}; "
        "blocks of several recordings run side by side"
    )
    return f"{html_table(*plan_rows(data))}<p>{escaped(alone)}</p>"


def plans_html(plans: Any) -> str:
    """Plans of several recordings for Jupyter: the peak of the run, and the largest in full."""
    unplanned = ""
    if plans.failed:
        rows = [[name, reason] for name, reason in plans.failed.items()]
        table = html_table(["recording", "reason"], rows[:ROWS_SHOWN])
        unplanned = f"<p><b>{len(rows)} cannot be planned</b></p>{table}"
    if not plans:
        return piece(f"<b>No recording to plan</b>{unplanned}")
    largest = max(plans, key=lambda plan: plan.predicted_memory)
    data = largest.to_dict()
    base = data["base"] if plans.limits is None else plans.limits.base
    several = f"{len(plans)} recordings" if len(plans) > 1 else "1 recording"
    told = (
        f"predicted peak {format_bytes(plans.predicted_memory)} of "
        f"{format_bytes(data['budget'])} allowed; the largest is {largest.name}:"
    )
    return piece(
        f"<b>Plan of {several}</b>, {plans.n_blocks} blocks"
        f"{memory_bar(base, plans.predicted_memory - base, data['budget'])}"
        f"<p>{escaped(told)}</p>{plan_of_several(data, len(plans))}{unplanned}"
    )


def pipeline_html(pipeline: Any) -> str:
    """A pipeline for Jupyter."""
    rows = [
        [
            str(number),
            type(processor).__name__,
            parameters_text(processor.parameters()),
            ", ".join(processor.core_dims) or "any",
        ]
        for number, processor in enumerate(pipeline, 1)
    ]
    table = html_table(["", "processor", "parameters", "whole along"], rows)
    return piece(f"<b>Pipeline</b>{table}")


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """Parameters for people; a table given in memory would fill pages."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 200
    short.maxdict = short.maxlist = short.maxtuple = 12
    return ", ".join(f"{name}={short.repr(value)}" for name, value in parameters.items())
