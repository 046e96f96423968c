"""The command line: ``penstock info | plan | run | extract | convert | demo``.

Exit codes: 0 all done, 1 some recordings failed (each is named with its reason) or the workers are
gone, 2 wrong usage, 3 all done, but more memory was taken than planned (the cause is named), 130
Ctrl-C, 143 SIGTERM, 129 SIGHUP: 128 and the number of the signal.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.commands import extract as extract  # (it adds its command)
from penstock.commands.allowed import pipeline_of
from penstock.commands.logs import tells_what_it_does
from penstock.commands.options import (
    AsJson,
    Files,
    Format,
    Memory,
    Naming,
    Precision,
    Quiet,
    Scheduler,
    Where,
    Workers,
    app,
    client_at,
    end_with,
    say,
    show,
    show_json,
)
from penstock.commands.reading import chooses_images, reads_recordings
from penstock.commands.signals import Terminated, ending_signals
from penstock.messages import shown_text
from penstock.running.threads import left_behind
from penstock.running.workers.dask_logs import keep_dask_quiet

if TYPE_CHECKING:
    import xarray as xr

LOGGER = logging.getLogger("penstock")

PipelineFile = Annotated[Path, typer.Argument(metavar="PIPELINE.yaml", help="Pipeline file.")]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        help="Module whose processors or functions the pipeline file may name (repeat); it may "
        "lie beside that file."
    ),
]


def main() -> None:
    """Run the command line; every error is one sentence and an exit code."""
    keep_dask_quiet()
    with warnings.catch_warnings(), ending_signals():
        warnings.simplefilter("default")
        warnings.showwarning = _show_warning
        try:
            # (in this mode typer.Exit is not raised: its code is returned; so is Ctrl-C, as 130)
            code = app(prog_name="penstock", standalone_mode=False) or 0
            if code == 130:
                raise KeyboardInterrupt
            _exit(code)
        except (typer.Abort, KeyboardInterrupt):
            _stopped(130)
        except Terminated as signal:
            _stopped(int(signal.code or 0))
        except Exception as error:
            _fail(error)


def _stopped(code: int) -> None:
    with contextlib.suppress(OSError):  # (the terminal may be what has gone)
        say("stopped; run the same command again to go on where it stopped")
    _exit(code)


def _exit(code: int) -> None:
    """End; at once where threads are left behind, which nothing else can end."""
    if left_behind():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _fail(error: Exception) -> None:
    # (typer carries its own copy of click: its usage errors are known by what they can do)
    if hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
            print(context.get_help())
            sys.exit(0)
        path = context.command_path if context is not None else "penstock"
        say(f"{error.format_message()} (try '{path} --help')")
        sys.exit(2)
    from penstock.running.failures import RunStopped, one_sentence

    if isinstance(error, RunStopped):
        say(one_sentence(error))
        _exit(1)
    if isinstance(error, OSError | ValueError | TypeError | ImportError):
        say(one_sentence(error))
        _exit(2)
    if os.environ.get("PENSTOCK_TRACEBACK"):
        raise error
    say(
        f"an error that was not foreseen, {type(error).__name__}: {one_sentence(error)} (with "
        "PENSTOCK_TRACEBACK=1 in the environment the same command shows where)"
    )
    _exit(2)


def _show_warning(message: Any, category: Any, *rest: Any, **more: Any) -> None:
    text = " ".join(str(message).split())
    if category.__name__ == "OverrunWarning":
        return  # (what the command says at its end has it)
    LOGGER.debug("%s: %s", category.__name__, text)
    if issubclass(category, UserWarning | RuntimeWarning):
        say(f"warning: {text}")


@app.command()
@reads_recordings
def info(files: Files, json: AsJson = False, *, reading: dict[str, Any]) -> None:
    """Show what is in recordings, and what they would cost to read."""
    from penstock import __version__
    from penstock.commands.contents import describe, facts
    from penstock.io.finding import whole_recordings
    from penstock.running.sources import expand_paths

    found: list[dict[str, Any]] = []
    failed: dict[str, str] = {}

    def tell(path: Path, ds: xr.Dataset, dataset: str | None) -> None:
        if json:
            found.append(facts(path, ds) | ({} if dataset is None else {"dataset": dataset}))
        else:
            show((f"{shown_text(dataset)} of " if dataset else "") + describe(path, ds))

    for path in whole_recordings([path for file in files for path in expand_paths(file)]):
        _tell(path, reading, tell, failed)
    if json:
        show_json({"penstock": __version__, "recordings": found, "failed": failed})
    raise typer.Exit(1 if failed else 0)


def _tell(
    path: Path,
    reading: dict[str, Any],
    tell: Callable[[Path, xr.Dataset, str | None], None],
    failed: dict[str, str],
    dataset: str | None = None,
) -> None:
    """Tell what is in a recording, or in each of the datasets of a file, and what fails."""
    from penstock.io import open_dataset
    from penstock.io.arrays.arrays import SeveralDatasetsError
    from penstock.running.failures import one_sentence

    options = reading if dataset is None else {**reading, "dataset": dataset}
    try:
        tell(path, open_dataset(path, **options), dataset)
    except SeveralDatasetsError as error:
        for each in error.names:
            _tell(path, reading, tell, failed, each)
    except (OSError, ValueError, TypeError) as error:
        text = one_sentence(error)
        failed[str(path) if dataset is None else f"{dataset} of {path}"] = text
        say(text if path.name in text else f"{path}: {text}")


@app.command()
@reads_recordings
@chooses_images
def plan(
    pipeline: PipelineFile,
    files: Files,
    memory: Memory = None,
    workers: Workers = None,
    format: Format = "zarr",
    dtype: Precision = None,
    executor: Where = None,
    scheduler: Scheduler = None,
    quiet: Quiet = False,
    json: AsJson = False,
    allow: Allow = None,
    name: Naming = None,
    *,
    reading: dict[str, Any],
    select: dict[str, str],
) -> None:
    """Show blocks, concurrency and predicted peak memory; nothing is computed."""
    from penstock.planning.plan import Plan, Plans
    from penstock.running.report import LINES_SHOWN

    with client_at(scheduler) as client:
        plans = pipeline_of(pipeline, allow).plan(
            _one(files),
            memory=memory,
            workers=workers,
            format=format,
            dtype=dtype,
            executor=executor,
            client=client,
            open_options=reading,
            name=name,
            select=select,
            progress=False if quiet else None,
            skip_failed=True,
        )
    if isinstance(plans, Plan) and not json:
        show(plans)
        raise typer.Exit(0)
    if isinstance(plans, Plan):
        plans = Plans.within(None, [plans])
    for recording, reason in itertools.islice(plans.failed.items(), LINES_SHOWN):
        say(reason if recording in reason else f"{recording}: {reason}")
    if len(plans.failed) > LINES_SHOWN:
        say(f"and {len(plans.failed) - LINES_SHOWN} more cannot be planned")
    if json:
        show_json(plans.to_dict())
    elif plans:
        show(plans)
    raise typer.Exit(1 if plans.failed else 0)


def _one(files: list[str]) -> Any:
    return files[0] if len(files) == 1 else files


@app.command()
@reads_recordings
@chooses_images
@tells_what_it_does
def run(
    pipeline: PipelineFile,
    files: Files,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    memory: Memory = None,
    workers: Workers = None,
    format: Format = "zarr",
    overwrite: Annotated[bool, typer.Option(help="Replace results that are there.")] = False,
    dtype: Precision = None,
    executor: Where = None,
    scheduler: Scheduler = None,
    quiet: Quiet = False,
    allow: Allow = None,
    name: Naming = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Show spectra before and after in the report (EEG).")
    ] = False,
    *,
    reading: dict[str, Any],
    select: dict[str, str],
) -> None:
    """Process recordings into a folder; the same command goes on after an interruption."""
    if pictures:  # (what is missing is told before the work)
        from penstock.plots.quantities import require_matplotlib

        require_matplotlib()
    with client_at(scheduler) as client:
        report = pipeline_of(pipeline, allow).run(
            _one(files),
            out,
            memory=memory,
            workers=workers,
            format=format,
            overwrite=overwrite,
            dtype=dtype,
            executor=executor,
            client=client,
            progress=False if quiet else None,
            open_options=reading,
            name=name,
            select=select,
        )
    if pictures:
        from penstock.eeg import add_pictures

        add_pictures(report)
    end_with(report)


@app.command()
@reads_recordings
@tells_what_it_does
def convert(
    source: Annotated[str, typer.Argument(help="Recording or image.")],
    target: Annotated[Path, typer.Argument(help="New file: .zarr, .nii.gz, .edf, .fif, ...")],
    memory: Memory = None,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a target that is there.")] = False,
    dtype: Precision = None,
    quiet: Quiet = False,
    *,
    reading: dict[str, Any],
) -> None:
    """Write a recording or image in another format, once; a .zarr is then read by region."""
    from penstock.formats import named_target, target_format
    from penstock.pipeline import Pipeline

    wanted = target_format(target)
    name, folder = named_target(target, wanted)
    report = Pipeline().run(
        {name: source},
        folder,
        memory=memory,
        workers=workers,
        format=wanted.name,
        overwrite=overwrite,
        dtype=dtype,
        progress=False if quiet else None,
        open_options=reading,
    )
    end_with(report)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to work in.")] = Path(
        "penstock-demo"
    ),
    memory: Annotated[str, typer.Option("--memory", "-m", help="Budget.")] = "400MiB",
    workers: Workers = None,
    seconds: Annotated[float, typer.Option(help="Length of the simulated recording [s].")] = 120.0,
) -> None:
    """Simulate EEG inside a scanner, remove the artifact within a budget, and show it."""
    from penstock.commands.demo import run_demo

    raise typer.Exit(run_demo(out, memory, workers, seconds))


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", "-V", help="Show the version.")] = False,
    versions: Annotated[
        bool,
        typer.Option("--versions", help="Show the versions of all that is used, and the machine."),
    ] = False,
) -> None:
    if version:
        from penstock import __version__

        print(f"penstock {__version__}")
        raise typer.Exit
    if versions:
        from penstock.versions import show_versions

        show_versions()
        raise typer.Exit
