"""Singular value decomposition and principal components of positions, out of core."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import xarray as xr

from penstock.memory.buffers import scratch_buffer
from penstock.spectra.passes.layout import Layout, Piece
from penstock.spectra.passes.passes import PIECE_BYTES, Needs, Pass

BrokenPolicy: TypeAlias = Literal["raise", "omit"]
"""What becomes of positions with values that are not finite: an error, or left out."""

EXACT_CORE = 1024
"""Core values up to which ``method="auto"`` decomposes exactly."""


def svd(
    ds: xr.Dataset,
    n_components: int,
    *,
    core_dims: str | Sequence[str] | None = None,
    memory: int | float | str | None = None,
    workers: int | None = None,
    method: Literal["auto", "exact", "randomized"] = "auto",
    center: bool = False,
    seed: int = 0,
    oversampling: int = 10,
    power_iterations: int = 3,
    nan_policy: BrokenPolicy = "raise",
    progress: bool | None = None,
) -> xr.Dataset:
    """Leading singular vectors of a dataset of positions, without loading it.

    Parameters
    ----------
    ds : xarray.Dataset
        Positions (loop dims) with a spectrum or an image (core dims) at each, real or complex:
        the matrix (positions, core values) is decomposed.
    n_components : int
        How many components; at most the smaller side of the matrix.
    core_dims : str or sequence of str, optional
        Dims of the values at one position. Default: the last dim.
    memory : str or int, optional
        Budget of this process, e.g. ``"512 MiB"``. Default: half of what is available.
    workers : int, optional
        Threads at work. Default: the cores there are. The result is the same with any number.
    method : {"auto", "exact", "randomized"}, default "auto"
        ``"exact"``: QR of blocks, merged; two passes over the data, memory for a few square
        matrices of the core values. ``"randomized"``: subspace iteration from random vectors;
        ``3 + power_iterations`` passes. ``"auto"``: exact up to 1,024 core values.
    center : bool, default False
        Subtract the mean over the positions first (see `pca`).
    seed : int, default 0
        Of the random vectors.
    oversampling : int, default 10
        Random vectors beyond `n_components`.
    power_iterations : int, default 3
        More of them separate components of similar singular values better.
    nan_policy : {"raise", "omit"}, default "raise"
        Whether positions with values that are not finite are an error, or left out and NaN in the
        maps.
    progress : bool, optional
        Show progress. Default: once the work has taken two seconds.

    Returns
    -------
    xarray.Dataset
        In memory: ``components`` ``(component, *core dims)``, orthonormal; ``maps``, ``(*loop dims,
        component)``, ``U * S`` of ``U, S, Vh = numpy.linalg.svd(...)``, in float32 for float32;
        ``singular_values`` (component); ``explained_variance_ratio`` (component), the part of the
        sum of squares; with `center` also ``mean`` ``(*core dims)``. The data are about
        ``maps @ components`` (+ ``mean``). Of the entries of a component the largest is positive
        (for complex data real and positive), which fixes all signs.

    Raises
    ------
    BudgetError
        If the results, or a few positions, do not fit into `memory`.
    ValueError
        For too many components, dims that the data lack, or values that are not finite.

    Notes
    -----
    All sums are in double precision. The exact method merges triangular factors (tall and skinny
    QR, Demmel et al. 2012) and keeps small singular values, which the Gram matrix would lose. The
    randomized one (Halko, Martinsson and Tropp 2011, algorithm 4.4, on the core values' side, one
    pass an iteration) finds the leading components; those below about 1e-8 of the largest need the
    exact method.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra import svd
    >>> rank_one = np.outer(np.arange(1.0, 5.0), [3.0, 4.0]).reshape(2, 2, 2)
    >>> out = svd(ps.make_dataset(rank_one, ("y", "x", "frequency")), 1)
    >>> out.components.values.round(3).tolist(), out.maps.values[0, :, 0].round(3).tolist()
    ([[0.6, 0.8]], [5.0, 10.0])
    """
    layout = Layout.of(ds, core_dims)
    if method not in ("auto", "exact", "randomized"):
        raise ValueError(f"method must be 'auto', 'exact' or 'randomized', got {method!r}")
    check_components(n_components, layout)
    if oversampling < 0 or power_iterations < 0:
        raise ValueError(
            f"oversampling={oversampling} and power_iterations={power_iterations} must not be "
            "negative"
        )
    exact = method == "exact" or (method == "auto" and layout.n_core <= EXACT_CORE)
    used = "exact" if exact else "randomized"
    rows = Rows(layout, nan_policy)
    smaller = min(layout.n_positions, layout.n_core)
    n_vectors = smaller if exact else min(smaller, n_components + oversampling)
    itemsize = layout.wide_dtype.itemsize
    needs = Needs(
        scratch=2.0,
        task_bytes=(n_vectors + 2) * layout.n_core * itemsize,
        work_bytes=2 * _buffer_rows(layout) * layout.n_core * itemsize if exact else 0,
        result_bytes=n_components * layout.n_positions * layout.float_dtype.itemsize
        + 2 * n_vectors * layout.n_core * itemsize,
        task_positions=16 * layout.n_core if exact else 1,
        folds=True,
    )
    scan = Pass(
        layout,
        needs,
        memory=memory,
        workers=workers,
        progress=progress,
        name=f"svd with method={used!r}",
        advice="use method='randomized'" if exact else "ask for fewer components",
    )
    with scan:
        found = (
            _exact(scan, rows, center)
            if exact
            else _randomized(scan, rows, center, n_vectors, power_iterations, seed)
        )
        check_components(n_components, layout, found.n_positions)
        vectors = _fixed_signs(found.vectors[:n_components])
        maps = _scores(scan, rows, vectors, found.mean)
    values = found.values[:n_components]
    settings = "" if exact else f", {oversampling=}, {power_iterations=}, {seed=}"
    attrs = {
        "decomposition": f"svd({n_components=}, method={used!r}, {center=}{settings})",
        "n_positions": found.n_positions,
    }
    result = components_dataset(layout, vectors, maps, attrs)
    units = {} if layout.units is None else {"units": layout.units}
    result["components"].attrs["units"] = "1"
    result["maps"].attrs.update(units)
    result["singular_values"] = ("component", values, units)
    result["explained_variance_ratio"] = (
        "component",
        values**2 / (found.sum_of_squares or 1.0),
        {"units": "1"},
    )
    if center:
        result["mean"] = (layout.core_dims, found.mean.reshape(layout.core_shape), units)
    return result


def pca(
    ds: xr.Dataset,
    n_components: int,
    *,
    core_dims: str | Sequence[str] | None = None,
    memory: int | float | str | None = None,
    workers: int | None = None,
    method: Literal["auto", "exact", "randomized"] = "auto",
    seed: int = 0,
    oversampling: int = 10,
    power_iterations: int = 3,
    nan_policy: BrokenPolicy = "raise",
    progress: bool | None = None,
) -> xr.Dataset:
    """Principal components of a dataset of positions, without loading it.

    Parameters
    ----------
    ds : xarray.Dataset
        Positions (loop dims) with a spectrum or an image (core dims) at each, real or complex.
    n_components : int
        How many components; at most the smaller of positions and core values.
    core_dims, memory, workers, method, seed, oversampling, power_iterations, nan_policy, progress
        As for `svd`.

    Returns
    -------
    xarray.Dataset
        As from `svd` with ``center=True``, and ``explained_variance`` (component), the variance
        along each component (divided by the number of positions less 1). ``components``, ``maps``
        (the scores), ``explained_variance``, ``explained_variance_ratio``, ``singular_values`` and
        ``mean`` are those of `sklearn.decomposition.PCA`, with its signs.

    Raises
    ------
    BudgetError
        If the results, or a few positions, do not fit into `memory`.
    ValueError
        For too many components, dims that the data lack, or values that are not finite.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra import pca
    >>> ds = ps.make_dataset(np.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]]), ("position", "bias"))
    >>> out = pca(ds, 1)
    >>> out.maps.values.ravel().tolist(), out.explained_variance.values.tolist()
    ([-2.0, -1.0, 3.0], [7.0])
    """
    result = svd(
        ds,
        n_components,
        core_dims=core_dims,
        memory=memory,
        workers=workers,
        method=method,
        center=True,
        seed=seed,
        oversampling=oversampling,
        power_iterations=power_iterations,
        nan_policy=nan_policy,
        progress=progress,
    )
    result.attrs["decomposition"] = result.attrs["decomposition"].replace("svd(", "pca(", 1)
    values = result["singular_values"]
    degrees = max(1, result.attrs["n_positions"] - 1)
    units = values.attrs.get("units")
    attrs = {} if units is None else {"units": f"{units}2" if units.isalpha() else f"({units})2"}
    result["explained_variance"] = ("component", values.values**2 / degrees, attrs)
    return result


# ---------------------------------------------------------------------- shared by decompositions


def check_components(n_components: int, layout: Layout, n_positions: int | None = None) -> None:
    """Raise TypeError or ValueError if there cannot be so many components of the data."""
    if isinstance(n_components, bool) or not isinstance(n_components, int | np.integer):
        raise TypeError(f"n_components={n_components!r} must be a whole number")
    layout.refuse_dim("component")
    n_positions = layout.n_positions if n_positions is None else n_positions
    most = min(n_positions, layout.n_core)
    if not 1 <= n_components <= most:
        raise ValueError(
            f"n_components={n_components} must be from 1 to {most}: there are {n_positions} "
            f"positions of {layout.n_core} values"
        )


@dataclass(frozen=True)
class Rows:
    """Positions as rows of a matrix in double precision; broken ones refused or left out."""

    layout: Layout
    nan_policy: BrokenPolicy

    def __post_init__(self) -> None:
        if self.nan_policy not in ("raise", "omit"):
            raise ValueError(f"nan_policy must be 'raise' or 'omit', got {self.nan_policy!r}")

    def of(self, piece: Piece) -> Piece:
        """The usable positions of a piece.

        Raises
        ------
        ValueError
            For the first position with values that are not finite, unless they are left out.
        """
        if piece.finite:
            return piece
        whole = np.isfinite(piece.values).all(axis=1)
        if self.nan_policy == "raise":
            raise ValueError(
                f"the values at {self.describe(piece, int(np.argmin(whole)))} are not all finite "
                "(NaN or infinite): replace them, or leave such positions out with "
                "nan_policy='omit'"
            )
        return piece.only(whole)

    def describe(self, piece: Piece, row: int) -> str:
        """A position of a piece for people."""
        positions = piece.positions
        number = positions.start + row if isinstance(positions, slice) else positions[row]
        return self.layout.describe(int(number))


def components_dataset(
    layout: Layout, components: np.ndarray, maps: np.ndarray, attrs: dict[str, Any]
) -> xr.Dataset:
    """``components`` and ``maps`` with the coordinates of the data."""
    result = layout.template({*layout.loop_dims, *layout.core_dims})
    n = len(components)
    result["components"] = (
        ("component", *layout.core_dims),
        components.reshape(n, *layout.core_shape),
    )
    result["maps"] = (
        (*layout.loop_dims, "component"),
        maps.reshape(*layout.loop_shape, n),
    )
    result.attrs.update(attrs)
    return result


# ---------------------------------------------------------------------- the two methods


@dataclass(frozen=True)
class _Found:
    """Right singular vectors (rows, all that were found) with what belongs to them."""

    vectors: np.ndarray
    values: np.ndarray
    mean: np.ndarray
    sum_of_squares: float
    n_positions: int


@dataclass
class _Triangle:
    """Triangular factor of some rows, less their mean if they are centred."""

    n: int
    mean: np.ndarray
    factor: np.ndarray


def _buffer_rows(layout: Layout) -> int:
    """Rows that are decomposed at once: enough for the factor to be small beside them."""
    row_bytes = layout.n_core * layout.wide_dtype.itemsize
    return min(layout.n_positions, max(4 * layout.n_core, PIECE_BYTES // row_bytes))


def _reduced(rows: np.ndarray) -> np.ndarray:
    """A factor of at most as many rows as columns with the same Gram matrix."""
    return np.asarray(np.linalg.qr(rows, mode="r")) if len(rows) > rows.shape[1] else rows


def _triangle(rows: np.ndarray, center: bool) -> _Triangle:
    mean = np.zeros(rows.shape[1], rows.dtype)
    if center:
        mean = rows.mean(axis=0)
        rows -= mean
    factor = _reduced(rows)
    return _Triangle(len(rows), mean, factor.copy() if factor is rows else factor)


def _joined(first: _Triangle, second: _Triangle, center: bool) -> _Triangle:
    """Of all rows of both. Means that differ make one more row (as in incremental PCA)."""
    if not first.n or not second.n:
        return second if not first.n else first
    n = first.n + second.n
    parts = [first.factor, second.factor]
    mean = first.mean
    if center:
        apart = second.mean - first.mean
        parts.append(np.sqrt(first.n / n * second.n) * apart[np.newaxis])
        mean = first.mean + apart * (second.n / n)
    return _Triangle(n, mean, _reduced(np.concatenate(parts)))


def _exact(scan: Pass, rows: Rows, center: bool) -> _Found:
    layout = scan.layout
    merge = functools.partial(_joined, center=center)

    def work(pieces: Iterator[Piece]) -> _Triangle:
        empty = np.zeros((0, layout.n_core), layout.wide_dtype)
        state = _Triangle(0, np.zeros(layout.n_core, layout.wide_dtype), empty)
        buffer = scratch_buffer(
            "svd-rows", (_buffer_rows(layout), layout.n_core), layout.wide_dtype
        )
        filled = 0
        for piece in pieces:
            values = rows.of(piece).values
            for at in range(0, len(values), len(buffer)):
                part = values[at : at + len(buffer)]
                if filled + len(part) > len(buffer):
                    state = merge(state, _triangle(buffer[:filled], center))
                    filled = 0
                buffer[filled : filled + len(part)] = part
                filled += len(part)
        return merge(state, _triangle(buffer[:filled], center)) if filled else state

    found = scan.fold(work, merge)
    _, values, vectors = np.linalg.svd(found.factor, full_matrices=False)
    return _Found(vectors, values, found.mean, float((values**2).sum()), found.n)


@dataclass
class _Product:
    """``X^H X Q`` of some rows, the sum of their squares, and a triangular factor of ``X Q``."""

    n: int
    product: np.ndarray
    squares: float
    factor: np.ndarray


def _added(first: _Product, second: _Product) -> _Product:
    first.product += second.product
    factor = _reduced(np.concatenate([first.factor, second.factor]))
    return _Product(first.n + second.n, first.product, first.squares + second.squares, factor)


def _randomized(
    scan: Pass, rows: Rows, center: bool, n_vectors: int, power_iterations: int, seed: int
) -> _Found:
    layout = scan.layout
    dtype, n_core = layout.wide_dtype, layout.n_core
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((n_core, n_vectors)).astype(dtype)
    if dtype.kind == "c":
        basis += 1j * rng.standard_normal((n_core, n_vectors))
    mean = np.zeros(n_core, dtype)
    if center:
        mean = _mean(scan, rows)
    basis = np.linalg.qr(basis)[0]
    for _ in range(power_iterations + 1):
        made = scan.fold(functools.partial(_project, rows, mean, basis, center), _added)
        basis = np.linalg.qr(made.product)[0]
    made = scan.fold(functools.partial(_project, rows, mean, basis, center), _added)
    _, values, inner = np.linalg.svd(made.factor, full_matrices=False)
    return _Found(inner @ basis.conj().T, values, mean, made.squares, made.n)


def _project(
    rows: Rows, mean: np.ndarray, basis: np.ndarray, center: bool, pieces: Iterator[Piece]
) -> _Product:
    n_vectors = basis.shape[1]
    state = _Product(0, np.zeros_like(basis), 0.0, np.zeros((0, n_vectors), basis.dtype))
    for piece in pieces:
        values = _centred(rows.of(piece), mean if center else None)
        onto = values @ basis
        flat = values.reshape(-1)
        squares = float(np.vdot(flat, flat).real)
        product = (onto.conj().T @ values).conj().T
        state = _added(state, _Product(len(values), product, squares, onto))
    return state


def _centred(piece: Piece, mean: np.ndarray | None) -> np.ndarray:
    if mean is None:
        return piece.double
    buffer = scratch_buffer("svd-centred", piece.double.shape, piece.double.dtype)
    return np.subtract(piece.double, mean, out=buffer)


def _mean(scan: Pass, rows: Rows) -> np.ndarray:
    def work(pieces: Iterator[Piece]) -> tuple[int, np.ndarray]:
        n, total = 0, np.zeros(scan.layout.n_core, scan.layout.wide_dtype)
        for piece in pieces:
            usable = rows.of(piece)
            n += len(usable.values)
            total += usable.double.sum(axis=0)
        return n, total

    n, total = scan.fold(work, lambda first, second: (first[0] + second[0], first[1] + second[1]))
    return total / max(1, n)


def _fixed_signs(vectors: np.ndarray) -> np.ndarray:
    """Rows turned so that their largest entry is positive (and real)."""
    largest = vectors[np.arange(len(vectors)), np.abs(vectors).argmax(axis=1)]
    size = np.abs(largest)
    turn = np.where(size > 0, largest.conj() / np.where(size > 0, size, 1), 1)
    return vectors * turn[:, np.newaxis]


def _scores(scan: Pass, rows: Rows, vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    layout = scan.layout
    maps = np.full((layout.n_positions, len(vectors)), np.nan, layout.float_dtype)
    onto = np.ascontiguousarray(vectors.conj().T)
    centred = mean if mean.any() else None

    def work(pieces: Iterator[Piece]) -> None:
        for piece in pieces:
            usable = rows.of(piece)
            maps[usable.positions] = _centred(usable, centred) @ onto

    scan.all(work)
    return maps
