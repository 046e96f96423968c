"""``penstock extract``: region signals of images, from the command line."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.commands.logs import tells_what_it_does
from penstock.commands.options import (
    Memory,
    Naming,
    Quiet,
    Scheduler,
    Workers,
    app,
    client_at,
    end_with,
)
from penstock.commands.reading import chooses_images
from penstock.local_paths import local_path
from penstock.memory.accounting import MIB, process_now

FIGURES_KEPT = 3
"""Results of which the report shows pictures."""
FIGURE_BYTES = 256 * MIB
"""What drawing takes, its libraries included: below that the report stays without pictures."""
TABLES_AND_STORES = ("parquet", "csv", "tsv", "zarr")


@app.command()
@chooses_images
@tells_what_it_does
def extract(
    files: Annotated[
        list[str],
        typer.Argument(metavar="BOLD...", help="Images, patterns, or folders (BIDS derivatives)."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Table or store (.parquet, .csv, .tsv, .zarr), or a folder."
        ),
    ],
    labels: Annotated[
        list[str] | None, typer.Option(help="Atlas of labels; several are read in one pass.")
    ] = None,
    maps: Annotated[list[str] | None, typer.Option(help="4-D image of weight maps.")] = None,
    mask: Annotated[list[str] | None, typer.Option(help="Mask: a signal for every voxel.")] = None,
    seeds: Annotated[
        list[str] | None, typer.Option(help="Centre of a sphere in mm: x,y,z (repeat).")
    ] = None,
    radius: Annotated[float | None, typer.Option(help="Radius of the spheres [mm].")] = None,
    names: Annotated[
        str | None,
        typer.Option(
            help="Names of the labels: a table with the columns index and name (BIDS dseg.tsv), a "
            "colour table (FreeSurfer, FSLeyes, ITK-SNAP), or an atlas of FSL (.xml)."
        ),
    ] = None,
    within: Annotated[
        str | None, typer.Option(help="Mask inside of which labels, maps and spheres lie.")
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="What of a label's voxels: mean, median, sum, minimum, ...")
    ] = "mean",
    smoothing: Annotated[float | None, typer.Option(help="Smooth first: FWHM [mm].")] = None,
    confounds: Annotated[
        list[str] | None,
        typer.Option(
            help="Table to remove (repeat for several); 'auto': that of fMRIPrep beside each "
            "image; {name} stands for the name of the image."
        ),
    ] = None,
    confound_columns: Annotated[
        str | None, typer.Option(help="Columns of it, with patterns: trans_*,rot_*,csf.")
    ] = None,
    confound_strategy: Annotated[
        str | None,
        typer.Option(
            help="Instead of columns, what fMRIPrep's confounds are about: motion, wm_csf, "
            "global_signal, high_pass, compcor, ica_aroma, scrub; motion=basic and the like."
        ),
    ] = None,
    fd_threshold: Annotated[
        float | None, typer.Option(help="Displacement above which scrub leaves volumes out [mm].")
    ] = None,
    std_dvars_threshold: Annotated[
        float | None, typer.Option(help="Standardized DVARS above which scrub leaves them out.")
    ] = None,
    n_compcor: Annotated[
        int | None, typer.Option(help="Components of CompCor of each mask.")
    ] = None,
    sample_mask: Annotated[
        str | None,
        typer.Option(help="Volumes to keep: 4: leaves out the first four; or a list, 0,1,5."),
    ] = None,
    filter: Annotated[
        str, typer.Option(help="Kind of the filter: butterworth, or cosine (high-pass only).")
    ] = "butterworth",
    keep_masked_labels: Annotated[
        bool, typer.Option(help="Labels outside of the mask stay, as columns of NaN.")
    ] = False,
    keep_empty_spheres: Annotated[
        bool, typer.Option(help="Spheres without a voxel stay, as columns of NaN.")
    ] = False,
    min_coverage: Annotated[
        float, typer.Option(help="Share of a label that --within must cover, from 0 to 1.")
    ] = 0.0,
    detrend: Annotated[bool, typer.Option(help="Remove the linear trend.")] = False,
    standardize: Annotated[
        str | None, typer.Option(help="zscore_sample or psc (percent of the mean).")
    ] = None,
    low_pass: Annotated[float | None, typer.Option(help="Upper cut-off [Hz].")] = None,
    high_pass: Annotated[float | None, typer.Option(help="Lower cut-off [Hz].")] = None,
    t_r: Annotated[
        float | None,
        typer.Option(help="Repetition time [s] (default: the sidecar's or the header's)."),
    ] = None,
    nan_policy: Annotated[
        str, typer.Option(help="Voxels that are not numbers: omit, zero or propagate.")
    ] = "omit",
    format: Annotated[
        str | None, typer.Option(help="For a folder: parquet, csv, tsv or zarr.")
    ] = None,
    memory: Memory = None,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option(help="Replace results that are there.")] = False,
    scheduler: Scheduler = None,
    quiet: Quiet = False,
    name: Naming = None,
    *,
    select: dict[str, str],
) -> None:
    """Extract and clean region signals: one pass over each image, within a memory budget."""
    from penstock.fmri import (
        CleanSignals,
        ExtractLabels,
        ExtractMaps,
        ExtractSpheres,
        ExtractTogether,
        ExtractVoxels,
        SmoothVolumes,
    )
    from penstock.pipeline import Pipeline
    from penstock.running.sources import resolve_sources

    # (workers of a cluster may be at home in another folder)
    labels, maps, mask = (_absolute(paths) for paths in (labels, maps, mask))
    names, within = (path and local_path(path) for path in (names, within))
    confounds = [c if c == "auto" or "{name}" in c else local_path(c) for c in confounds or ()]
    policy: dict[str, Any] = {"nan_policy": nan_policy}
    parts: list[Any] = [
        ExtractLabels(
            atlas,
            lut=names,
            strategy=strategy,  # type: ignore[arg-type]
            mask_img=within,
            keep_masked_labels=keep_masked_labels,
            min_coverage=min_coverage,
            **policy,
        )
        for atlas in labels
    ]
    parts += [ExtractMaps(path, mask_img=within, **policy) for path in maps]
    parts += [ExtractVoxels(path, resampling="mask", **policy) for path in mask]
    if seeds:
        centres = tuple(_centre(text) for text in seeds)
        parts.append(
            ExtractSpheres(
                centres,
                radius=radius,
                mask_img=within,
                keep_empty_spheres=keep_empty_spheres,
                **policy,
            )
        )
    if radius is not None and not seeds:
        raise ValueError("--radius is that of spheres: give their centres with --seeds x,y,z")
    if format not in (None, *TABLES_AND_STORES):
        raise ValueError(f"--format must be one of {', '.join(TABLES_AND_STORES)}, got {format!r}")
    if not parts:
        raise ValueError(
            "nothing to extract: give --labels ATLAS, --maps MAPS, --mask MASK or --seeds x,y,z"
        )
    steps: list[Any] = [SmoothVolumes(smoothing, nan_policy=nan_policy)] if smoothing else []
    steps.append(parts[0] if len(parts) == 1 else ExtractTogether(tuple((p,) for p in parts)))
    cleaning = {
        "detrend": detrend,
        "standardize": standardize,
        "low_pass": low_pass,
        "high_pass": high_pass,
        "confounds": None if not confounds else confounds[0] if len(confounds) == 1 else confounds,
        "confound_columns": tuple(confound_columns.split(",")) if confound_columns else None,
        "strategy": tuple(confound_strategy.split(",")) if confound_strategy else None,
        "sample_mask": _volumes(sample_mask),
    }
    limits = {
        "fd_threshold": fd_threshold,
        "std_dvars_threshold": std_dvars_threshold,
        "n_compcor": n_compcor,
    }
    limits = {key: value for key, value in limits.items() if value is not None}
    if limits and not confound_strategy:
        raise ValueError(f"--{min(limits).replace('_', '-')} belongs to --confound-strategy")
    _refuse_limits_of_others(confound_strategy or "", limits)
    if filter not in ("butterworth", "cosine"):
        raise ValueError(f"--filter must be butterworth or cosine, got {filter!r}")
    if any(value not in (None, False) for value in cleaning.values()):
        steps.append(CleanSignals(t_r=t_r, filter=filter, strategy_options=limits, **cleaning))  # type: ignore[arg-type]
    found = _images(files, select)
    sources, folder, written = _targets(
        files, found, out, format, only_voxels=bool(mask) and not labels
    )
    shared = confounds and confounds != ["auto"] and not any("{name}" in c for c in confounds)
    items = resolve_sources(sources, Path(local_path(folder)), select=select) if shared else []
    if (n_images := len(items)) > 1:
        raise ValueError(
            f"{n_images} images cannot share one table of confounds: use --confounds auto, or "
            "a path with {name} in it"
        )
    with client_at(scheduler) as client:
        report = Pipeline(steps).run(
            sources,
            folder,
            memory=memory,
            workers=workers,
            format=written,
            overwrite=overwrite,
            client=client,
            progress=False if quiet else None,
            name=name,
            select=select,
        )
    _add_figures(
        report, next(iter(labels or maps or mask), None), found[0], names if labels else None
    )
    report.save()
    end_with(report)


def _refuse_limits_of_others(strategy: str, limits: dict[str, Any]) -> None:
    """A limit that no part of the strategy heeds would be passed over."""
    parts = {part.partition("=")[0].strip() for part in strategy.split(",")}
    for name in limits:
        owner = "compcor" if name == "n_compcor" else "scrub"
        if owner not in parts:
            raise ValueError(
                f"--{name.replace('_', '-')} is that of {owner}, which is not in "
                f"--confound-strategy {strategy}: add {owner} there, or leave it out"
            )


def _absolute(paths: list[str] | None) -> list[str]:
    return [local_path(path) for path in paths or ()]


def _volumes(text: str | None) -> str | tuple[int, ...] | None:
    if text is None or ":" in text:
        return text
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"--sample-mask {text!r}: write a stretch such as 4:, or the numbers of volumes"
        ) from None


def _centre(text: str) -> tuple[float, float, float]:
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--seeds {text!r}: write the centre of a sphere as x,y,z in mm") from None
    return x, y, z


def _images(files: list[str], select: dict[str, str]) -> list[Path]:
    """The images that are meant; several of one run need a choice."""
    from penstock.io.bids.choice import chosen_images
    from penstock.running.sources import expand_paths

    return chosen_images([p for file in files for p in expand_paths(file, select)], select)


def _targets(
    files: list[str], paths: list[Path], out: Path, format: str | None, *, only_voxels: bool
) -> tuple[Any, Path, str]:
    """Sources with the names of their results, the folder for them, and their format."""
    from penstock.formats import check_format, format_of, named_target

    wanted = format_of(out)
    if wanted is None:
        if out.suffix and not out.is_dir():
            raise ValueError(
                f"cannot tell the format of {out}: end its name in .parquet, .csv, .tsv or .zarr, "
                "or give a folder"
            )
        return files, out, check_format(format or ("zarr" if only_voxels else "parquet")).name
    if format is not None and format != wanted.name:
        raise ValueError(f"--format {format} contradicts the name {out.name}")
    if len(paths) > 1:
        raise ValueError(
            f"{len(paths)} images cannot go into one file: give --out a folder (and --format "
            f"{wanted.name})"
        )
    name, folder = named_target(out, wanted)
    return {name: paths[0]}, folder, wanted.name


def _add_figures(report: Any, regions: str | None, image: Path, names: str | None) -> None:
    """Pictures of the first results, for the report; without matplotlib there are none."""
    import importlib.util

    made = {name: path for name, path in report.outputs.items() if name not in report.skipped}
    if importlib.util.find_spec("matplotlib") is None or not made:
        return
    if report.limits.budget - process_now() < FIGURE_BYTES:
        return
    from penstock.fmri.extraction.label_tables import read_lut
    from penstock.fmri.plots.report_figures import extraction_figures, overlay_figure
    from penstock.io import open_dataset
    from penstock.io.tables import read_table
    from penstock.storage.store import open_store

    try:
        if regions is not None:
            called = dict(read_lut(names)) if names is not None else None
            picture = overlay_figure(regions, open_dataset(image), names=called)
            report.figures[f"{Path(regions).name} on {image.name}"] = picture
        for name, path in list(made.items())[:FIGURES_KEPT]:
            made_of = open_store(path) if path.suffix == ".zarr" else read_table(path)
            for title, picture in extraction_figures(made_of):
                report.figures[f"{name}: {title}"] = picture
    except (OSError, TypeError, ValueError) as error:  # (the results themselves are there)
        warnings.warn(f"the report has no pictures: {error}", stacklevel=2)
