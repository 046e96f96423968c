"""What the commands share: the program itself, options, and how they begin and end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.messages import shown_text

if TYPE_CHECKING:
    from penstock.running.report import Report

app = typer.Typer(
    help="Recordings larger than memory, through pipelines, inside a memory budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Files = Annotated[
    list[str], typer.Argument(metavar="FILE...", help="Recordings, patterns or folders.")
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", "-m", help="Budget of all processes together, e.g. 1GiB."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", "-j", help="Blocks at work at once (default: cores).")
]
Format = Annotated[
    str, typer.Option(help="Of the results: zarr, edf, fif, nifti, nii, parquet, csv or tsv.")
]
Naming = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="What results are called: text with {name}, {folder}, {folders}, {number}, or "
        "entities of BIDS names such as {sub} and {task} (default: {name}, below folders like "
        "those of the recordings where two have one name).",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="Precision: float32 or float64 (default: what holds the values exactly)."
    ),
]
Where = Annotated[
    str | None,
    typer.Option("--executor", help="threads or processes (default: what the pipeline needs)."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Address of a Dask scheduler to run on, e.g. tcp://127.0.0.1:8786."),
]


OVERRUN_CODE = 3
"""Exit code of a run that did everything, but took more memory than was planned."""


def say(text: str) -> None:
    """Tell people something, on standard error."""
    print(f"penstock: {shown_text(text, lines=True)}", file=sys.stderr)


def show(text: object) -> None:
    """Print what was asked for, on standard output."""
    print(shown_text(text, lines=True), flush=True)


@contextlib.contextmanager
def client_at(scheduler: str | None) -> Iterator[Any]:
    """A client of the Dask scheduler at an address; None without one."""
    if scheduler is None:
        yield None
        return
    from distributed import Client

    from penstock.running.workers.dask_logs import quiet_dask

    with quiet_dask():
        try:
            client = Client(scheduler, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise OSError(f"no Dask scheduler answers at {scheduler} ({error})") from None
        with client:
            yield client


def end_with(report: Report) -> None:
    """Say what a run did, and where its report is; exit with its code."""
    show(report.summary())
    for line in report.told_failures():
        say(line)
    show(f"report: {report.path}")
    raise typer.Exit(1 if not report.ok else OVERRUN_CODE if report.overruns else 0)
