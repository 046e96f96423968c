"""Non-negative matrix factorization of positions, out of core."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from penstock.spectra.passes.layout import Layout, Piece
from penstock.spectra.passes.passes import Needs, Pass
from penstock.spectra.passes.principal import (
    BrokenPolicy,
    Rows,
    check_components,
    components_dataset,
    svd,
)


def nmf(
    ds: xr.Dataset,
    n_components: int,
    *,
    core_dims: str | Sequence[str] | None = None,
    memory: int | float | str | None = None,
    workers: int | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
    seed: int = 0,
    nan_policy: BrokenPolicy = "raise",
    progress: bool | None = None,
) -> xr.Dataset:
    """Non-negative maps and components of a dataset of positions, without loading it.

    Parameters
    ----------
    ds : xarray.Dataset
        Positions (loop dims) with a spectrum or an image (core dims) at each; no value below 0.
    n_components : int
        How many components; at most the smaller of positions and core values.
    core_dims : str or sequence of str, optional
        Dims of the values at one position. Default: the last dim.
    memory : str or int, optional
        Budget of this process, e.g. ``"512 MiB"``. Default: half of what is available.
    workers : int, optional
        Threads at work. Default: the cores there are. The result is the same with any number.
    max_iterations : int, default 200
        Iterations at most; each is one pass over the data.
    tolerance : float, default 1e-4
        Ends when the violation of the optimality conditions falls to this part of the first one.
    seed : int, default 0
        Of the random vectors of the initial `svd`, where that is randomized.
    nan_policy : {"raise", "omit"}, default "raise"
        Whether positions with values that are not finite are an error, or left out and NaN in the
        maps.
    progress : bool, optional
        Show progress. Default: once the work has taken two seconds.

    Returns
    -------
    xarray.Dataset
        In memory: ``components``, ``(component, *core dims)``, and ``maps``, ``(*loop dims,
        component)``, both not negative, whose product is about the data; ``reconstruction_error``,
        the Frobenius norm of what it leaves; attrs["n_iterations"] and attrs["converged"].

    Raises
    ------
    BudgetError
        If the results, or a few positions, do not fit into `memory`.
    ValueError
        For negative, complex or broken values, or too many components.

    Warns
    -----
    RuntimeWarning
        If `max_iterations` do not suffice.

    Notes
    -----
    Every iteration is one of `sklearn.decomposition.NMF` with ``solver="cd"``, ``init="nndsvda"``
    (cyclic coordinate descent, Cichocki and Phan 2009; initial values by Boutsidis and Gallopoulos
    2008), over all data in double precision: the maps are updated piece by piece, and the products
    that the components need are added up on the way. scikit-learn begins elsewhere when the same
    data come in another unit; here a mean of about 1 is seen to first, by a power of ten.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra import nmf
    >>> values = np.outer([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 0.0])
    >>> out = nmf(ps.make_dataset(values, ("position", "frequency")), 1)
    >>> bool(np.allclose(out.maps.values @ out.components.values, values))
    True
    """
    layout = Layout.of(ds, core_dims)
    check_components(n_components, layout)
    if layout.dtype.kind == "c":
        raise ValueError("complex values cannot be factorized: take their magnitude first")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")
    rows = Rows(layout, nan_policy)
    needs = Needs(
        scratch=2.0,
        task_bytes=8 * n_components * (layout.n_core + n_components + 2),
        # (the maps twice: those of the initial decomposition are still there)
        result_bytes=8 * n_components * (2 * layout.n_positions + 3 * layout.n_core),
        folds=True,
    )
    scan = Pass(
        layout,
        needs,
        memory=memory,
        workers=workers,
        progress=progress,
        name="nmf",
        advice="ask for fewer components",
    )
    with scan:
        squares, total, n_rows = scan.fold(functools.partial(_moments, rows), np.add)
        initial = svd(
            ds,
            n_components,
            core_dims=layout.core_dims,
            memory=memory,
            workers=workers,
            seed=seed,
            nan_policy=nan_policy,
            progress=False,
        )
        maps, components = _initial_values(initial, total / (n_rows * layout.n_core))
        del initial
        first, n_iterations, converged = 0.0, 0, False
        while n_iterations < max_iterations and not converged:
            n_iterations += 1
            products = scan.fold(functools.partial(_update_maps, rows, maps, components), _added)
            components = components.copy()
            violation = products.violation + _descend(components, products.gram, products.cross)
            first = first or violation
            converged = violation <= tolerance * first
    if not converged:
        warnings.warn(
            f"nmf has not converged after {n_iterations} iterations (its violation is "
            f"{violation / first:.2g} of the first, not {tolerance:g}): allow more max_iterations",
            RuntimeWarning,
            stacklevel=2,
        )
    left = squares - 2 * np.vdot(products.cross, components)
    left += np.vdot(products.gram, components @ components.T)
    attrs = {
        "decomposition": f"nmf({n_components=}, {max_iterations=}, {tolerance=}, {seed=})",
        "n_positions": int(n_rows),
        "n_iterations": n_iterations,
        "converged": int(converged),
    }
    result = components_dataset(layout, components, maps.astype(layout.float_dtype), attrs)
    units = {} if layout.units is None else {"units": layout.units}
    result["reconstruction_error"] = ((), np.sqrt(max(left, 0.0)), units)
    return result


def _moments(rows: Rows, pieces: Iterator[Piece]) -> np.ndarray:
    """Sum of squares, sum, number of positions. Refuses values below 0."""
    moments = np.zeros(3)
    for piece in pieces:
        usable = rows.of(piece)
        values = usable.double
        if values.min(initial=0) < 0:
            row = int((values < 0).any(axis=1).argmax())
            raise ValueError(
                f"nmf needs values of at least 0, but {rows.describe(usable, row)} holds "
                f"{values[row].min():g}: subtract the minimum, or take magnitudes"
            )
        moments += (np.vdot(values, values), values.sum(), len(values))
    return moments


def _initial_values(initial: xr.Dataset, average: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each singular pair the larger of its positive and negative parts (NNDSVDa)."""
    n = initial.sizes["component"]
    maps = initial["maps"].values.reshape(-1, n).astype(np.float64)
    components = initial["components"].values.reshape(n, -1).copy()
    # scikit-learn's values are those of data around 1: in other units they are those of a power of
    # ten, so that where descent begins, and when it ends, is the same
    unit = 10.0 ** np.round(np.log10(average)) if average > 0 else 1.0
    root = np.sqrt(unit)
    smallest = 1e-6 * root  # (as in scikit-learn: entries below it count as zero)
    for j, value in enumerate(initial["singular_values"].values):
        left, right = maps[:, j] / (value or 1.0), components[j]
        if j == 0:
            parts = [(np.abs(left), np.abs(right))]
        else:
            parts = [
                (np.maximum(sign * left, 0), np.maximum(sign * right, 0)) for sign in (1.0, -1.0)
            ]
        sizes = [(np.sqrt(np.nansum(u**2)), np.linalg.norm(v)) for u, v in parts]
        (u, v), (u_size, v_size) = max(
            zip(parts, sizes, strict=True), key=lambda part: part[1][0] * part[1][1]
        )
        if u_size * v_size:
            weight = np.sqrt(value * u_size * v_size)
            maps[:, j], components[j] = weight * u / u_size, weight * v / v_size
        else:
            maps[:, j], components[j] = 0 * u, 0
    for factor in (maps, components):
        factor[factor < smallest] = average / root
    return maps, components


@dataclass
class _Products:
    """What the components need of the maps: ``W^T W``, ``W^T X``, and how far W was off."""

    gram: np.ndarray
    cross: np.ndarray
    violation: float


def _added(first: _Products, second: _Products) -> _Products:
    first.gram += second.gram
    first.cross += second.cross
    first.violation += second.violation
    return first


def _update_maps(
    rows: Rows, maps: np.ndarray, components: np.ndarray, pieces: Iterator[Piece]
) -> _Products:
    n = len(components)
    products = _Products(np.zeros((n, n)), np.zeros_like(components), 0.0)
    gram = components @ components.T
    for piece in pieces:
        usable = rows.of(piece)
        weights = np.ascontiguousarray(maps[usable.positions].T)
        products.violation += _descend(weights, gram, components @ usable.double.T)
        maps[usable.positions] = weights.T
        products.gram += weights @ weights.T
        products.cross += weights @ usable.double
    return products


def _descend(factor: np.ndarray, gram: np.ndarray, cross: np.ndarray) -> float:
    """One sweep of coordinate descent over a factor's rows, in place.

    Returns the violation of the optimality conditions before: the gradient projected onto what
    the bounds allow.
    """
    violation = 0.0
    for row, along in enumerate(gram):
        gradient = along @ factor - cross[row]
        bound = factor[row] == 0
        violation += float(np.abs(np.where(bound, np.minimum(gradient, 0), gradient)).sum())
        if along[row]:
            np.maximum(factor[row] - gradient / along[row], 0, out=factor[row])
    return violation
