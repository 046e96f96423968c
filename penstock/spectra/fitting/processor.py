"""Curve fits at every position of a dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, Indexer, Region, indexer_length, read_region
from penstock.messages import shown
from penstock.processor import Context, Processor, function_identity
from penstock.records import results_outline
from penstock.spectra.any_function.positions import probed
from penstock.spectra.fitting.curves import evaluate
from penstock.spectra.fitting.models import FunctionModel, as_model, plain_model
from penstock.spectra.fitting.options import (
    bound_arrays,
    check_data,
    check_sigma,
    first_parameters,
    fixed_values,
    plain_bounds,
)
from penstock.spectra.fitting.priors import (
    ClusterPrior,
    NeighbourPrior,
    cluster_prior,
    neighbour_prior,
    sampled_spectra,
)
from penstock.spectra.fitting.problem import Tolerances
from penstock.spectra.fitting.solver import LeastSquares, NanPolicy, result_fields
from penstock.spectra.fitting.solver_state import CONVERGED
from penstock.spectra.passes.layout import spectral_dim


@dataclass(frozen=True, repr=False)
class Fit(Processor):
    """Fit a curve to the spectrum at every position, by least squares.

    All positions of a block are fitted together (`penstock.spectra.fitting.levenberg`); the results
    are those of `scipy.optimize.curve_fit` at every position by itself, in a small part of the
    time.

    Parameters
    ----------
    model : str, mapping, Model or callable
        ``"gaussian"``, ``"lorentzian"``, ``"voigt"``, ``"exponential_decay"``,
        ``"simple_harmonic_oscillator"``, ``{"polynomial": {"degree": 2}}``, a
        `penstock.spectra.fitting.models.Model`, or any function ``f(x, a, b, ...)`` as for
        `curve_fit`.
    guess : sequence of float or callable, optional
        First parameters: the same at all positions, or ``guess(x, y)`` called for each. Default:
        the model's own; for a function what `curve_fit` takes (1, or the middle of the bounds).
    bounds : mapping or pair, optional
        ``{"center": (0.0, 5.0)}`` with None where a side is open, or ``(lower, upper)`` as for
        `curve_fit`. Guesses of positions are moved inside. Equal bounds fix a parameter.
    fixed : mapping, optional
        Parameters that are held at a value, as with ``vary=False`` of lmfit:
        ``{"offset": 0.2}``. Their errors and covariances are NaN.
    sigma : float, sequence of float or str, optional
        Standard deviation of the values [units of the signal], one for all or one a point (L,);
        for complex spectra that of the real and of the imaginary part. Or the name of a coordinate
        of the dataset that holds those of every position, over dims of the signal:
        ``ds.assign_coords(deviation=(ds.signal.dims, deviations))``.
    absolute_sigma : bool, default False
        Whether `sigma` is more than relative: if not, errors are scaled so that the reduced chi
        square is 1, as in `curve_fit`.
    nan_policy : {"omit", "propagate", "raise"}, default "omit"
        Whether values that are not finite do not count, as with ``nan_policy="omit"`` of
        `curve_fit`, make the fit of their position fail, or are an error. A position with fewer
        values than parameters fails.
    method : {"batched", "scipy"}, default "batched"
        ``"scipy"`` runs `scipy.optimize.least_squares` at each position: the reference, and slow.
    prior : {"neighbour", "kmeans"}, optional
        Fit a coarse grid of positions first, and start every position from the nearest of them; or
        cluster the grid's spectra, fit the centres, and start from the nearest centre. Only fits
        that converged are started from, and where that leads nowhere the usual guess is.
    n_clusters : int, default 16
        Clusters for ``prior="kmeans"``.
    n_prior : int, default 1024
        Positions at most that the prior is made of.
    core_dim : str or tuple of str, optional
        Dim of a spectrum. Its coordinate is x; without one, x counts from 0. Several dims for
        curves over all of them: a function of yours is then called with ``x`` of the shape
        (dims, points), to be unpacked (``v, u = x``), and returns (points,). Default:
        ``frequency``, otherwise the last of the spectroscopic dims that a file tells, otherwise
        the last dim; for a model over several dims as many of the last.
    ftol, xtol, gtol : float, default 1e-8
        Tolerances as those of `scipy.optimize.least_squares`, of which none depends on where x and
        y begin to count.
    max_nfev : int, optional
        Evaluations of the model at a position. Default: 200 for each parameter and one more, and as
        many again where a fit that led nowhere starts again with shorter steps.
    gil : {"held", "released"}, default "held"
        ``"held"``: blocks go to processes, and two of them are nearly twice as fast as one.
        ``"released"`` keeps them in threads of one process, which take less memory, but hand
        Python's lock to and fro between short NumPy calls and are hardly faster than one.

    Raises
    ------
    ValueError, TypeError
        If model, guess and bounds do not go together, or data and model do not, or if a function
        fails at its first guess.

    Notes
    -----
    Results over the positions: a variable for every parameter and its standard error
    (``<parameter>_error``), ``covariance`` (parameter, parameter_2), ``reduced_chi_square``,
    ``n_evaluations`` and ``status``:

    = =================================================================== =====================
    1 converged                                                           errors of `curve_fit`
    2 failed: too few values, or the curve at the first guess is not      all NaN, with the
      finite                                                              reason in the report
    3 not converged: the best parameters found                            errors NaN
    4 converged, with a parameter at a bound or at a limit of the model   as for 1
    5 converged, but the data do not determine all parameters             errors infinite
    = =================================================================== =====================

    The covariance is `curve_fit`'s: ``inv(J.T @ J)``, times the reduced chi square unless
    `absolute_sigma`; the standard errors are the square roots of its diagonal. A complex spectrum
    of L points counts as 2 L values. What status 5 means does not depend on units: derivatives are
    dependent to rounding, errors change out of recognition when data and curve change by rounding
    errors, or there are no more values than parameters.

    The result of a position depends neither on those around it nor on how the data are cut.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra.fitting.fit import Fit
    >>> x = np.linspace(-5, 5, 50)
    >>> centers = np.array([[-1.0, 1.0], [0.5, 2.0]])
    >>> y = 3 * np.exp(-((x - centers[..., np.newaxis]) ** 2) / 2)
    >>> ds = ps.make_dataset(y, ("y", "x", "frequency"), coords={"frequency": x})
    >>> results = ps.Pipeline([Fit("gaussian")])(ds)
    >>> results.center.values.round(6).tolist()
    [[-1.0, 1.0], [0.5, 2.0]]
    """

    model: Any
    guess: tuple[float, ...] | Callable[..., Any] | None = None
    bounds: Any = None
    sigma: float | tuple[float, ...] | str | None = None
    absolute_sigma: bool = False
    method: Literal["batched", "scipy"] = "batched"
    prior: Literal["neighbour", "kmeans"] | None = None
    n_clusters: int = 16
    n_prior: int = 1024
    core_dim: str | tuple[str, ...] | None = None
    ftol: float = 1e-8
    xtol: float = 1e-8
    gtol: float = 1e-8
    max_nfev: int | None = None
    fixed: Mapping[str, float] | None = field(default=None, kw_only=True)
    nan_policy: NanPolicy = field(default="omit", kw_only=True)
    gil: Literal["released", "held"] = field(default="held", kw_only=True)  # type: ignore[misc]

    @property
    def scratch_bytes(self) -> int:  # type: ignore[override]
        """A tile of positions, whatever the block."""
        return int(self.model.scratch * (14 << 20))

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", as_model(self.model))
        object.__setattr__(self, "bounds", plain_bounds(self.bounds, self.model.parameter_names))
        for name in ("guess", "sigma"):
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, value.tolist())
        if not isinstance(self.sigma, str | None) and np.ndim(self.sigma) > 1:
            raise ValueError(
                "sigma of every position is given as a coordinate of the dataset: "
                "ds.assign_coords(deviation=(ds.signal.dims, values)), Fit(sigma='deviation'); or "
                "as an array to fit_positions"
            )
        if isinstance(self.fixed, Mapping):
            plain = {str(name): float(value) for name, value in self.fixed.items()}
            object.__setattr__(self, "fixed", plain or None)
        super().__post_init__()

    def validate(self) -> None:
        names = self.model.parameter_names
        lower, upper = bound_arrays(self.bounds, self.model)
        fixed = fixed_values(self.fixed, lower, upper, self.model)
        if not self.core_dims or len(set(self.core_dims)) < len(self.core_dims):
            raise ValueError(f"core_dim={self.core_dim!r} must name a dim, or several, each once")
        if isinstance(self.guess, tuple):
            if len(self.guess) != len(names):
                raise ValueError(
                    f"guess has {len(self.guess)} values, but the model has {len(names)} "
                    f"parameters: {', '.join(names)}"
                )
            for k, (name, value) in enumerate(zip(names, self.guess, strict=True)):
                low, high = lower[k], upper[k]
                if np.isnan(fixed[k]) and not low <= value <= high:
                    raise ValueError(
                        f"the guess {value:g} of {name!r} lies outside of its bounds "
                        f"({low:g}, {high:g})"
                    )
        given = None if isinstance(self.sigma, str) else self.sigma
        if given is not None and not np.all(np.asarray(given) > 0):
            count = np.count_nonzero(~(np.asarray(given) > 0))
            among = f": {count} of its {np.size(given)} values are not" if np.ndim(given) else ""
            raise ValueError(f"sigma={shown(self.sigma)} must be positive{among}")
        for name in ("n_clusters", "n_prior", "max_nfev"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")

    # ------------------------------------------------------------------ the contract

    @property
    def core_dims(self) -> tuple[str, ...]:  # type: ignore[override]
        named = "frequency" if self.core_dim is None else self.core_dim
        return (named,) if isinstance(named, str) else tuple(named)

    def bound(self, ds: xr.Dataset) -> Fit:
        if self.core_dim is not None:
            return self
        n_dims = self.model.n_dims
        last = tuple(map(str, ds[SIGNAL].dims))[-n_dims:]
        return replace(self, core_dim=spectral_dim(ds) if n_dims == 1 else last)

    @property
    def row_scratch(self) -> float:  # type: ignore[override]
        """A spectrum that is larger than a tile is worked on by itself, in float64."""
        return 2.0 * (6 * len(self.model.parameter_names) + 10)

    def kernel_bytes(self, ds: xr.Dataset, region: Region) -> int:
        extra = 0
        if isinstance(self.sigma, str) and self.sigma in ds.variables:
            dims = ds.variables[self.sigma].dims
            sizes = (indexer_length(region[str(dim)]) for dim in dims if str(dim) in region)
            extra = 8 * math.prod(sizes)
        return super().kernel_bytes(ds, region) + extra

    def resident_bytes(self, ds: xr.Dataset) -> int:
        if isinstance(self.sigma, str) and self.sigma in ds.variables:
            variable = ds.variables[self.sigma]
            return int(variable.nbytes) if isinstance(variable._data, np.ndarray) else 0
        return 0

    def row_seconds(self, ds: xr.Dataset, state: Any) -> float:
        one_by_one = self.method == "scipy" or callable(self.guess)
        one_by_one = one_by_one or isinstance(self.model, FunctionModel)
        n = len(self.model.parameter_names)
        return 2e-3 if one_by_one else 1e-7 * n * self._length(ds)

    def _length(self, ds: xr.Dataset) -> int:
        """Points of a spectrum."""
        return math.prod(ds.sizes[dim] for dim in self.core_dims)

    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "model": plain_model(self.model)}

    def check_writable(self) -> None:
        if isinstance(self.model, FunctionModel) or callable(self.guess):
            raise ValueError(
                "Fit of a function of yours cannot be written to a file: use a named model, or a "
                "subclass of penstock.spectra.fitting.models.Model in a module that can be imported"
            )

    def canonical(self) -> dict[str, Any]:
        canonical = super().canonical()
        if callable(self.guess):
            canonical["guess"] = function_identity(self.guess)
        if isinstance(self.model, FunctionModel):
            canonical["model"] = function_identity(self.model.formula)
        elif not type(self.model).__module__.startswith("penstock."):
            canonical["model"] = function_identity(type(self.model))
        return canonical

    def __hash__(self) -> int:
        return hash((self.model, str(self.parameters())))

    def prepare(self, ds: xr.Dataset) -> NeighbourPrior | ClusterPrior | None:
        return self.prepared(ds, self._abscissa(ds))

    def prepared(self, ds: xr.Dataset, x: np.ndarray) -> NeighbourPrior | ClusterPrior | None:
        """What `prepare` returns, for an abscissa that the dataset need not have."""
        self._check_abscissa(x, ds[SIGNAL].dtype)
        self._try_function(ds, x)
        if self.prior is None or not ds[SIGNAL].size:
            return None
        grid, spectra = sampled_spectra(ds, self.core_dims, self.n_prior)
        solver = self._solver(x)

        def refit(spectra: np.ndarray, start: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
            records, _ = solver.fit(x, spectra, start)
            found = np.stack([records[name] for name in self.model.parameter_names], axis=-1)
            # a spectrum without any change tells nothing of where a peak is
            usable = (records["status"] == CONVERGED) & np.isfinite(found).all(axis=-1)
            usable &= (spectra != spectra[:, :1]).any(axis=-1)
            misfits = np.where(usable, records["reduced_chi_square"], np.inf)
            return np.where(usable[:, np.newaxis], found, np.nan), misfits

        if self.prior == "neighbour":
            return neighbour_prior(grid, spectra, refit)
        return cluster_prior(spectra, self.n_clusters, refit)

    def _try_function(self, ds: xr.Dataset, x: np.ndarray) -> None:
        """Raise ValueError where a user's function fails whatever the spectrum."""
        if not isinstance(self.model, FunctionModel):
            return
        if isinstance(self.guess, tuple):
            guesses: Iterable[np.ndarray] = [np.asarray(self.guess, dtype=np.float64)]
        elif self.guess is None:
            guesses = [first_parameters(*bound_arrays(self.bounds, self.model))]
        else:
            guesses = _guesses(self.guess, x, probed(ds, self.core_dims))
        first: tuple[Exception, np.ndarray] | None = None
        for guess in guesses:
            try:
                with np.errstate(all="ignore"):
                    self.model.curve_at(x, guess)
                return
            except Exception as error:
                first = first or (error, guess)
        if first is None:  # (no guess: the positions have their own reasons)
            return
        reason, guess = first
        name = getattr(self.model.formula, "__name__", repr(self.model.formula))
        pairs = zip(self.model.parameter_names, guess, strict=True)
        raise ValueError(
            f"{name} failed at its first guess, {', '.join(f'{n}={v:g}' for n, v in pairs)}, on "
            f"the {x.shape[-1]} points of {', '.join(map(repr, self.core_dims))}: "
            f"{type(reason).__name__}: {reason}"
        ) from reason

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        x = self._abscissa(ds)
        self._sigma_dims(ds)
        names = list(self.model.parameter_names)
        coords = {"parameter": names, "parameter_2": names}
        attrs = ds[SIGNAL].attrs
        units = {ds[dim].attrs.get("units") if dim in ds.coords else None for dim in self.core_dims}
        x_units = next(iter(units)) if len(units) == 1 else None
        fields = result_fields(self.model.at(x), x_units, attrs.get("units"))
        return results_outline(ds, self.core_dims, fields, coords)

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        return self.fitted(block, ctx, self._abscissa(ctx.dataset), self._sigma_of(ctx))

    def fitted(
        self, block: np.ndarray, ctx: Context, x: np.ndarray, sigma: np.ndarray | None
    ) -> np.ndarray:
        """Records of a block over this abscissa; `sigma` that every position has of its own."""
        dims = [str(dim) for dim in ctx.dataset[SIGNAL].dims if dim not in self.core_dims]
        loops = block.shape[: block.ndim - len(self.core_dims)]
        block = block.reshape(*loops, x.shape[-1])
        if self.nan_policy == "raise" and not np.isfinite(block).all():
            where = np.argwhere(~np.isfinite(block))[0][:-1]
            here = {dim: _along(ctx.region[dim])[i] for dim, i in zip(dims, where, strict=True)}
            place = ", ".join(f"{dim} {i}" for dim, i in here.items()) or "the spectrum"
            raise ValueError(
                f"the values at {place} are not all finite: replace them, or leave them out with "
                "nan_policy='omit'"
            )
        prior, first = ctx.state, None
        if prior is not None:
            along = [_along(ctx.region[dim]) for dim in dims]

            def first(rows: np.ndarray, spectra: np.ndarray) -> np.ndarray:
                index = np.unravel_index(rows, loops) if loops else ()
                here = [positions[i] for positions, i in zip(along, index, strict=True)]
                return prior.start(dict(zip(dims, here, strict=True)), spectra)

        records, reasons = self._solver(x).fit(
            x, block, first, sigma=sigma, fall_back=first is not None
        )
        for row, reason in reasons.items():
            ctx.failed(tuple(map(int, np.unravel_index(row, loops))) if loops else (), reason)
        return records

    def _solver(self, x: np.ndarray) -> LeastSquares:
        given = None if isinstance(self.sigma, str) else self.sigma
        model, bounds = self.model.at(x), bound_arrays(self.bounds, self.model)
        return LeastSquares(
            model=model,
            guess=self.guess,
            bounds=bounds,
            fixed=fixed_values(self.fixed, *bounds, model),
            sigma=None if given is None else np.asarray(given, dtype=np.float64),
            absolute_sigma=self.absolute_sigma,
            method=self.method,
            nan_policy=self.nan_policy,
            tolerances=Tolerances(self.ftol, self.xtol, self.gtol, self.max_nfev),
        )

    def _sigma_dims(self, ds: xr.Dataset) -> tuple[str, ...] | None:
        """Dims of the coordinate that sigma is, after a check that there is one; otherwise None."""
        if not isinstance(self.sigma, str):
            return None
        if self.sigma not in ds.coords:
            raise ValueError(
                f"the data have no coordinate {self.sigma!r} to take sigma from: "
                f"ds.assign_coords({self.sigma}=(ds.signal.dims, deviations))"
            )
        dims = tuple(map(str, ds.variables[self.sigma].dims))
        unknown = [dim for dim in dims if dim not in ds[SIGNAL].dims]
        if unknown or ds.variables[self.sigma].dtype.kind not in "fiu":
            raise ValueError(
                f"the coordinate {self.sigma!r} must hold real numbers over dims of the signal "
                f"({', '.join(map(str, ds[SIGNAL].dims))})"
            )
        return dims

    def _sigma_of(self, ctx: Context) -> np.ndarray | None:
        """Standard deviations of a block's positions, in the order of its axes."""
        dims = self._sigma_dims(ctx.dataset)
        if dims is None:
            return None
        assert isinstance(self.sigma, str)
        values = read_region(ctx.dataset, {dim: ctx.region[dim] for dim in dims}, self.sigma)
        loops = [str(dim) for dim in ctx.dataset[SIGNAL].dims if dim not in self.core_dims]
        wanted = [*loops, *self.core_dims]
        values = values.transpose([dims.index(dim) for dim in wanted if dim in dims])
        shape = [indexer_length(ctx.region[dim]) if dim in dims else 1 for dim in wanted]
        values = values.reshape(shape)
        inner = tuple(ctx.dataset.sizes[dim] for dim in self.core_dims)
        outer = values.shape[: len(loops)]
        return np.broadcast_to(values, (*outer, *inner)).reshape(*outer, -1)

    def _abscissa(self, ds: xr.Dataset) -> np.ndarray:
        """X of a dataset, after a check that model and data go together.

        (points,), or (dims, points) of curves over several dims.
        """
        axes = []
        for dim in self.core_dims:
            x = np.arange(ds.sizes[dim], dtype=np.float64)
            if dim in ds.coords:
                values = ds[dim].values
                if values.dtype.kind not in "fiu":
                    raise ValueError(
                        f"the coordinate of {dim!r} must be numbers to fit over, it is "
                        f"{values.dtype}: assign one, or drop it to count from 0"
                    )
                x = np.ascontiguousarray(values, dtype=np.float64)
            axes.append(x)
        x = axes[0]
        if len(axes) > 1:
            x = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])
        self._check_abscissa(x, ds[SIGNAL].dtype)
        return x

    def _check_abscissa(self, x: np.ndarray, dtype: Any) -> None:
        """Raise ValueError where x, the type of the data, and the parameters do not go together."""
        bounds = bound_arrays(self.bounds, self.model)
        n_free = int(np.isnan(fixed_values(self.fixed, *bounds, self.model)).sum())
        check_data(self.model, x, dtype, n_free)
        if self.sigma is not None and not isinstance(self.sigma, str):
            check_sigma(np.asarray(self.sigma), x.shape[-1])

    def curve(self, results: xr.Dataset, x: Any) -> xr.DataArray:
        """Fitted curves over the positions.

        Parameters
        ----------
        results : xarray.Dataset
            What the fit gave.
        x : xarray.DataArray or array_like
            Abscissa (L,), for example ``ds.frequency``; for curves over several dims one for each
            of them, ``[ds.v, ds.u]``.

        Returns
        -------
        xarray.DataArray
            As of `evaluate`, with `core_dim` for x.
        """
        dims = self.core_dim
        if dims is None and isinstance(x, list | tuple) and isinstance(x[0], xr.DataArray):
            dims = tuple(str(axis.dims[0]) for axis in x)
        return evaluate(self.model, x, results, dim="frequency" if dims is None else dims)


def _guesses(
    guess: Callable[..., Any], x: np.ndarray, spectra: Iterable[np.ndarray]
) -> Iterator[np.ndarray]:
    """What a user's function guesses for some spectra, where it does."""
    for spectrum in spectra:
        try:
            yield np.asarray(guess(x, spectrum.copy()), dtype=np.float64).reshape(-1)
        except Exception:
            continue


def _along(indexer: Indexer) -> np.ndarray:
    """Positions that an indexer takes."""
    if isinstance(indexer, slice):
        return np.arange(indexer.start, indexer.stop)
    return indexer
