"""Where blocks run: threads of this process, local worker processes, or a Dask cluster.

All three look like a `concurrent.futures.Executor` to a run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any


def active_client() -> Any:
    """The `distributed.Client` that is active here, or None. Does not import distributed."""
    if "distributed" not in sys.modules:
        return None
    from distributed import Client

    with contextlib.suppress(ValueError):
        return Client.current(allow_global=True)
    return None


@contextlib.contextmanager
def thread_executor(workers: int) -> Iterator[Executor]:
    """Threads of this process."""
    with ThreadPoolExecutor(workers, thread_name_prefix="penstock") as executor:
        yield executor


@contextlib.contextmanager
def client_executor(client: Any) -> Iterator[Executor]:
    """Workers of a Dask cluster. Tasks are not cached by their arguments: they have effects."""
    executor = client.get_executor(pure=False)
    try:
        yield executor
    finally:
        executor.shutdown(wait=False)


@contextlib.contextmanager
def local_processes(workers: int) -> Iterator[Any]:
    """A Dask client on `workers` local processes of one thread each, on loopback.

    The workers are started as programs of their own, not as copies of this one: nothing runs a
    script's main module again, so that scripts need no ``if __name__ == "__main__"`` guard.
    """
    from distributed import Client, Scheduler, SpecCluster
    from distributed.deploy.subprocess import SubprocessWorker

    # a connection that ends while the cluster closes is logged with its traceback, sometimes after
    # the cluster has stopped silencing logs
    logging.getLogger("distributed.batched").setLevel(logging.WARNING)
    options = {
        "worker_class": "distributed.Worker",
        "worker_kwargs": {"nthreads": 1, "memory_limit": 0, "dashboard": False},
    }
    scheduler = {
        "cls": Scheduler,
        "options": {"host": "127.0.0.1", "dashboard": False, "dashboard_address": None},
    }
    environment = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "DASK_LOGGING__DISTRIBUTED": "critical",
        # functions of modules that are found here are found there
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        cluster = SpecCluster(
            workers={i: {"cls": SubprocessWorker, "options": options} for i in range(workers)},
            scheduler=scheduler,
            silence_logs=40,
        )
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    try:
        with Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
            yield client
    finally:
        cluster.close(timeout=10)
