"""k-means clusters of positions, out of core."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from penstock.memory.accounting import MIB
from penstock.memory.buffers import scratch_buffer
from penstock.spectra.passes.layout import Layout, Piece
from penstock.spectra.passes.passes import Needs, Pass
from penstock.spectra.passes.principal import BrokenPolicy, Rows

SAMPLE_BYTES = 32 * MIB
"""Positions, in double precision, that the initial centres are found in."""


def kmeans(
    ds: xr.Dataset,
    n_clusters: int,
    *,
    core_dims: str | Sequence[str] | None = None,
    memory: int | float | str | None = None,
    workers: int | None = None,
    n_initializations: int = 1,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
    seed: int = 0,
    nan_policy: BrokenPolicy = "raise",
    progress: bool | None = None,
) -> xr.Dataset:
    """Clusters of positions with similar values, without loading them.

    Parameters
    ----------
    ds : xarray.Dataset
        Positions (loop dims) with a spectrum or an image (core dims) at each.
    n_clusters : int
        How many clusters; at most as many as there are positions.
    core_dims : str or sequence of str, optional
        Dims of the values at one position. Default: the last dim.
    memory : str or int, optional
        Budget of this process, e.g. ``"512 MiB"``. Default: half of what is available.
    workers : int, optional
        Threads at work. Default: the cores there are. The result is the same with any number.
    n_initializations : int, default 1
        Runs on a sample of the positions, of which the best gives the initial centres.
    max_iterations : int, default 100
        Iterations over all data at most; each is one pass.
    tolerance : float, default 1e-4
        Ends when the centres move by less than this, squared and relative to the mean variance of
        the values (as in scikit-learn), or no position changes its cluster.
    seed : int, default 0
        Of the sample and of k-means++ in it.
    nan_policy : {"raise", "omit"}, default "raise"
        Whether positions with values that are not finite are an error, or left out and of label
        -1.
    progress : bool, optional
        Show progress. Default: once the work has taken two seconds.

    Returns
    -------
    xarray.Dataset
        In memory: ``labels`` ``(*loop dims)``, int32 from 0; ``cluster_centers``, ``(cluster, *core
        dims)``; ``cluster_sizes`` (cluster), positions in each; ``inertia``, the sum of squared
        distances to the centres; attrs["n_iterations"] and attrs["converged"].

    Raises
    ------
    ImportError
        Without scikit-learn.
    BudgetError
        If the results, or a few positions, do not fit into `memory`.
    ValueError
        For complex or broken values, or more clusters than positions.

    Notes
    -----
    Lloyd's algorithm over all data in double precision, from the centres that
    `sklearn.cluster.KMeans` finds in a random sample (up to 32 MiB of positions; all of them where
    they are fewer). A cluster that loses all its positions keeps its centre.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra import kmeans
    >>> values = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0], [9.0, 8.0]])
    >>> out = kmeans(ps.make_dataset(values, ("position", "frequency")), 2)
    >>> labels = out.labels.values
    >>> labels[0] == labels[1] != labels[2] == labels[3], float(out.inertia)
    (np.True_, 1.0)
    """
    layout = Layout.of(ds, core_dims)
    layout.refuse_dim("cluster")
    if not 1 <= n_clusters <= layout.n_positions:
        raise ValueError(
            f"n_clusters={n_clusters} must be from 1 to {layout.n_positions}, the number of "
            "positions"
        )
    if layout.dtype.kind == "c":
        raise ValueError("complex values cannot be clustered: take their magnitude first")
    if max_iterations < 1 or n_initializations < 1:
        raise ValueError(
            f"max_iterations={max_iterations} and n_initializations={n_initializations} must be at "
            "least 1"
        )
    try:
        import sklearn.cluster  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError('kmeans needs scikit-learn: pip install "penstock[ml]"') from error
    rows = Rows(layout, nan_policy)
    row_bytes = 8 * layout.n_core
    n_sample = min(layout.n_positions, max(SAMPLE_BYTES // row_bytes, 8 * n_clusters))
    needs = Needs(
        # (values less their middle; distances to all centres and which is nearest)
        scratch=4.0 + 4.0 * n_clusters / layout.n_core,
        task_bytes=n_clusters * (row_bytes + 8),
        # (the sample, a copy that scikit-learn may make; labels, and which positions are drawn)
        result_bytes=2 * n_sample * row_bytes
        + 28 * layout.n_positions
        + 4 * n_clusters * row_bytes,
        folds=True,
    )
    scan = Pass(
        layout,
        needs,
        memory=memory,
        workers=workers,
        progress=progress,
        name="kmeans",
        advice="ask for fewer clusters",
    )
    labels = np.full(layout.n_positions, -1, np.int32)
    with scan:
        sample = _sample(scan, rows, n_sample, seed)
        if len(sample) < n_clusters:
            raise ValueError(
                f"n_clusters={n_clusters} is more than the {len(sample)} positions whose values "
                "are all finite: ask for fewer"
            )
        # distances are taken around the middle of the data, where they lose the fewest digits
        middle = sample.mean(axis=0)
        sample -= middle
        model = sklearn.cluster.KMeans(
            n_clusters,
            n_init=n_initializations,
            tol=tolerance,
            random_state=seed,
            copy_x=False,
        )
        centers = model.fit(sample).cluster_centers_.astype(np.float64)
        del sample, model
        limit = 0.0
        for iteration in range(1, max_iterations + 1):
            sums = scan.fold(functools.partial(_assign, rows, labels, centers, middle), _added)
            counts = sums.counts[:, np.newaxis]
            moved = np.where(counts, sums.totals / np.maximum(counts, 1), centers)
            if iteration == 1:
                limit = tolerance * sums.mean_variance
            shift = float(((moved - centers) ** 2).sum())
            centers = moved
            settled = not sums.changed
            if settled or shift <= limit:
                break
        converged = settled or shift <= limit
        if not settled:  # the final centres have not been given their positions yet
            sums = scan.fold(functools.partial(_assign, rows, labels, centers, middle), _added)
    if not converged:
        warnings.warn(
            f"kmeans has not converged after {iteration} iterations: allow more max_iterations",
            RuntimeWarning,
            stacklevel=2,
        )
    result = layout.template({*layout.loop_dims, *layout.core_dims})
    units = {} if layout.units is None else {"units": layout.units}
    result["labels"] = (layout.loop_dims, labels.reshape(layout.loop_shape))
    result["cluster_centers"] = (
        ("cluster", *layout.core_dims),
        (centers + middle).reshape(n_clusters, *layout.core_shape),
        units,
    )
    result["cluster_sizes"] = ("cluster", sums.counts, {"units": "1"})
    result["inertia"] = ((), sums.inertia)
    result.attrs.update(
        decomposition=f"kmeans({n_clusters=}, {n_initializations=}, {max_iterations=}, "
        f"{tolerance=}, {seed=})",
        n_positions=int(sums.counts.sum()),
        n_iterations=iteration,
        converged=int(converged),
    )
    return result


def _sample(scan: Pass, rows: Rows, n_sample: int, seed: int) -> np.ndarray:
    """Values of random positions, in the order of the positions; fewer where some are broken."""
    layout = scan.layout
    chosen = np.arange(layout.n_positions)
    if n_sample < layout.n_positions:
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(layout.n_positions, n_sample, replace=False, shuffle=False))
    place = np.full(layout.n_positions, -1)
    place[chosen] = np.arange(n_sample)
    sample = np.full((n_sample, layout.n_core), np.nan)

    def work(pieces: Iterator[Piece]) -> None:
        for piece in pieces:
            usable = rows.of(piece)
            target = place[usable.positions]
            taken = target >= 0
            sample[target[taken]] = usable.values[taken]

    scan.all(work)
    whole = ~np.isnan(sample[:, 0])
    return sample if whole.all() else sample[whole]


@dataclass
class _Sums:
    """Positions of every cluster: sum of their values, how many, how far they are."""

    totals: np.ndarray
    counts: np.ndarray
    squares: float
    inertia: float
    changed: int

    @property
    def mean_variance(self) -> float:
        """Variance over the positions, mean over the core values."""
        n = max(1, int(self.counts.sum()))
        mean = self.totals.sum(axis=0) / n
        return float(self.squares / n - mean @ mean) / len(mean)


def _added(first: _Sums, second: _Sums) -> _Sums:
    first.totals += second.totals
    first.counts += second.counts
    first.squares += second.squares
    first.inertia += second.inertia
    first.changed += second.changed
    return first


def _assign(
    rows: Rows,
    labels: np.ndarray,
    centers: np.ndarray,
    middle: np.ndarray,
    pieces: Iterator[Piece],
) -> _Sums:
    """Label positions by the nearest centre, in place. Ties go to the lower label."""
    n = len(centers)
    sums = _Sums(np.zeros_like(centers), np.zeros(n, np.int64), 0.0, 0.0, 0)
    lengths = np.einsum("ij,ij->i", centers, centers)
    for piece in pieces:
        usable = rows.of(piece)
        shape = usable.values.shape
        values = scratch_buffer("kmeans-values", shape, np.float64)
        np.subtract(usable.double, middle, out=values)
        nearest = (lengths - 2 * (values @ centers.T)).argmin(axis=1).astype(labels.dtype)
        sums.changed += int(np.count_nonzero(nearest != labels[usable.positions]))
        labels[usable.positions] = nearest
        members = (nearest[:, np.newaxis] == np.arange(n)).astype(np.float64)
        sums.totals += members.T @ values
        sums.counts += np.bincount(nearest, minlength=n)
        sums.squares += float(np.vdot(values, values))
        # (taken from the differences themselves: tight clusters far apart lose no digits)
        apart = scratch_buffer("kmeans-apart", shape, np.float64)
        np.subtract(values, centers[nearest], out=apart)
        sums.inertia += float(np.vdot(apart, apart))
    return sums
