"""The report of a run: for people as text and as a page, for programs as JSON."""

from __future__ import annotations

import base64
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock import __version__, events
from penstock.memory.accounting import format_bytes
from penstock.messages import shown_text
from penstock.pages import escaped, facts, fold, html_table, memory_bar, page, piece, time_bars
from penstock.plain_values import to_json
from penstock.planning.budget import peak_together
from penstock.planning.shown import ROWS_SHOWN, parameters_text, plan_of_several
from penstock.running.progress import duration
from penstock.storage.ledger import REPORT_NAME as REPORT_NAME
from penstock.versions import environment

if TYPE_CHECKING:
    from penstock.memory.overruns import Overrun, Overruns
    from penstock.planning.budget import Resources

LINES_SHOWN = 20
"""So many failures, and notes, are told where a report is printed; its files hold all of them."""


@dataclass
class Report:
    """What a run did: predicted and measured memory, times, failures. Shown as HTML in Jupyter.

    Attributes
    ----------
    outputs : dict
        Result by recording name.
    skipped : list of str
        Recordings whose results were there already.
    failed : dict
        Reason by recording name.
    predicted_memory, peak_memory : int
        Of all processes together, at one moment [bytes]: what this run took, not what the processes
        took before. Processes of other machines count with their own peaks. Two runs at once in
        one process share it.
    process_peaks : dict
        Highest memory of each process that computed blocks, in this run [bytes].
    overruns : list of Overrun
        What took more memory than planned, and what to do; empty where all stayed within its plan.
    seconds : float
        Wall time of the run.
    """

    pipeline: list[dict[str, Any]]
    out: str
    limits: Resources
    kind: str
    outputs: dict[str, Path] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    errors: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each recording that failed: type of the exception, traceback, stage and block."""
    notes: dict[str, str] = field(default_factory=dict)
    retries: list[dict[str, Any]] = field(default_factory=list)
    """The first `RETRIES_KEPT` of them."""
    n_retries: int = 0
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    step_seconds: dict[str, float] = field(default_factory=dict)
    process_peaks: dict[str, int] = field(default_factory=dict)
    overruns: list[Overrun] = field(default_factory=list)
    predicted_memory: int = 0
    peak_memory: int = 0
    seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    blocks: int = 0
    interrupted: bool = False
    figures: dict[str, bytes] = field(default_factory=dict)
    """Pictures of results by their titles, as PNG: shown in the HTML page."""
    _largest_task: int = 0
    _planned_blocks: int = 0
    name: str = REPORT_NAME
    """Of its files."""
    started: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    environment: dict[str, Any] = field(default_factory=environment)
    """Versions, and the machine that leads the run."""

    RETRIES_KEPT = 1000
    """Retries kept in full; the others are counted."""
    TRACEBACKS_KEPT = 100
    """Tracebacks kept: where thousands fail, they fail alike."""
    PLANS_KEPT = 100
    """Plans kept in full; of a cohort of thousands the largest and the first say enough."""

    @property
    def ok(self) -> bool:
        """Whether every recording is done."""
        return not self.failed and not self.interrupted

    # ------------------------------------------------------------------ collecting

    def listen(self, event: events.Event) -> None:
        """Take note of an event of the run."""
        if isinstance(event, events.RecordingPlanned):
            self.predicted_memory = max(self.predicted_memory, event.plan["predicted_memory"])
            if len(self.plans) < self.PLANS_KEPT:
                self.plans[event.name] = event.plan
            if event.note:
                self.notes[event.name] = event.note
            task_bytes = event.plan["task_bytes"] + event.plan["resident"]
            self._largest_task = max(self._largest_task, task_bytes)
            self._planned_blocks += sum(stage["blocks"] for stage in event.plan["stages"])
            if len(self.plans) > 1:
                together = peak_together(self.limits, self._planned_blocks, self._largest_task)
                self.predicted_memory = max(self.predicted_memory, together)
        elif isinstance(event, events.BlockFinished):
            self.blocks += 1
            self.bytes_in += event.bytes_in
            self.bytes_out += event.bytes_out
            for name, seconds in event.seconds.items():
                self.step_seconds[name] = self.step_seconds.get(name, 0.0) + seconds
            known = self.process_peaks.get(event.process, 0)
            self.process_peaks[event.process] = max(known, event.peak)
        elif isinstance(event, events.BlockRetried):
            self.n_retries += 1
            if len(self.retries) < self.RETRIES_KEPT:
                tried = {"name": event.name, "block": event.block, "reason": event.reason}
                self.retries.append(tried)
        elif isinstance(event, events.RecordingFinished):
            self.outputs[event.name] = Path(event.target)
            if event.note:
                earlier = self.notes.get(event.name)
                self.notes[event.name] = f"{earlier}; {event.note}" if earlier else event.note
            if event.skipped:
                self.skipped.append(event.name)
        elif isinstance(event, events.RecordingFailed):
            self.failed[event.name] = event.reason
            self.errors[event.name] = {
                "reason": event.reason,
                "type": event.error,
                "stage": event.stage,
                "block": event.block,
                "traceback": event.traceback if len(self.errors) < self.TRACEBACKS_KEPT else "",
            }
        elif isinstance(event, events.RunFinished):
            self.seconds = event.seconds
            self.interrupted = event.interrupted

    def finish(self, peak: int, overruns: Overruns) -> list[Overrun]:
        """Take note of the measured peak, and of what took more than planned."""
        self.peak_memory = peak
        if self.blocks:
            overruns.finish(peak, self.predicted_memory)
        self.overruns = list(overruns.found)
        return self.overruns

    # ------------------------------------------------------------------ telling

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, as it stands in the JSON file."""
        return {
            "penstock": __version__,
            "environment": self.environment,
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "interrupted": self.interrupted,
            "out": self.out,
            "executor": self.kind,
            "workers": self.limits.workers,
            "memory": {
                "budget": self.limits.budget,
                "predicted_peak": self.predicted_memory,
                "measured_peak": self.peak_memory,
                "processes": self.process_peaks,
                "overruns": [overrun.to_dict() for overrun in self.overruns],
            },
            "blocks": self.blocks,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "seconds_by_step": {name: round(s, 4) for name, s in self.step_seconds.items()},
            "outputs": {name: str(path) for name, path in self.outputs.items()},
            "skipped": self.skipped,
            "failed": self.failed,
            "errors": self.errors,
            "n_retries": self.n_retries,
            "retries": self.retries,
            "notes": self.notes,
            "pipeline": self.pipeline,
            "plans": self.plans,
        }

    @property
    def path(self) -> Path:
        """Of the HTML page."""
        return Path(self.out) / f"{self.name}.html"

    def save(self) -> None:
        """Write the report beside the results, as JSON and as one self-contained HTML page.

        Where everything was there already, the report of the run that made it stays.
        """
        nothing_new = self.outputs and len(self.skipped) == len(self.outputs) and not self.failed
        if nothing_new and self.path.exists():
            return
        pages = {".json": to_json(self.to_dict()), ".html": self.page()}
        for suffix, text in pages.items():
            path = self.path.with_suffix(suffix)
            # (a new file: what somebody put there under its name, such as a link, is not written)
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
            try:
                with open(temporary, "x", encoding="utf-8") as file:
                    file.write(text)
                os.replace(temporary, path)
            except OSError:  # a full disk must not hide the run's own outcome
                temporary.unlink(missing_ok=True)

    def failures(self) -> list[str]:
        """Names and reasons of what failed; a reason that several share stands once."""
        return _by_text(self.failed)

    def told_failures(self) -> list[str]:
        """The same, as many as people read; the others are in the report's files."""
        return self._few(self.failures())

    def _few(self, lines: list[str]) -> list[str]:
        if len(lines) <= LINES_SHOWN:
            return lines
        where = self.path.with_suffix(".json").name
        return [*lines[:LINES_SHOWN], f"and {len(lines) - LINES_SHOWN} more: see {where}"]

    def summary(self) -> str:
        """What was done, how fast, in how much memory, and what is to be noted."""
        made = len(self.outputs) - len(self.skipped)
        lines = [
            f"{made} done, {len(self.skipped)} there already, {len(self.failed)} failed, "
            f"in {self.seconds:.1f} s"
        ]
        if self.blocks:
            rate = self.bytes_in / max(1e-9, self.seconds)
            lines.append(
                f"{_counted(self.blocks)}, {format_bytes(self.bytes_in)} read at "
                f"{format_bytes(rate)}/s, {format_bytes(self.bytes_out)} produced"
            )
        lines.append(
            f"memory: peak {format_bytes(self.peak_memory)}, "
            f"predicted {format_bytes(self.predicted_memory)}, "
            f"budget {format_bytes(self.limits.budget)}"
        )
        lines += [shown_text(f"warning: {overrun}") for overrun in self.overruns]
        if self.n_retries:
            lines.append(f"{self.n_retries} blocks were tried again")
        lines += self._few(_by_text(self.notes))
        return "\n".join(lines)

    def __str__(self) -> str:
        return "\n".join([self.summary(), *(f"FAILED {line}" for line in self.told_failures())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return piece(self._body())

    def _body(self) -> str:
        parts = [f"<p><b>{escaped(self.summary().splitlines()[0])}</b></p>", self._facts()]
        if self.interrupted:
            parts.append("<p class='alarm'>The run was interrupted: the same call goes on.</p>")
        if self.failed:
            parts += ["<h3 class='alarm'>Failed</h3>", self._failures()]
        parts += ["<h3>Memory</h3>", self._memory()]
        if self.step_seconds:
            heading = "<h3>Time by step (all workers added up)</h3>"
            parts += [heading, time_bars(self.step_seconds)]
        skipped = set(self.skipped)
        outputs = [
            [name, str(path), "was there" if name in skipped else self.notes.get(name, "")]
            for name, path in self.outputs.items()
        ]
        if outputs:
            noted = any(row[-1] for row in outputs)
            header, rows = ["recording", "result", "note"], outputs
            if not noted:
                header, rows = header[:2], [row[:2] for row in rows]
            parts += ["<h3>Results</h3>", self._table(header, rows)]
        for title, picture in self.figures.items():
            source = base64.b64encode(picture).decode()
            parts.append(
                f"<h3>{escaped(title)}</h3>"
                f"<img alt='{escaped(title)}' src='data:image/png;base64,{source}'>"
            )
        steps = [
            [s["processor"].split(".")[-1], parameters_text(s["parameters"])] for s in self.pipeline
        ]
        parts += ["<h3>Pipeline</h3>", html_table(["processor", "parameters"], steps)]
        if self.plans:
            name, plan = max(self.plans.items(), key=lambda item: item[1]["predicted_memory"])
            n = len(self.plans)
            more = f" (largest of {n})" if n > 1 else ""
            parts += [f"<h3>Plan of {escaped(name)}{more}</h3>", plan_of_several(plan, n)]
        parts += ["<h3>Environment</h3>", facts(_told_environment(self.environment))]
        return "".join(parts)

    def _facts(self) -> str:
        """The run in numbers."""
        seconds = self.seconds
        told = {"wall time": f"{seconds:.1f} s" if seconds < 60 else duration(seconds)}
        told["measured peak"] = format_bytes(self.peak_memory)
        if self.predicted_memory:  # (nothing was planned where opening failed)
            told["predicted peak"] = format_bytes(self.predicted_memory)
        told["budget"] = format_bytes(self.limits.budget)
        told["workers"] = f"{self.limits.workers} ({self.kind})"
        if self.blocks:
            rate = self.bytes_in / max(1e-9, self.seconds)
            told["read"] = f"{format_bytes(self.bytes_in)}, {format_bytes(rate)}/s"
            told["produced"] = format_bytes(self.bytes_out)
            told["blocks"] = str(self.blocks)
        if self.n_retries:
            told["tried again"] = str(self.n_retries)
        return facts(told)

    def _failures(self) -> str:
        """What failed and why; where it was raised is behind a fold."""
        rows = [[name, reason] for name, reason in self.failed.items()]
        raised = {name: error for name, error in self.errors.items() if error["traceback"]}
        folds = [
            fold(f"{error['type']} in {name}{_place(error)}", error["traceback"])
            for name, error in list(raised.items())[:LINES_SHOWN]
        ]
        return self._table(["recording", "reason"], rows) + "".join(folds)

    def _memory(self) -> str:
        base = self.limits.base
        blocks = max(0, self.predicted_memory - base)
        told = memory_bar(base, blocks, self.limits.budget, self.peak_memory)
        if self.overruns:
            lines = "".join(f"<p>{escaped(str(overrun))}</p>" for overrun in self.overruns)
            told += f"<p class='alarm'>Warning: more memory than planned</p>{lines}"
        if len(self.process_peaks) > 1:
            rows = [[name, format_bytes(peak)] for name, peak in self.process_peaks.items()]
            told += self._table(["process", "measured peak"], rows)
        return told

    def _table(self, header: list[str], rows: list[list[str]]) -> str:
        """A table of as many rows as a page holds well."""
        more = ""
        if len(rows) > ROWS_SHOWN:
            where = escaped(self.path.with_suffix(".json").name)
            more = f"<p>and {len(rows) - ROWS_SHOWN} more: see {where}</p>"
        return html_table(header, rows[:ROWS_SHOWN]) + more

    def page(self) -> str:
        """The report as one self-contained HTML page."""
        about = f"<p>{escaped(self.started)} · {escaped(self.out)}</p>"
        return page("Penstock report", f"<h1>Penstock report</h1>{about}{self._repr_html_()}")


def _place(error: Mapping[str, Any]) -> str:
    """Where in a recording something failed."""
    if error["block"] is None:
        return ""
    return f", block {error['block']} of stage {(error['stage'] or 0) + 1}"


def _told_environment(found: Mapping[str, Any]) -> dict[str, str]:
    """Versions and the machine, for people."""
    libraries = ("numpy", "dask", "xarray", "zarr")
    versions = {name: found["dependencies"].get(name) for name in libraries}
    return {
        "Penstock": str(found["penstock"]),
        "Python": str(found["python"]),
        **{name: version for name, version in versions.items() if version},
        "of memory": format_bytes(found["memory"]),
        "cores": str(found["cores"]),
        "system": str(found["platform"]),
    }


def _counted(blocks: int) -> str:
    return "1 block" if blocks == 1 else f"{blocks} blocks"


def _by_text(texts: Mapping[str, str]) -> list[str]:
    """Names with what is said of them; what is said of several stands once."""
    names: dict[str, list[str]] = {}
    for name, text in texts.items():
        names.setdefault(text, []).append(name)
    lines = []
    for text, told in names.items():
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        lines.append(shown_text(f"{', '.join(told[:3])}{more}: {text}"))
    return lines
