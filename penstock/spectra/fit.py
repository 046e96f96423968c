"""Curve fits at every position of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, Indexer, Region, make_dataset
from penstock.processor import Context, Processor, function_identity
from penstock.results import results_outline
from penstock.spectra.least_squares import (
    LeastSquares,
    bound_arrays,
    check_data,
    first_parameters,
    plain_bounds,
    result_fields,
)
from penstock.spectra.levenberg import CONVERGED, Tolerances
from penstock.spectra.models import FunctionModel, Model, as_model, plain_model
from penstock.spectra.positions import probed
from penstock.spectra.priors import (
    ClusterPrior,
    NeighbourPrior,
    cluster_prior,
    neighbour_prior,
    sampled_spectra,
)


@dataclass(frozen=True, repr=False)
class Fit(Processor):
    """Fit a curve to the spectrum at every position, by least squares.

    All positions of a block are fitted together (`penstock.spectra.levenberg`); the results are
    those of `scipy.optimize.curve_fit` at every position by itself, in a small part of the time.

    Parameters
    ----------
    model : str, mapping, Model or callable
        ``"gaussian"``, ``"lorentzian"``, ``"voigt"``, ``"exponential_decay"``,
        ``"simple_harmonic_oscillator"``, ``{"polynomial": {"degree": 2}}``, a
        `penstock.spectra.models.Model`, or any function ``f(x, a, b, ...)`` as for `curve_fit`.
    guess : sequence of float or callable, optional
        First parameters: the same at all positions, or ``guess(x, y)`` called for each. Default:
        the model's own; for a function what `curve_fit` takes (1, or the middle of the bounds).
    bounds : mapping or pair, optional
        ``{"center": (0.0, 5.0)}`` with None where a side is open, or ``(lower, upper)`` as for
        `curve_fit`. Guesses of positions are moved inside.
    sigma : float or sequence of float, optional
        Standard deviation of the values [units of the signal], one for all or one a point (L,);
        for complex spectra that of the real and of the imaginary part.
    absolute_sigma : bool, default False
        Whether `sigma` is more than relative: if not, errors are scaled so that the reduced chi
        square is 1, as in `curve_fit`.
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
    core_dim : str, default "frequency"
        Dim of a spectrum. Its coordinate is x; without one, x counts from 0.
    ftol, xtol, gtol : float, default 1e-8
        Tolerances as those of `scipy.optimize.least_squares`.
    max_nfev : int, optional
        Evaluations of the model at a position. Default: 100 a parameter.
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
    ``n_evaluations`` and ``status``: 1 converged, 2 failed (data not finite, or the curve at the
    first guess is not: NaN, with the reason in the report), 3 not converged (the best parameters
    found), 4 converged with a parameter at a bound or at a limit of the model, 5 converged but the
    covariance is singular (infinite errors).

    The covariance is `curve_fit`'s: ``inv(J.T @ J)``, times the reduced chi square unless
    `absolute_sigma`; the standard errors are the square roots of its diagonal. A complex spectrum
    of L points counts as 2 L values.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra.fit import Fit
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
    sigma: float | tuple[float, ...] | None = None
    absolute_sigma: bool = False
    method: Literal["batched", "scipy"] = "batched"
    prior: Literal["neighbour", "kmeans"] | None = None
    n_clusters: int = 16
    n_prior: int = 1024
    core_dim: str = "frequency"
    ftol: float = 1e-8
    xtol: float = 1e-8
    gtol: float = 1e-8
    max_nfev: int | None = None
    gil: Literal["released", "held"] = field(default="held", kw_only=True)  # type: ignore[misc]

    scratch_bytes = 10 << 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", as_model(self.model))
        object.__setattr__(self, "bounds", plain_bounds(self.bounds, self.model.parameter_names))
        for name in ("guess", "sigma"):
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, value.tolist())
        super().__post_init__()

    def validate(self) -> None:
        names = self.model.parameter_names
        lower, upper = bound_arrays(self.bounds, self.model)
        if isinstance(self.guess, tuple):
            if len(self.guess) != len(names):
                raise ValueError(
                    f"guess has {len(self.guess)} values, but the model has {len(names)} "
                    f"parameters: {', '.join(names)}"
                )
            for name, value, low, high in zip(names, self.guess, lower, upper, strict=True):
                if not low <= value <= high:
                    raise ValueError(
                        f"the guess {value:g} of {name!r} lies outside of its bounds "
                        f"({low:g}, {high:g})"
                    )
        if self.sigma is not None and not np.all(np.asarray(self.sigma) > 0):
            raise ValueError(f"sigma={self.sigma!r} must be positive")
        for name in ("n_clusters", "n_prior", "max_nfev"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")

    # ------------------------------------------------------------------ the contract

    @property
    def core_dims(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.core_dim,)

    @property
    def row_scratch(self) -> float:  # type: ignore[override]
        """A spectrum that is larger than a tile is worked on by itself, in float64."""
        return 2.0 * (4 * len(self.model.parameter_names) + 12)

    def row_seconds(self, ds: xr.Dataset, state: Any) -> float:
        one_by_one = self.method == "scipy" or callable(self.guess)
        one_by_one = one_by_one or isinstance(self.model, FunctionModel)
        n = len(self.model.parameter_names)
        return 2e-3 if one_by_one else 1e-7 * n * ds.sizes[self.core_dim]

    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "model": plain_model(self.model)}

    def check_writable(self) -> None:
        if isinstance(self.model, FunctionModel) or callable(self.guess):
            raise ValueError(
                "Fit of a function of yours cannot be written to a file: use a named model, or a "
                "subclass of penstock.spectra.models.Model in a module that can be imported"
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
        x = self._abscissa(ds)
        self._try_function(ds, x)
        if self.prior is None:
            return None
        grid, spectra = sampled_spectra(ds, self.core_dim, self.n_prior)

        def refit(spectra: np.ndarray, start: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
            records, _ = self._solver().fit(x, spectra, start)
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
            f"the {len(x)} points of {self.core_dim!r}: {type(reason).__name__}: {reason}"
        ) from reason

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        self._abscissa(ds)
        names = list(self.model.parameter_names)
        coords = {"parameter": names, "parameter_2": names}
        attrs = ds[SIGNAL].attrs
        x_units = ds[self.core_dim].attrs.get("units") if self.core_dim in ds.coords else None
        fields = result_fields(self.model, x_units, attrs.get("units"))
        return results_outline(ds, self.core_dims, fields, coords)

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        dims = [str(dim) for dim in ctx.dataset[SIGNAL].dims if dim != self.core_dim]
        loops = block.shape[:-1]
        prior, first = ctx.state, None
        if prior is not None:
            along = [_along(ctx.region[dim]) for dim in dims]

            def first(rows: np.ndarray, spectra: np.ndarray) -> np.ndarray:
                index = np.unravel_index(rows, loops) if loops else ()
                here = [positions[i] for positions, i in zip(along, index, strict=True)]
                return prior.start(dict(zip(dims, here, strict=True)), spectra)

        records, reasons = self._solver().fit(
            self._abscissa(ctx.dataset), block, first, fall_back=first is not None
        )
        for row, reason in reasons.items():
            ctx.failed(tuple(map(int, np.unravel_index(row, loops))) if loops else (), reason)
        return records

    def _solver(self) -> LeastSquares:
        sigma = None if self.sigma is None else np.asarray(self.sigma, dtype=np.float64)
        return LeastSquares(
            model=self.model,
            guess=self.guess,
            bounds=bound_arrays(self.bounds, self.model),
            sigma=sigma,
            absolute_sigma=self.absolute_sigma,
            method=self.method,
            tolerances=Tolerances(self.ftol, self.xtol, self.gtol, self.max_nfev),
        )

    def _abscissa(self, ds: xr.Dataset) -> np.ndarray:
        """X of a dataset, after a check that model and data go together."""
        x = np.arange(ds.sizes[self.core_dim], dtype=np.float64)
        if self.core_dim in ds.coords:
            values = ds[self.core_dim].values
            if values.dtype.kind not in "fiu":
                raise ValueError(
                    f"the coordinate of {self.core_dim!r} must be numbers to fit over, it is "
                    f"{values.dtype}: assign one, or drop it to count from 0"
                )
            x = np.ascontiguousarray(values, dtype=np.float64)
        check_data(self.model, x, ds[SIGNAL].dtype, self.sigma)
        return x

    def curve(self, results: xr.Dataset, x: Any) -> xr.DataArray:
        """Fitted curves over the positions.

        Parameters
        ----------
        results : xarray.Dataset
            What the fit gave.
        x : xarray.DataArray or array_like
            Abscissa (L,), for example ``ds.frequency``.

        Returns
        -------
        xarray.DataArray
            As of `evaluate`, with `core_dim` for x.
        """
        return evaluate(self.model, x, results, dim=self.core_dim)


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


def evaluate(model: Any, x: Any, results: xr.Dataset, *, dim: str = "frequency") -> xr.DataArray:
    """Curves with the parameters of a fit, to plot them or to look at residuals.

    Parameters
    ----------
    model : str, mapping, Model or callable
        As for `Fit`.
    x : xarray.DataArray or array_like
        Abscissa (L,).
    results : xarray.Dataset
        With a variable for every parameter of the model.
    dim : str, default "frequency"
        Name of the dim of x, where x does not say.

    Returns
    -------
    xarray.DataArray
        Curves over the dims of the results and that of x, NaN where the fit failed; lazy where the
        results are.

    Raises
    ------
    ValueError
        If the results lack a parameter.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from penstock.spectra.fit import evaluate
    >>> results = xr.Dataset({"c0": ("y", [1.0, 2.0]), "c1": ("y", [0.0, 3.0])})
    >>> evaluate({"polynomial": {"degree": 1}}, np.array([0.0, 2.0]), results).values.tolist()
    [[1.0, 1.0], [2.0, 8.0]]
    """
    model = as_model(model)
    missing = [name for name in model.parameter_names if name not in results]
    if missing:
        raise ValueError(
            f"the results have no {missing[0]!r}, a parameter of {type(model).__name__}: they are "
            "of another model"
        )
    abscissa = x if isinstance(x, xr.DataArray) else xr.DataArray(np.asarray(x), dims=dim)
    (dim,) = map(str, abscissa.dims)
    curves = model.curves(np.asarray(abscissa.values, dtype=np.float64))

    def curve(*parameters: np.ndarray) -> np.ndarray:
        stacked = np.stack(np.broadcast_arrays(*parameters), axis=-1).astype(np.float64)
        with np.errstate(all="ignore"):
            flat = curves(stacked.reshape(-1, stacked.shape[-1]))
        return flat.reshape(*stacked.shape[:-1], len(abscissa))

    found: xr.DataArray = xr.apply_ufunc(
        curve,
        *(results[name] for name in model.parameter_names),
        output_core_dims=[[dim]],
        dask="parallelized",
        output_dtypes=[curves(np.ones((1, len(model.parameter_names)))).dtype],
        dask_gufunc_kwargs={"output_sizes": {dim: len(abscissa)}},
    )
    return found.assign_coords({name: abscissa[name] for name in abscissa.coords})


# ---------------------------------------------------------------------- arrays


@dataclass(frozen=True)
class FitResult:
    """Fits of all positions of an array; every attribute begins with the positions' axes."""

    model: Model
    parameters: np.ndarray
    """Fitted parameters (..., n), NaN where the fit failed."""
    errors: np.ndarray
    """Standard errors (..., n)."""
    covariance: np.ndarray
    """Covariance of the parameters (..., n, n)."""
    reduced_chi_square: np.ndarray
    n_evaluations: np.ndarray
    status: np.ndarray
    """As for `Fit`: 1 converged, 2 failed, 3 not converged, 4 at a bound, 5 singular."""
    failures: Mapping[tuple[int, ...], str]
    """Why positions failed."""

    def __getitem__(self, name: str) -> np.ndarray:
        """Values of one parameter."""
        return self.parameters[..., self.model.parameter_names.index(name)]

    def curve(self, x: Any) -> np.ndarray:
        """Fitted curves (..., L) at x (L,)."""
        n = self.parameters.shape[-1]
        with np.errstate(all="ignore"):
            flat = self.model.curves(np.asarray(x, float))(self.parameters.reshape(-1, n))
        return flat.reshape(*self.parameters.shape[:-1], -1)


def fit_positions(x: Any, y: Any, model: Any, **options: Any) -> FitResult:
    """Fit a curve to every spectrum of an array.

    Parameters
    ----------
    x : array_like
        Abscissa (L,).
    y : array_like
        Spectra (..., L), real or complex.
    model : str, mapping, Model or callable
        As for `Fit`.
    **options
        Further parameters of `Fit`: `guess`, `bounds`, `sigma`, `absolute_sigma`, `method`,
        `prior`, `n_clusters`, `n_prior`, `ftol`, `xtol`, `gtol`, `max_nfev`.

    Returns
    -------
    FitResult

    Raises
    ------
    ValueError, TypeError
        If model, options and data do not go together.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.spectra.fit import fit_positions
    >>> x = np.linspace(0, 4, 60)
    >>> y = np.array([[2.0], [3.0]]) * np.exp(-x / 1.5) + 1
    >>> fit_positions(x, y, "exponential_decay")["time_constant"].round(6).tolist()
    [1.5, 1.5]
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y)
    if x.ndim != 1 or not y.ndim or y.shape[-1] != len(x):
        raise ValueError(
            f"x must be one-dimensional and as long as the last axis of y: x has shape {x.shape}, "
            f"y {y.shape}"
        )
    fit = Fit(model, core_dim="x", **options)
    dims = (*(f"position_{axis}" for axis in range(y.ndim - 1)), "x")
    ds = make_dataset(y, dims, coords={"x": x})
    whole: Region = {dim: slice(0, size) for dim, size in zip(dims, y.shape, strict=True)}
    ctx = Context(whole, {dim: whole[dim] for dim in dims[:-1]}, ds, fit.prepare(ds))
    records = fit.kernel(y, ctx)
    names = fit.model.parameter_names
    return FitResult(
        model=fit.model,
        parameters=np.stack([records[name] for name in names], axis=-1),
        errors=np.stack([records[f"{name}_error"] for name in names], axis=-1),
        covariance=records["covariance"],
        reduced_chi_square=records["reduced_chi_square"],
        n_evaluations=records["n_evaluations"],
        status=records["status"],
        failures={tuple(where.values()): reason for where, reason in ctx.failures},
    )
