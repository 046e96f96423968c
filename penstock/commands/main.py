"""The command line: ``penstock info | plan | run | extract | convert | demo``.

Exit codes: 0 all done, 1 some recordings failed (each is named with its reason) or the workers are
gone, 2 wrong usage, 3 all done, but more memory was taken than planned (the cause is named), 130
Ctrl-C, 143 SIGTERM, 129 SIGHUP: 128 and the number of the signal.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.commands import extract as extract  # (it adds its command)
from penstock.commands.options import (
    Files,
    Format,
    Memory,
    Naming,
    Precision,
    Scheduler,
    Where,
    Workers,
    app,
    client_at,
    end_with,
    say,
    show,
)
from penstock.commands.reading import chooses_images, reads_recordings
from penstock.commands.signals import Terminated, ending_signals
from penstock.local_paths import check_local
from penstock.messages import shown_text
from penstock.running.threads import left_behind
from penstock.running.workers.dask_logs import keep_dask_quiet

if TYPE_CHECKING:
    import xarray as xr

    from penstock.pipeline import Pipeline

PipelineFile = Annotated[Path, typer.Argument(metavar="PIPELINE.yaml", help="Pipeline file.")]
Allow = Annotated[
    list[str] | None,
    typer.Option(help="Module whose processors or functions the pipeline file may name."),
]


def main() -> None:
    """Run the command line; every error is one sentence and an exit code."""
    keep_dask_quiet()
    with warnings.catch_warnings(), ending_signals():
        warnings.simplefilter("default")
        warnings.showwarning = _show_warning
        try:
            # (in this mode typer.Exit is not raised: its code is returned; so is Ctrl-C, as 130)
            code = app(standalone_mode=False) or 0
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
    if issubclass(category, UserWarning | RuntimeWarning):
        say(f"warning: {text}")


def _pipeline(path: Path, allow: list[str] | None) -> Pipeline:
    from penstock.pipeline import Pipeline

    check_local(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such pipeline file")
    try:
        return Pipeline.from_yaml(path, allow=allow or [])
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file, so not a pipeline in YAML") from None


@app.command()
@reads_recordings
def info(files: Files, reading: dict[str, Any]) -> None:
    """Show what is in recordings, and what they would cost to read."""
    from penstock.io.finding import whole_recordings
    from penstock.running.sources import expand_paths

    paths = [path for file in files for path in expand_paths(file)]
    failed = sum(_show(path, reading) for path in whole_recordings(paths))
    raise typer.Exit(1 if failed else 0)


def _show(path: Path, reading: dict[str, Any], name: str | None = None) -> int:
    """Print what is in a recording, or in each of the datasets of a file; how many failed."""
    from penstock.io import open_dataset
    from penstock.io.arrays.arrays import SeveralDatasetsError
    from penstock.running.failures import one_sentence

    try:
        ds = open_dataset(path, **(reading if name is None else {**reading, "dataset": name}))
        show(("" if name is None else f"{shown_text(name)} of ") + describe(path, ds))
    except SeveralDatasetsError as error:
        return sum(_show(path, reading, each) for each in error.names)
    except (OSError, ValueError, TypeError) as error:
        text = one_sentence(error)
        say(text if path.name in text else f"{path}: {text}")
        return 1
    return 0


def describe(path: Path, ds: xr.Dataset) -> str:
    """What is in a recording, in a few lines."""
    from collections import Counter

    from penstock.attributes import provenance
    from penstock.dataset import SIGNAL, events_table, sampled_index
    from penstock.memory.accounting import format_bytes
    from penstock.storage.store import large_variables
    from penstock.voxels import UNITS

    size = path.stat().st_size if path.is_file() else None
    lines = [f"{path}" + (f" ({format_bytes(size)})" if size is not None else "")]
    about = provenance(ds)
    shown = [*large_variables(ds), *about.get("results", [])]
    for name in shown:
        array = ds[name]
        shape = " × ".join(f"{n} {dim}" for dim, n in zip(array.dims, array.shape, strict=True))
        text = f"{shape}, {array.dtype}"
        index = sampled_index(ds, str(array.dims[-1])) if array.dims else None
        if index is not None:
            rate = (
                f"TR {1 / index.frequency:.6g} s"
                if "x" in array.dims
                else f"{index.frequency:g} Hz"
            )
            text += f", {rate}, {index.size / index.frequency:.6g} s"
        if array.attrs.get("units") and name != SIGNAL:
            text += f", {array.attrs['units']}"
        lines.append(f"  {name:<9} {text}")
    if SIGNAL in ds:
        # (results take attributes of their source along, which are not about their own file)
        stored_as = None if about else ds.attrs.get("stored_as")
        lines += _describe_signal(ds[SIGNAL], ds[SIGNAL].encoding.get("stored_as", stored_as))
    if "affine" in ds.coords:
        from penstock.fmri.images.images import image_affine, voxel_sizes

        sizes = voxel_sizes(image_affine(ds))
        lines.append(f"  voxels    {' × '.join(f'{size:.4g}' for size in sizes)} mm")
    if note := ds.attrs.get("repetition_time_note"):
        lines.append(f"  TR        {note}")
    for dim, size_along in ds.sizes.items():
        if dim in ds.coords and ds[dim].attrs.get("units") == UNITS:
            continue  # (voxels that are counted)
        if dim in ds.coords and ds[dim].dtype.kind in "iuf" and dim not in ("time", "channel"):
            values, units = ds[dim].values, ds[dim].attrs.get("units", "")
            span = f"{values.min():.6g} to {values.max():.6g} {units}" if size_along else ""
            lines.append(f"  {dim!s:<9} {size_along} values, {span}".rstrip())
    if "channel" in ds.coords:
        names = [str(name) for name in ds["channel"].values]
        some = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        kinds = Counter(map(str, ds["channel_type"].values)) if "channel_type" in ds else {}
        text = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        lines.append(f"  channels  {some}" + (f" ({text})" if text else ""))
    if "bad" in ds.coords and bool(ds["bad"].any()):
        lines.append(f"  bad       {', '.join(map(str, ds['channel'].values[ds['bad'].values]))}")
    table = events_table(ds)
    if len(table):
        counts = Counter(table["label"])
        some = ", ".join(f"{n} × {label!r}" for label, n in counts.most_common(8))
        lines.append(f"  events    {some}{', ...' if len(counts) > 8 else ''}")
    for label, key in (("sidecars", "sidecars"), ("noted", "sidecar_notes")):
        if ds.attrs.get(key):
            first, *others = str(ds.attrs[key]).split("; ")
            lines += [f"  {label:<9} {first}", *(f"  {'':<9} {text}" for text in others)]
    if len(ds.attrs.get("left_out", ())):
        lines.append(f"  left out  {', '.join(ds.attrs['left_out'])} (not numbers)")
    lines += [f"  missing   {link}" for link in ds.attrs.get("broken_links", ())]
    lines += [f"  left out  {what}" for what in ds.attrs.get("unreadable", ())]
    if "measurement_date" in ds.attrs:
        lines.append(f"  measured  {ds.attrs['measurement_date']}")
    if about.get("n_failed"):
        lines.append(f"  failed    {about['n_failed']} positions")
    if about.get("pipeline"):
        steps = " → ".join(s["processor"].split(".")[-1] for s in about["pipeline"])
        lines.append(f"  made by   {steps}")
    return "\n".join(map(shown_text, lines))


def _describe_signal(signal: xr.DataArray, stored_as: str | None = None) -> list[str]:
    from penstock.memory.accounting import format_bytes
    from penstock.reading import reading_of

    text = f"  in memory {format_bytes(signal.size * signal.dtype.itemsize)} as {signal.dtype}"
    if stored_as:
        text += f" (stored as {stored_as})"
    reading = reading_of(signal)
    if reading.interleaved and "time" in signal.dims:
        if "x" in signal.dims:
            text += ", stored volume by volume: the series of one voxel costs reading all of it"
        elif "channel" in signal.dims:
            text += ", channels interleaved: reading one reads the file"
    if reading.sequential:
        text += (
            "; compressed, so it is read from front to back (penstock convert makes a .zarr of it)"
        )
    lines = [text]
    for label, key in (("quantity", "long_name"), ("units", "units")):
        if signal.attrs.get(key):
            lines.append(f"  {label:<9} {signal.attrs[key]}")
    return lines


@app.command()
@reads_recordings
@chooses_images
def plan(
    pipeline: PipelineFile,
    files: Files,
    memory: Memory = None,
    workers: Workers = None,
    format: Annotated[
        str,
        typer.Option(
            help="What would be written: zarr, edf, fif, nifti, nii, parquet, csv or tsv."
        ),
    ] = "zarr",
    dtype: Precision = None,
    executor: Where = None,
    scheduler: Scheduler = None,
    quiet: Annotated[bool, typer.Option(help="No progress.")] = False,
    allow: Allow = None,
    name: Naming = None,
    *,
    reading: dict[str, Any],
    select: dict[str, str],
) -> None:
    """Show blocks, concurrency and predicted peak memory; nothing is computed."""
    from penstock.planning.plan import Plans
    from penstock.running.report import LINES_SHOWN

    with client_at(scheduler) as client:
        plans = _pipeline(pipeline, allow).plan(
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
    failed = plans.failed if isinstance(plans, Plans) else {}
    for recording, reason in itertools.islice(failed.items(), LINES_SHOWN):
        say(reason if recording in reason else f"{recording}: {reason}")
    if len(failed) > LINES_SHOWN:
        say(f"and {len(failed) - LINES_SHOWN} more cannot be planned")
    if plans != ():
        show(plans)
    raise typer.Exit(1 if failed else 0)


def _one(files: list[str]) -> Any:
    return files[0] if len(files) == 1 else files


@app.command()
@reads_recordings
@chooses_images
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
    quiet: Annotated[bool, typer.Option(help="No progress.")] = False,
    allow: Allow = None,
    name: Naming = None,
    *,
    reading: dict[str, Any],
    select: dict[str, str],
) -> None:
    """Process recordings into a folder; the same command goes on after an interruption."""
    with client_at(scheduler) as client:
        report = _pipeline(pipeline, allow).run(
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
    end_with(report)


@app.command()
@reads_recordings
def convert(
    source: Annotated[str, typer.Argument(help="Recording or image.")],
    target: Annotated[Path, typer.Argument(help="New file: .zarr, .nii.gz, .edf, .fif, ...")],
    memory: Memory = None,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a target that is there.")] = False,
    dtype: Precision = None,
    quiet: Annotated[bool, typer.Option(help="No progress.")] = False,
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
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        import penstock

        print(f"penstock {penstock.__version__}")
        raise typer.Exit
