"""Several reductions over a dataset of positions in one pass over the data.

A reduction of every position gives a map (`ApplyMasks`, `PositionSum`, `CentreOfMass`), one over
the positions an image (`Sum`, `Mean`, `Statistics`). Others are written by deriving from
`MapReduction` or `ImageReduction`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, check_dataset
from penstock.messages import shown
from penstock.records import Field
from penstock.spectra.passes.contract import ImageReduction, MapReduction, Reduction
from penstock.spectra.passes.images import Mean, Statistics, Sum
from penstock.spectra.passes.layout import Layout, Piece
from penstock.spectra.passes.maps import ApplyMasks, CentreOfMass, PositionSum
from penstock.spectra.passes.passes import Needs, Pass

__all__ = [
    "ApplyMasks",
    "CentreOfMass",
    "ImageReduction",
    "MapReduction",
    "Mean",
    "PositionSum",
    "Reduction",
    "Statistics",
    "Sum",
    "reduce",
]


def reduce(
    ds: xr.Dataset,
    reductions: Mapping[str, Reduction],
    *,
    memory: int | float | str | None = None,
    workers: int | None = None,
    core_dims: str | Sequence[str] | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Compute several reductions in one pass over the data.

    Parameters
    ----------
    ds : xarray.Dataset
        Positions (loop dims) with a spectrum or an image (core dims) at each; read lazily, once.
    reductions : mapping of str to Reduction
        What to compute, by the name it gets in the result.
    memory : str or int, optional
        Budget of this process, e.g. ``"512 MiB"``. Default: half of what is available.
    workers : int, optional
        Threads at work. Default: the cores there are. The result is the same, bit for bit, with
        any number.
    core_dims : str or sequence of str, optional
        Dims of the values at one position. Default: those of the masks where there are some (for
        an array of masks, as many of the last dims as a mask has), otherwise the last dim.
    progress : bool, optional
        Show progress. Default: once the work has taken two seconds.

    Returns
    -------
    xarray.Dataset
        In memory. A reduction of every position gives a map (loop dims, and those of its own such
        as ``mask``), a reduction over the positions an image (core dims). One that gives several
        results has a variable for each, ``<name>_<result>``. Coordinates and units are carried
        over; attrs["reduction"] of each variable says how it was made.

    Raises
    ------
    BudgetError
        If the results, or a few positions, do not fit into `memory`.
    TypeError, ValueError
        For dims that the data lack, masks of another shape, and the like.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra.passes.reductions import ApplyMasks, Sum, reduce
    >>> values = np.arange(24.0).reshape(2, 3, 4)
    >>> ds = ps.make_dataset(values, ("y", "x", "frequency"))
    >>> out = reduce(ds, {"band": ApplyMasks([[0, 1, 1, 0]]), "total": Sum()})
    >>> out.band.sel(mask=0).values.tolist()
    [[3.0, 11.0, 19.0], [27.0, 35.0, 43.0]]
    >>> out.total.values.tolist()
    [60.0, 66.0, 72.0, 78.0]
    """
    layout = _layout(ds, reductions, core_dims)
    fields: dict[str, dict[str, tuple[str, Field]]] = {}
    for name, reduction in reductions.items():
        reduction.check(layout)
        made = reduction.fields(layout)
        fields[name] = {key: (f"{name}_{key}" if key else name, made[key]) for key in made}
    _check_names([title for group in fields.values() for title, _ in group.values()], layout)

    maps = {n: r for n, r in reductions.items() if isinstance(r, MapReduction)}
    images = {n: r for n, r in reductions.items() if isinstance(r, ImageReduction)}
    result_bytes = sum(
        math.prod(field.shape) * np.dtype(field.dtype).itemsize
        * (layout.n_positions if name in maps else 1)
        for name, group in fields.items()
        for _, field in group.values()
    )  # fmt: skip
    image_bytes = layout.n_core * layout.wide_dtype.itemsize
    needs = Needs(
        scratch=max(reduction.scratch for reduction in reductions.values()),
        task_bytes=image_bytes * sum(reduction.n_statistics for reduction in images.values()),
        result_bytes=result_bytes,
        folds=bool(images),
    )
    # (before the plan, which counts what the process holds already)
    prepared = {name: reduction.prepare(layout) for name, reduction in maps.items()}
    scan = Pass(
        layout, needs, memory=memory, workers=workers, progress=progress, name="the reduction"
    )
    arrays = {
        name: {
            key: np.empty((layout.n_positions, *field.shape), field.dtype)
            for key, (_, field) in fields[name].items()
        }
        for name in maps
    }

    def work(pieces: Iterator[Piece]) -> dict[str, Any]:
        states = {name: reduction.start(layout) for name, reduction in images.items()}
        with np.errstate(all="ignore"):
            for piece in pieces:
                for name, reduction in maps.items():
                    _fill(reduction, piece, prepared[name], arrays[name])
                for name, image in images.items():
                    image.accumulate(piece, states[name])
        return states

    def merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        with np.errstate(all="ignore"):
            return {name: images[name].merge(first[name], second[name]) for name in images}

    with scan:
        states = scan.fold(work, merge)
    values: dict[str, Mapping[str, np.ndarray]] = {**arrays}
    with np.errstate(all="ignore"):
        values |= {name: image.finish(states[name], layout) for name, image in images.items()}

    variables = {}
    for name, group in fields.items():
        outer = layout.loop_dims if name in maps else ()
        outer_shape = layout.loop_shape if name in maps else ()
        made_by = {"reduction": reductions[name].describe()}
        for key, (title, field) in group.items():
            array = values[name][key].reshape(*outer_shape, *field.shape)
            variables[title] = xr.Variable((*outer, *field.dims), array, {**field.attrs, **made_by})
    used = {str(dim) for variable in variables.values() for dim in variable.dims}
    result = layout.template(used).assign(variables)
    for reduction in reductions.values():
        result = result.assign_coords(reduction.coords(layout))
    return result


def _layout(
    ds: xr.Dataset,
    reductions: Mapping[str, Reduction],
    core_dims: str | Sequence[str] | None,
) -> Layout:
    """The data with the core dims that are given, or that the reductions speak of."""
    check_dataset(ds)
    if not isinstance(reductions, Mapping):
        raise TypeError(
            "reductions must be a mapping of names to reductions, such as {'sum': Sum()}, got "
            f"{shown(reductions)}"
        )
    for name, reduction in reductions.items():
        if not isinstance(reduction, Reduction):
            hint = f": write {reduction.__name__}(...)" if isinstance(reduction, type) else ""
            raise TypeError(f"{name!r} must be a reduction, got {reduction!r}{hint}")
    if not reductions:
        raise ValueError("no reductions are given: name at least one, such as {'sum': Sum()}")
    if core_dims is None:
        dims = tuple(map(str, ds[SIGNAL].dims))
        asked = (reduction.implied_core_dims(dims) for reduction in reductions.values())
        core_dims = next((found for found in asked if found), None)
    return Layout.of(ds, core_dims)


def _check_names(titles: list[str], layout: Layout) -> None:
    taken = {*map(str, layout.dataset.dims), *map(str, layout.dataset.coords)}
    for number, title in enumerate(titles):
        if title in taken or title in titles[:number]:
            what = "a dim or coordinate" if title in taken else "two results"
            raise ValueError(f"{title!r} would be the name of {what}: give the reduction another")


def _fill(
    reduction: MapReduction, piece: Piece, prepared: Any, arrays: Mapping[str, np.ndarray]
) -> None:
    """Let a kernel write into the rows of its results, in place where they lie together."""
    if isinstance(piece.positions, slice):
        rows = {key: array[piece.positions] for key, array in arrays.items()}
        reduction.kernel(piece, prepared, rows)
        return
    n = len(piece.positions)
    rows = {key: np.empty((n, *array.shape[1:]), array.dtype) for key, array in arrays.items()}
    reduction.kernel(piece, prepared, rows)
    for key, array in arrays.items():
        array[piece.positions] = rows[key]
