"""Plans and pipelines for people: text tables, and HTML for notebooks and pages."""

from __future__ import annotations

import html
import reprlib
from collections.abc import Mapping
from typing import Any

from penstock.memory.accounting import format_bytes
from penstock.messages import shown_text

ROWS_SHOWN = 1000
"""Rows of a table of a page; the JSON file beside it holds all of them."""


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
        f"{format_bytes(plan['budget'])} allowed: {format_bytes(plan['base'])} for "
        f"{plan['processes']} process{'es' if plan['processes'] > 1 else ''} + "
        f"{plan['concurrency']} block{'s' if plan['concurrency'] > 1 else ''} at once "
        f"({plan['reason']})"
    )


def _text_table(header: list[str], rows: list[list[str]]) -> str:
    rows = [list(map(shown_text, row)) for row in rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(lines)


def plan_text(plan: Any) -> str:
    """A plan as a text table."""
    data = plan.to_dict()
    return f"{shown_text(plan.name)}\n{_text_table(*plan_rows(data))}\n{plan_summary(data)}"


def escaped(text: str) -> str:
    """Text for a page."""
    return html.escape(shown_text(text))


def html_table(header: list[str], rows: list[list[str]]) -> str:
    """A table for a page."""
    head = "".join(f"<th style='text-align:left'>{escaped(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>"
        + "".join(f"<td style='text-align:left'>{escaped(cell)}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def memory_bar(base: float, blocks: float, budget: float, measured: float | None = None) -> str:
    """A bar: what the process takes, what blocks add, the budget, and the measured peak."""
    whole = max(budget, base + blocks, measured or 0) or 1
    parts = [
        (base, "#8fa3b5", f"processes {format_bytes(base)}"),
        (blocks, "#3b7dd8", f"blocks {format_bytes(blocks)}"),
    ]
    inner = "".join(
        f'<div title="{text}" style="width:{100 * size / whole:.2f}%;background:{color};'
        'height:100%;float:left"></div>'
        for size, color, text in parts
    )
    marks = ""
    if measured:
        marks = (
            f'<div title="measured peak {format_bytes(measured)}" style="position:absolute;'
            f"left:{100 * measured / whole:.2f}%;top:-3px;bottom:-3px;width:3px;margin-left:-2px;"
            'background:#d1495b"></div>'
        )
    legend = " &nbsp; ".join(
        f'<span style="color:{color}">■</span> {text}' for _, color, text in parts
    )
    legend += f" &nbsp; <span style='color:#999'>□</span> budget {format_bytes(budget)}"
    if measured:
        legend += f" &nbsp; <span style='color:#d1495b'>▮</span> measured {format_bytes(measured)}"
    return (
        '<div style="position:relative;height:14px;background:#e8e8e8;max-width:640px;'
        f'margin:8px 0 4px">{inner}{marks}</div>'
        f'<div style="font-size:85%">{legend}</div>'
    )


def plan_body(data: dict[str, Any]) -> str:
    """Table, memory and summary of a plan (from `Plan.to_dict`) for a page."""
    blocks = data["predicted_memory"] - data["base"]
    return (
        html_table(*plan_rows(data))
        + memory_bar(data["base"], blocks, data["budget"])
        + f"<p>{escaped(plan_summary(data))}</p>"
    )


def plan_html(plan: Any) -> str:
    """A plan for Jupyter."""
    return f"<div><b>Plan of {escaped(plan.name)}</b>{plan_body(plan.to_dict())}</div>"


def plans_html(plans: Any) -> str:
    """Plans of several recordings for Jupyter: totals, and the largest in full."""
    unplanned = ""
    if plans.failed:
        rows = [[name, reason] for name, reason in plans.failed.items()]
        table = html_table(["recording", "reason"], rows[:ROWS_SHOWN])
        unplanned = f"<p><b>{len(rows)} cannot be planned</b></p>{table}"
    if not plans:
        return f"<div><b>No recording to plan</b>{unplanned}</div>"
    largest = max(plans, key=lambda plan: plan.predicted_memory)
    return (
        f"<div><b>Plan of {len(plans)} recordings</b>, {plans.n_blocks} blocks; "
        f"the largest is {escaped(largest.name)}:{plan_body(largest.to_dict())}"
        f"{unplanned}</div>"
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
    return f"<div><b>Pipeline</b>{table}</div>"


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """Parameters for people; a table given in memory would fill pages."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 200
    short.maxdict = short.maxlist = short.maxtuple = 12
    return ", ".join(f"{name}={short.repr(value)}" for name, value in parameters.items())
