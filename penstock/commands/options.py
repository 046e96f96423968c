"""What the commands share: the program itself, options, and how they begin and end."""

from __future__ import annotations

import contextlib
import functools
import inspect
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from penstock.messages import folded, shown_text
from penstock.plain_values import to_json

if TYPE_CHECKING:
    from penstock.running.report import Report

_ORDER = ("info", "plan", "run", "extract", "convert", "demo")


class _InOrder(typer.core.TyperGroup):
    """Commands in the order in which they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    cls=_InOrder,
    help="Recordings larger than memory, through pipelines, inside a memory budget.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def completed(*values: str) -> Callable[[str], list[str]]:
    """What a shell offers where one of a few values is typed."""

    def offered(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return offered


FORMATS = completed("zarr", "edf", "fif", "nifti", "nii", "parquet", "csv", "tsv")

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
    str,
    typer.Option(
        help="Of the results: zarr, edf, fif, nifti, nii, parquet, csv or tsv.",
        autocompletion=FORMATS,
    ),
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
        "--dtype",
        help="Precision: float32 or float64 (default: what holds the values exactly).",
        autocompletion=completed("float32", "float64"),
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--executor",
        help="threads or processes (default: what the pipeline needs).",
        autocompletion=completed("threads", "processes"),
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Address of a Dask scheduler to run on, e.g. tcp://127.0.0.1:8786."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]


OVERRUN_CODE = 3
"""Exit code of a run that did everything, but took more memory than was planned."""


def say(text: str) -> None:
    """Tell people something, on standard error."""
    print(f"penstock: {shown_text(text, lines=True)}", file=sys.stderr)


def show(text: object) -> None:
    """Print what was asked for, on standard output; long lines are folded where that is a terminal.

    In files and pipes every line stays as it is.
    """
    told = shown_text(text, lines=True)
    if sys.stdout.isatty():
        told = folded(told, shutil.get_terminal_size().columns)
    print(told, flush=True)


def show_json(values: Any) -> None:
    """Print plain values as one JSON document, on standard output."""
    print(to_json(values), flush=True)


def with_options(
    command: Callable[..., Any], taken: Callable[..., Any], into: str
) -> Callable[..., Any]:
    """Give a command the options of a function, whose result it gets as a keyword argument."""
    own = inspect.signature(command, eval_str=True)
    shared = inspect.signature(taken, eval_str=True)

    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        theirs = {name: given.pop(name) for name in shared.parameters}
        return command(**given, **{into: taken(**theirs)})

    parameters = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for one in (*own.parameters.values(), *shared.parameters.values())
        if one.name != into
    ]
    wrapped.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in parameters}
    return wrapped


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
