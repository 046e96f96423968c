"""One call: a function on every position of an array, on all cores."""

from __future__ import annotations

import functools
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.memory.accounting import cpu_count
from penstock.running.workers.executors import active_client
from penstock.spectra.passes.layout import spectral_dims

if TYPE_CHECKING:
    import xarray as xr

# (xarray is imported where it is needed: a script with a NumPy array starts half a second earlier)

PROBE_SECONDS = 0.3
"""How long the first positions are done here, to see what one takes; their results are kept."""
START_SECONDS = 1.0
"""What starting processes costs, with what they import: work below it stays here."""
IDLE_SECONDS = 60
"""How long processes wait for a further call before they end."""
BLOCK_SECONDS = 2.0
"""Longest block worth sending: results and progress come in steady steps."""
SHORT_SECONDS = 0.1
"""Blocks below it cost more than they share out."""
BLOCKS_PER_WORKER = 8
"""What is left is cut into at least so many blocks a worker: all of them end together."""
BLOCK_BYTES = 4 << 20
"""Most that is sent to a worker at a time."""


def parallel_compute(
    data: Any,
    func: Callable[..., Any],
    cores: int | None = None,
    lengthy_computation: bool = False,
    func_args: Sequence[Any] | None = None,
    func_kwargs: Mapping[str, Any] | None = None,
    verbose: bool = True,
    *,
    core_dims: str | Sequence[str] | None = None,
    lazy: bool = False,
    client: Any = None,
) -> Any:
    """Call a function at every position of an array, on several cores.

    Works in scripts without a ``__main__`` guard and in Jupyter, with functions defined anywhere:
    partial functions, lambdas, closures, cells of a notebook.

    Parameters
    ----------
    data : numpy.ndarray, dask.array.Array, h5py.Dataset, xarray.DataArray or xarray.Dataset
        Arrays hold a position in every entry of their first axis. Of xarray objects, every point of
        the dims that are not in `core_dims` is a position, in C order.
    func : callable
        ``func(data[i], *func_args, **func_kwargs)``.
    cores : int, optional
        Processes to use; negative as in scikit-learn (-1: all). Default: those this process may
        use (affinity and cgroup limits are kept), or one where the job is too small to gain.
    lengthy_computation : bool, default False
        Use all `cores` even where the first positions look quick.
    func_args, func_kwargs : sequence and mapping, optional
        Further arguments of `func`.
    verbose : bool, default True
        Say (on standard error) how many processes are used and why, and show progress.
    core_dims : str or sequence of str, optional
        Of xarray objects: the dims of what `func` is given. Default: the last one.
    lazy : bool, default False
        Return a Dask array over the positions instead, of which only a few are computed now.
        Lists of varying length become a pair of arrays: padded entries, and their count.
    client : distributed.Client, optional
        Cluster to work on. Default: the active client if there is one, otherwise local processes,
        which stay for a minute and serve the next call.

    Returns
    -------
    list, dask.array.Array, or tuple of two
        What `func` returned at every position, in order.

    Raises
    ------
    TypeError, ValueError
        For wrong arguments. An exception of `func` is raised as it is, with its position noted.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.spectra import parallel_compute
    >>> [int(i) for i in parallel_compute(np.eye(3), np.argmax, verbose=False)]
    [0, 1, 2]
    """
    _check(func, func_args, func_kwargs, cores)
    core_dims = (core_dims,) if isinstance(core_dims, str) else core_dims
    call = _Call(func, tuple(func_args or ()), dict(func_kwargs or {}))
    if lazy:
        return _lazy(data, call, core_dims)
    positions = _positions(data, core_dims)
    results: list[Any] = []
    began = time.perf_counter()
    seconds = []
    spectra = positions.spectra(0, positions.n)
    for spectrum in spectra:
        start = time.perf_counter()
        results.append(call.at(len(results), spectrum))
        seconds.append(time.perf_counter() - start)
        if time.perf_counter() - began > PROBE_SECONDS and len(seconds) > 1:
            break
    left = positions.n - len(results)
    if not left:
        return results
    each = float(np.median(seconds[1:]))  # (the first may have imported what it needs)
    client = client if client is not None else active_client()
    known = sum(client.nthreads().values()) if client is not None else cpu_count()
    n, why = choose_cores(left, each, cores, known, lengthy_computation, started=client is not None)
    say = functools.partial(print, file=sys.stderr, flush=True) if verbose else _silent
    say(f"penstock: {positions.n:,} positions at {_time(each)}: {why}")
    show = _Progress(positions.n, verbose)
    try:
        if n == 1:
            for spectrum in spectra:
                results.append(call.at(len(results), spectrum))
                show(len(results))
            return results
        if client is not None:
            submit = _on_cluster(call, client)
        else:
            began = time.perf_counter()
            submit, ready = _local(call, n)
            while not ready.done() and len(results) < positions.n:  # (nobody waits for them)
                results.append(call.at(len(results), next(spectra)))
            say(f"penstock: {n} processes, up after {time.perf_counter() - began:.1f} s")
        for part in _in_parallel(submit, positions, len(results), n, each):
            results += part
            show(len(results))
    except BaseException as error:
        if not isinstance(error, Exception):
            _end_local()
        raise
    finally:
        show.close()
    return results


def choose_cores(
    jobs: int,
    seconds: float,
    requested: int | None = None,
    available: int | None = None,
    lengthy_computation: bool = False,
    *,
    started: bool = False,
) -> tuple[int, str]:
    """How many processes a job is worth, and why.

    Parameters
    ----------
    jobs : int
        Positions to do.
    seconds : float
        Time of one [s].
    requested : int, optional
        What the user asked for; negative counts back from all (-1: all).
    available : int, optional
        What there is. Default: the cores this process may use.
    lengthy_computation : bool, default False
        Do not reduce what was asked for.
    started : bool, default False
        Whether the workers are up already.

    Returns
    -------
    int, str
        Processes, and a sentence for people.

    Examples
    --------
    >>> from penstock.spectra.any_function.parallel import choose_cores
    >>> choose_cores(16384, 0.002, available=4)[0]
    4
    >>> choose_cores(100, 0.002, available=4)[0]
    1
    """
    there = available if available is not None else cpu_count()
    wanted = there if requested is None else requested
    if wanted < 0:
        wanted = max(1, there + 1 + wanted)
    note = f" (of {wanted} asked for: there are no more)" if wanted > there else ""
    n = min(wanted, there, jobs)
    serial = jobs * seconds
    start = 0.0 if started else START_SECONDS
    if n > 1 and not lengthy_computation and start + serial / n > 0.9 * serial:
        return 1, f"about {_time(serial)} in all, too short for {n} processes to gain"
    if n == 1:
        return 1, f"about {_time(serial)} on one core{note}"
    return n, f"about {_time(serial)} on one core, {_time(start + serial / n)} on {n}{note}"


@dataclass(frozen=True)
class _Call:
    """The function with its arguments."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def at(self, position: int, spectrum: Any) -> Any:
        try:
            return self.func(spectrum, *self.args, **self.kwargs)
        except Exception as error:
            error.add_note(f"in position {position} of the data")
            raise


def _check(func: Any, args: Any, kwargs: Any, cores: Any) -> None:
    if not callable(func):
        raise TypeError(f"func must be a function, got {type(func).__name__}")
    if args is not None and (isinstance(args, str | Mapping) or not isinstance(args, Sequence)):
        raise TypeError(f"func_args must be a list of arguments, got {type(args).__name__}")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"func_kwargs must be a dictionary, got {type(kwargs).__name__}")
    if cores is not None and (isinstance(cores, bool) or not isinstance(cores, int | np.integer)):
        raise TypeError(f"cores must be a whole number, got {cores!r}")
    if cores == 0:
        raise ValueError("cores must not be 0: give 1 or more, or -1 for all")


# ---------------------------------------------------------------------- positions


@dataclass(frozen=True)
class _Positions:
    """The positions of a source, in order: counted, and read a stretch at a time."""

    n: int
    bytes: int
    """Of one position."""
    read: Callable[[int, int], Any]
    """Positions ``[start, stop)`` as an array, or as something that a worker computes one from."""

    def spectra(self, start: int, stop: int) -> Iterator[Any]:
        """Positions one after the other, read a few at a time."""
        step = max(1, min(BLOCK_BYTES // max(1, self.bytes), 1024))
        for first in range(start, stop, step):
            yield from _loaded(self.read(first, min(first + step, stop)))


def _loaded(block: Any) -> Any:
    return block.compute(scheduler="synchronous") if hasattr(block, "dask") else block


def _positions(data: Any, core_dims: Sequence[str] | None) -> _Positions:
    if _is_xarray(data):
        core = _core_dims(data, core_dims)
        data = data["signal"] if hasattr(data, "data_vars") else data
        loops = [dim for dim in data.dims if dim not in core]
        return _of_grid(data.transpose(*loops, *core), len(loops))
    if core_dims is not None:
        raise ValueError("core_dims are names of dims: they need an xarray object")
    if not hasattr(data, "shape") or not hasattr(data, "dtype"):
        raise TypeError(
            f"data must be an array (NumPy, Dask, h5py or xarray), got {type(data).__name__}"
        )
    if not data.shape:
        raise ValueError("data has no axis of positions: it is a single number")
    n_bytes = math.prod(data.shape[1:]) * data.dtype.itemsize
    return _Positions(int(data.shape[0]), n_bytes, lambda start, stop: data[start:stop])


def _is_xarray(data: Any) -> bool:
    return type(data).__module__.partition(".")[0] == "xarray"


def _core_dims(data: xr.Dataset | xr.DataArray, core_dims: Sequence[str] | None) -> tuple[str, ...]:
    ds: Any = data if hasattr(data, "data_vars") else data.to_dataset(name="signal")
    core = spectral_dims(ds) if core_dims is None else tuple(core_dims)
    data = ds["signal"]
    unknown = [dim for dim in core if dim not in data.dims]
    if unknown:
        raise ValueError(f"core_dims {unknown[0]!r} is not a dim of the data: {data.dims}")
    return core


def _of_grid(data: xr.DataArray, n_loops: int) -> _Positions:
    """Positions of a grid: whole lines of its first dim are read, and cut to what is asked."""
    shape, rest = data.shape[:n_loops], data.shape[n_loops:]
    n_bytes = math.prod(rest) * data.dtype.itemsize
    if not n_loops:
        return _Positions(1, n_bytes, lambda start, stop: data.values[np.newaxis])
    per_line = math.prod(shape[1:])

    def read(start: int, stop: int) -> Any:
        first = start // per_line
        lines = data.isel({data.dims[0]: slice(first, -(-stop // per_line))})
        values = lines.variable.data if lines.chunks is not None else lines.values
        flat = values.reshape(-1, *rest)
        return flat[start - first * per_line : stop - first * per_line]

    return _Positions(math.prod(shape), n_bytes, read)


# ---------------------------------------------------------------------- workers


def _bundled(call: _Call) -> bytes:
    import cloudpickle

    from penstock.running.registrations import registrations

    try:
        bundle: bytes = cloudpickle.dumps((registrations(), cloudpickle.dumps(call)))
    except Exception as error:
        raise TypeError(
            f"func cannot be sent to other processes ({error}): use cores=1, or leave out of it "
            "what belongs to this process (open files, locks, connections)"
        ) from error
    return bundle


_executors: list[Any] = []
"""The one that the last call used."""

Submit = Callable[[int, Any], Any]
"""Sends a stretch of positions (its start, its values); returns a future of `_work`."""


def _local(call: _Call, n: int) -> tuple[Submit, Any]:
    """On processes of this machine, and a future that is done when one of them is up.

    They are started at the first call, and used again by the next.
    """
    from loky import get_reusable_executor

    bundle = _bundled(call)
    executor = get_reusable_executor(max_workers=n, timeout=IDLE_SECONDS)
    _executors[:] = [executor]
    return functools.partial(executor.submit, _work, bundle), executor.submit(_unbundled, bundle)


def _end_local() -> None:
    """After Ctrl-C: end the processes; a function that hangs would hold up the end of the program.

    Waiting for it would be waiting for ever, and the next call starts new ones.
    """
    while _executors:
        _executors.pop().shutdown(wait=False, kill_workers=True)


def _on_cluster(call: _Call, client: Any) -> Submit:
    sent = client.scatter(_bundled(call), broadcast=True, hash=False)
    return functools.partial(client.submit, _work, sent, pure=False)


def _in_parallel(
    submit: Submit, positions: _Positions, start: int, n: int, seconds: float
) -> Iterator[list[Any]]:
    """Results of stretches of positions, in order; a few stretches are under way at a time."""
    import cloudpickle

    waiting: deque[Any] = deque()
    try:
        while start < positions.n or waiting:
            while start < positions.n and len(waiting) < 3 * n:
                stop = start + _block_size(positions, positions.n - start, n, seconds)
                waiting.append(submit(start, positions.read(start, stop)))
                start = stop
            try:
                packed, took = waiting.popleft().result()
            except Exception as error:
                if type(error).__name__ in ("TerminatedWorkerError", "KilledWorker"):
                    raise RuntimeError(
                        "a worker process ended at once (out of memory, or a crash in compiled "
                        "code): try func on one position at a time with cores=1"
                    ) from error
                raise
            results = cloudpickle.loads(packed)
            seconds = took / len(results)
            yield results
    finally:
        # (after Ctrl-C processes are killed, and what they were at is told of as it is)
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt | SystemExit):
            for future in waiting:
                future.cancel()


def _block_size(positions: _Positions, left: int, n: int, seconds: float) -> int:
    """Positions to send at once: shorter towards the end, so that all workers end together."""
    seconds = max(seconds, 1e-9)
    size = min(BLOCK_SECONDS / seconds, left / (n * BLOCKS_PER_WORKER))
    # sending must not take longer than working, nor more memory than this
    size = max(size, min(SHORT_SECONDS / seconds, left / n))
    return max(1, min(math.ceil(size), BLOCK_BYTES // max(1, positions.bytes), left))


def _work(bundle: bytes, start: int, block: Any) -> tuple[bytes, float]:
    """A worker's task: a stretch of positions, one after the other, and the time they took.

    Results go back as one pickle: Dask would send every array of a list by itself.
    """
    import cloudpickle

    call = _unbundled(bundle)
    began = time.perf_counter()
    results = [call.at(start + i, spectrum) for i, spectrum in enumerate(_loaded(block))]
    return cloudpickle.dumps(results), time.perf_counter() - began


@functools.lru_cache(maxsize=4)
def _unbundled(bundle: bytes) -> _Call:
    import cloudpickle

    from penstock.running.registrations import take_over

    registered, packed = cloudpickle.loads(bundle)
    take_over(registered)
    call: _Call = cloudpickle.loads(packed)
    return call


# ---------------------------------------------------------------------- lazy


def _lazy(data: Any, call: _Call, core_dims: Sequence[str] | None) -> Any:
    from penstock.dataset import SIGNAL, make_dataset
    from penstock.pipeline import Pipeline
    from penstock.spectra.any_function.positions import PerPosition

    if _is_xarray(data):
        ds = data if hasattr(data, "data_vars") else data.to_dataset(name=SIGNAL)
        core = _core_dims(ds, core_dims)
    else:
        _positions(data, core_dims)
        dims = ("position", *(f"axis_{i}" for i in range(1, len(data.shape))))
        ds = make_dataset(_array(data), dims)
        core = dims[1:]
    made = Pipeline([PerPosition(call.func, call.args, call.kwargs, core_dims=core)])(ds)
    names = [str(name) for name in made.data_vars if name != "status"]
    arrays = [made[name].data for name in names]
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


def _array(data: Any) -> Any:
    """An array as xarray takes it; an h5py dataset is read a region at a time, never whole."""
    if type(data).__module__.startswith("h5py"):
        import dask.array

        return dask.array.from_array(data, chunks="auto")
    return data


# ---------------------------------------------------------------------- telling


def _silent(*args: Any) -> None:
    pass


def _time(seconds: float) -> str:
    for limit, unit, factor in ((1e-3, "µs", 1e6), (1.0, "ms", 1e3), (120.0, "s", 1.0)):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds / 60:.3g} min"


class _Progress:
    """A bar for work that takes longer than two seconds."""

    def __init__(self, total: int, wanted: bool):
        self.total, self.wanted = total, wanted
        self.began = time.perf_counter()
        self.bar: Any = None

    def __call__(self, done: int) -> None:
        if not self.wanted:
            return
        if self.bar is None:
            if time.perf_counter() - self.began < 2:
                return
            from rich.console import Console
            from rich.progress import Progress

            self.bar = Progress(console=Console(stderr=True))
            self.bar.start()
            self.task = self.bar.add_task("positions", total=self.total)
        self.bar.update(self.task, completed=done)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
