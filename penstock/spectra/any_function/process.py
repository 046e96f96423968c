"""A formal process: a dataset, an operation on its positions, and results that are kept."""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from penstock import messages
from penstock.attributes import provenance
from penstock.dataset import SIGNAL
from penstock.memory.accounting import cpu_count
from penstock.pipeline import Pipeline
from penstock.planning.plan import Plan
from penstock.processor import Processor
from penstock.running.report import Report
from penstock.running.result_facts import result_note
from penstock.spectra.any_function.positions import PerPosition
from penstock.spectra.any_function.results_home import ResultsHome
from penstock.spectra.passes.layout import spectral_dims
from penstock.storage.store import fill_shape

ESTIMATE_SECONDS = 0.5
"""How long an estimate tries positions."""


class Process:
    """One operation on every position of a dataset: tried on one, estimated, run, kept.

    Pass a function of one spectrum or a processor, or subclass and define `map_function`.

    Parameters
    ----------
    source : path or xarray.Dataset
        What to process. Paths are opened with `penstock.open_dataset`.
    function : callable, Processor or Pipeline, optional
        Operation. Functions take a spectrum (NumPy array of the core dims) and `parameters`.
        Default: the method `map_function` of a subclass.
    parameters : mapping, optional
        Keyword arguments of the function.
    name : str, optional
        Name of the operation. Default: that of the function or class.
    outputs : mapping, optional
        The template of the results, where they should not be found out by trying: see
        `PerPosition`.
    core_dims : sequence of str, optional
        Dims of a spectrum. Default: the spectroscopic dims that the file tells, otherwise the last
        dim of the signal.
    out : path, optional
        Folder of the results. Default: ``<source>-<name>`` beside the source.
    **options
        Options of `penstock.open_dataset` (``dataset="Measurement_000/Channel_000/Raw_Data"``).

    Notes
    -----
    Results are written block by block into a store of their own, while further blocks are read and
    computed; the source is only read. The same process goes on where it was interrupted (Ctrl-C,
    kill -9), and returns what it finds where everything is computed already, before anything is
    started. That is recognised by the function's source and its library's version, the parameters,
    and the data: values, units and coordinates of the dataset, not other groups of its file.
    Other parameters, and other datasets of the file, get results of their own beside the first
    (``scan.zarr``, ``scan_001.zarr``, ...).

    Examples
    --------
    >>> import numpy as np, penstock as ps, tempfile
    >>> from penstock.spectra import Process
    >>> ds = ps.make_dataset(np.random.rand(8, 9, 50), ("y", "x", "frequency"))
    >>> process = Process(ds, np.ptp, name="range", out=tempfile.mkdtemp())
    >>> float(process.test((3, 4)).result) < 1
    True
    >>> process.compute(workers=1, progress=False).result.shape
    (8, 9)
    """

    map_function: Callable[..., Any] | None = None
    """Of subclasses: a static method of a spectrum and the parameters."""
    outputs: Mapping[str, Any] | None = None
    """Of subclasses: the template of the results."""

    def __init__(
        self,
        source: str | Path | xr.Dataset,
        function: Callable[..., Any] | Processor | Pipeline | None = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        outputs: Mapping[str, Any] | None = None,
        core_dims: str | Sequence[str] | None = None,
        out: str | Path | None = None,
        **options: Any,
    ):
        from penstock.io import open_dataset

        if isinstance(source, xr.Dataset):
            self.dataset = source
        else:
            self.dataset = open_dataset(source, **options)
        operation = function if function is not None else self.map_function
        if inspect.ismethod(operation) and operation.__self__ is self:
            raise TypeError(
                f"{type(self).__name__}.map_function must be a static method (write @staticmethod "
                "above it): it goes to other processes, and what it needs belongs to parameters"
            )
        if operation is None:
            raise TypeError(
                f"{type(self).__name__} needs a function: pass one, or define map_function in the "
                "subclass"
            )
        self.pipeline = self._pipeline(operation, parameters, outputs, core_dims)
        default = type(self).__name__ if function is None else _name_of(operation)
        self.name = name or default
        origin = self.dataset.attrs.get("source") or self.dataset.attrs.get("store")
        beside = Path(str(origin)) if origin else Path.cwd() / "dataset"
        self.out = Path(out) if out is not None else beside.with_name(f"{beside.stem}-{self.name}")
        self._stem = beside.stem
        self.report: Report | None = None

    def _pipeline(
        self,
        operation: Any,
        parameters: Mapping[str, Any] | None,
        outputs: Mapping[str, Any] | None,
        core_dims: str | Sequence[str] | None,
    ) -> Pipeline:
        if isinstance(operation, Processor | Pipeline):
            if parameters or outputs or core_dims:
                raise TypeError("parameters, outputs and core_dims belong to functions: give them "
                                "to the processor itself")  # fmt: skip
            first, *others = operation if isinstance(operation, Pipeline) else [operation]
            return Pipeline([first.bound(self.dataset), *others])
        if isinstance(core_dims, str):
            core_dims = (core_dims,)
        core = tuple(core_dims or spectral_dims(self.dataset))
        made = PerPosition(
            operation,
            kwargs=dict(parameters or {}),
            outputs=outputs if outputs is not None else self.outputs,
            core_dims=core,
        )
        return Pipeline([made])

    @property
    def position_dims(self) -> tuple[str, ...]:
        """Dims of the positions."""
        core = {dim for processor in self.pipeline for dim in processor.core_dims}
        return tuple(str(dim) for dim in self.dataset[SIGNAL].dims if dim not in core)

    @property
    def target(self) -> Path:
        """Store of the results: of those that are there or begun already, otherwise a new one."""
        return self._home.target

    @property
    def _home(self) -> ResultsHome:
        return ResultsHome(self.out, self._stem, self.dataset, self.pipeline)

    def __repr__(self) -> str:
        sizes = " × ".join(f"{self.dataset.sizes[dim]} {dim}" for dim in self.position_dims)
        return f"{type(self).__name__}({self.name!r} on {sizes}, results in {self.out})"

    # ------------------------------------------------------------------ trying

    def test(
        self, position: Mapping[str, int] | Sequence[int] | None = None, *, plot: bool = False
    ) -> xr.Dataset:
        """Results at one position, nothing kept.

        Parameters
        ----------
        position : mapping of dim to index, or indices in the order of the position dims
            Default: the middle.
        plot : bool, default False
            Show the spectrum with what was found.

        Returns
        -------
        xarray.Dataset
            In memory.
        """
        dims = self.position_dims
        if position is None:
            position = {dim: self.dataset.sizes[dim] // 2 for dim in dims}
        if not isinstance(position, Mapping):
            indices = np.atleast_1d(position).tolist()
            position = dict(zip(dims, indices, strict=False)) if len(indices) == len(dims) else {}
        if set(position) != set(dims):
            raise ValueError(f"a position is one index for each of {', '.join(dims)}")
        where = {dim: slice(int(i), int(i) + 1) for dim, i in position.items()}
        one = self.dataset.isel(where)
        if not all(one.sizes[dim] for dim in dims):
            raise IndexError(f"there is no position {dict(position)} in {dict(self.dataset.sizes)}")
        results = self.pipeline(one).compute(scheduler="synchronous")
        if plot:
            from penstock.spectra.plots.view import plot_position, position_text

            last = self.pipeline[-1]
            fit = last if hasattr(last, "curve") else None
            # (the one position that is drawn has the indices 0 in what was selected)
            where_it_lies = position_text(
                self.dataset[SIGNAL],
                {dim: range(self.dataset.sizes[dim])[int(position[dim])] for dim in dims},
            )
            plot_position(
                one, dict.fromkeys(dims, 0), results=results, fit=fit, title=where_it_lies or None
            )
        return results.isel(dict.fromkeys(dims, 0))

    def estimate(self, workers: int | None = None) -> float:
        """Seconds that computing all positions will take, from trying some for half a second.

        Parameters
        ----------
        workers : int, optional
            Default: the cores this process may use.
        """
        dims = self.position_dims
        sizes = tuple(self.dataset.sizes[dim] for dim in dims)
        total, n, done, seconds = math.prod(sizes), 1, 0, 0.0
        while seconds < ESTIMATE_SECONDS and done < total:
            shape = fill_shape(sizes, n)
            part = {dim: slice(0, size) for dim, size in zip(dims, shape, strict=True)}
            lazy = self.pipeline(self.dataset.isel(part))
            began = time.perf_counter()
            lazy.compute(scheduler="synchronous")
            seconds, done = time.perf_counter() - began, math.prod(shape)
            n *= 4
        return seconds / max(1, done) * total / (workers or cpu_count())

    def plan(
        self,
        *,
        memory: int | float | str | None = None,
        workers: int | None = None,
        **options: Any,
    ) -> Plan:
        """Blocks, concurrency and predicted peak memory of `compute` with the same arguments.

        `options` are further ones of `Pipeline.plan` (``executor``, ``client``).
        """
        plan = self.pipeline.plan(self.dataset, memory=memory, workers=workers, **options)
        assert isinstance(plan, Plan)
        return plan

    # ------------------------------------------------------------------ running

    def compute(
        self,
        *,
        memory: int | float | str | None = None,
        workers: int | None = None,
        override: bool = False,
        write_back: bool = False,
        **options: Any,
    ) -> xr.Dataset:
        """Compute all positions that are not computed yet.

        Parameters
        ----------
        memory : str or int, optional
            Budget of the whole run, as for `Pipeline.run`.
        workers : int, optional
        override : bool, default False
            Compute everything again, and replace the results.
        write_back : bool, default False
            Also write the results into the h5USID file that was read (see `write_usid_results`).
        **options
            Further options of `Pipeline.run` (``client``, ``progress``, ``executor``).

        Returns
        -------
        xarray.Dataset
            The results, lazy. `report` tells about the run.

        Raises
        ------
        RuntimeError
            If it failed as a whole. Positions at which the function failed do not raise: their
            ``status`` is 2, and the report counts them.
        """
        from penstock.io import open_dataset

        home = self._home
        target = home.target
        self.report = self.pipeline.run(
            {target.stem: self.dataset},
            self.out,
            memory=memory,
            workers=workers,
            overwrite=override,
            **options,
        )
        if self.report.failed:
            reason = next(iter(self.report.failed.values()))
            reason = reason.replace("use overwrite (--overwrite)", "use override=True")
            raise RuntimeError(f"{self.name}: {reason}")
        if not self.report.skipped:
            home.remember(target)
        results = open_dataset(target)
        about = provenance(results)
        if about.get("n_failed"):
            text = f"{self.name}: {result_note(about)}; their status is 2"
            messages.warn(text, RuntimeWarning, stacklevel=2)
        if write_back:
            self.write_back()
        return results

    @property
    def results(self) -> xr.Dataset:
        """The results of an earlier `compute`, lazy.

        Raises
        ------
        FileNotFoundError
            If there are none.
        """
        from penstock.io import open_dataset

        target = self.target
        if not target.exists():
            raise FileNotFoundError(f"{self.name} is not computed yet: call compute()")
        return open_dataset(target)

    def write_back(self) -> str:
        """Write the results into the h5USID file that was read, once.

        Returns
        -------
        str
            Path of their group in the file.

        Raises
        ------
        ValueError
            If the source is not a dataset of an h5USID file.
        """
        from penstock.io import write_usid_results
        from penstock.io.hdf5.region import open_file

        attrs = self.dataset.attrs
        if attrs.get("data_model") != "h5USID":
            raise ValueError(
                f"{self.name}: results are written back into h5USID files, and the source is none: "
                "use penstock.io.write_usid for a new file"
            )
        home = self._home
        target = home.target
        results = self.results
        about = provenance(results)
        written = about.get("written_back", {})
        if written.get("key") == about["key"]:
            with open_file(attrs["source"]) as file:
                if written["group"] in file:
                    return str(written["group"])
        pipeline = self.pipeline.canonical()
        group = write_usid_results(
            attrs["source"],
            attrs["source_dataset"],
            self.name,
            results,
            parameters={"pipeline": json.dumps(pipeline, default=str)},
        )
        # the file has changed, its raw data have not: the results still are those of this source
        home.adopt(target, written_back={"key": self._home.key, "group": group})
        return group


def _name_of(operation: Any) -> str:
    if isinstance(operation, Pipeline):
        return "-".join(type(processor).__name__ for processor in operation)
    if isinstance(operation, Processor):
        return type(operation).__name__
    inner = getattr(operation, "func", operation)
    return str(getattr(inner, "__name__", type(inner).__name__)).strip("<>")
