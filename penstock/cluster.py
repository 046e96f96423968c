"""Where blocks run: threads of this process, local worker processes, or a Dask cluster.

All three look like a `concurrent.futures.Executor` to a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
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


CERTIFICATE_MODULES = ("cryptography.x509",)
"""What making the certificate of local processes imports, beside Dask."""


@contextlib.contextmanager
def local_processes(workers: int) -> Iterator[Any]:
    """A Dask client on `workers` local processes of one thread each, on loopback.

    The workers are started as programs of their own, not as copies of this one: nothing runs a
    script's main module again, so that scripts need no ``if __name__ == "__main__"`` guard.

    Workers run what they are sent. They hear this machine alone, and of this machine only who has
    the key that is made here, in memory, for these processes: others who work on it cannot connect.
    """
    from distributed import Client, Scheduler, Security, SpecCluster

    # a connection that ends while the cluster closes is logged with its traceback, sometimes after
    # the cluster has stopped silencing logs
    logging.getLogger("distributed.batched").setLevel(logging.WARNING)
    security = Security.temporary()
    options = {
        "worker_class": "distributed.Worker",
        "worker_kwargs": {
            "nthreads": 1,
            "memory_limit": 0,
            "dashboard": False,
            "dashboard_address": f"{LOOPBACK}:0",  # (of its metrics, which are served all the same)
            "host": f"tls://{LOOPBACK}",
        },
        "environment": _worker_environment(security),
    }
    scheduler = {
        "cls": Scheduler,
        "options": {
            "host": f"tls://{LOOPBACK}",
            "dashboard": False,
            "dashboard_address": f"{LOOPBACK}:0",
            "security": security,
        },
    }
    cluster = SpecCluster(
        workers={i: {"cls": _worker_process(), "options": options} for i in range(workers)},
        scheduler=scheduler,
        security=security,
        silence_logs=40,
    )
    try:
        with Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
            yield client
    finally:
        cluster.close(timeout=10)


LOOPBACK = "127.0.0.1"


def _worker_environment(security: Any) -> dict[str, str]:
    """Variables of workers: what they may use, what they find, and whom they talk to.

    Keys come this way because command lines are shown to everybody on a machine, and the
    environment of a process is not.
    """
    key, certificate = security.tls_worker_key, security.tls_worker_cert
    keys = {
        "REQUIRE_ENCRYPTION": "True",
        "TLS__CA_FILE": security.tls_ca_file,
        "TLS__WORKER__KEY": key,
        "TLS__WORKER__CERT": certificate,
        # (workers ask each other, and the scheduler, as clients)
        "TLS__CLIENT__KEY": key,
        "TLS__CLIENT__CERT": certificate,
    }
    return {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "DASK_LOGGING__DISTRIBUTED": "critical",
        # functions of modules that are found here are found there
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        **{f"DASK_DISTRIBUTED__COMM__{name}": text for name, text in keys.items()},
    }


@functools.cache
def _worker_process() -> type:
    """Dask's worker in a process of its own, with environment variables that only it has."""
    from distributed.deploy.subprocess import SubprocessWorker

    class WorkerProcess(SubprocessWorker):
        def __init__(self, *args: Any, environment: dict[str, str], **kwargs: Any) -> None:
            self.environment = environment
            super().__init__(*args, **kwargs)

        async def _start(self) -> None:
            spec = {"cls": self.worker_class, "opts": self.worker_kwargs}
            command = ["-m", "dask", "spec", self.scheduler, "--spec", json.dumps(spec)]
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *command, env={**os.environ, **self.environment}
            )

    return WorkerProcess
