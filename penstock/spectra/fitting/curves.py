"""Curves with the parameters of a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from penstock.spectra.fitting.models import as_model


def evaluate(
    model: Any, x: Any, results: xr.Dataset, *, dim: str | tuple[str, ...] = "frequency"
) -> xr.DataArray:
    """Curves with the parameters of a fit, to plot them or to look at residuals.

    Parameters
    ----------
    model : str, mapping, Model or callable
        As for `Fit`.
    x : xarray.DataArray or array_like, or a list of them
        Abscissa (L,); for curves over several dims one for each.
    results : xarray.Dataset
        With a variable for every parameter of the model.
    dim : str or tuple of str, default "frequency"
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
    >>> from penstock.spectra.fitting.fit import evaluate
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
    model = model.with_attrs({name: results[name].attrs for name in model.parameter_names})
    names = (dim,) if isinstance(dim, str) else tuple(dim)
    given = [x] if len(names) == 1 and not _is_list_of_axes(x) else list(x)
    axes = [
        axis if isinstance(axis, xr.DataArray) else xr.DataArray(np.asarray(axis), dims=name)
        for axis, name in zip(given, names, strict=True)
    ]
    dims = [str(axis.dims[0]) for axis in axes]
    points = [np.asarray(axis.values, dtype=np.float64) for axis in axes]
    shape = tuple(map(len, points))
    grid = points[0]
    if len(points) > 1:
        grid = np.stack([along.ravel() for along in np.meshgrid(*points, indexing="ij")])
    curves = model.curves(grid)

    def curve(*parameters: np.ndarray) -> np.ndarray:
        stacked = np.stack(np.broadcast_arrays(*parameters), axis=-1).astype(np.float64)
        with np.errstate(all="ignore"):
            flat = curves(stacked.reshape(-1, stacked.shape[-1]))
        return flat.reshape(*stacked.shape[:-1], *shape)

    found: xr.DataArray = xr.apply_ufunc(
        curve,
        *(results[name] for name in model.parameter_names),
        output_core_dims=[dims],
        dask="parallelized",
        output_dtypes=[curves(np.ones((1, len(model.parameter_names)))).dtype],
        dask_gufunc_kwargs={"output_sizes": dict(zip(dims, shape, strict=True))},
    )
    return found.assign_coords({n: axis[n] for axis in axes for n in axis.coords})


def _is_list_of_axes(x: Any) -> bool:
    return isinstance(x, list | tuple) and len(x) == 1 and np.ndim(x[0]) == 1
