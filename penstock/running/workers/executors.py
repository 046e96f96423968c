"""Where blocks run: threads of this process, local worker processes, or a Dask cluster.

All three look like a `concurrent.futures.Executor` to a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

from penstock.running.threads import Threads
from penstock.running.workers.dask_logs import quiet_dask


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
    """Threads of this process. One that hangs is left behind where the caller is interrupted."""
    threads = Threads(workers)
    wait = True
    try:
        yield threads
    except Exception:
        raise
    except BaseException:
        wait = False
        raise
    finally:
        threads.shutdown(wait=wait, cancel_futures=True)


@contextlib.contextmanager
def client_executor(client: Any) -> Iterator[Executor]:
    """Workers of a Dask cluster. Tasks are not cached by their arguments: they have effects.

    Futures have the `key` by which Dask knows the task.
    """
    executor = _executor_class()(client, pure=False)
    try:
        yield executor
    finally:
        if client.status == "running":
            with contextlib.suppress(OSError, TimeoutError):
                executor.shutdown(wait=False)


@functools.cache
def _executor_class() -> type:
    from distributed.cfexecutor import ClientExecutor

    class KeyedExecutor(ClientExecutor):
        def _wrap_future(self, future: Any) -> Any:
            wrapped = super()._wrap_future(future)
            wrapped.key = future.key
            return wrapped

    return KeyedExecutor


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

    security = Security.temporary()
    options = {
        "worker_class": "distributed.Worker",
        "worker_kwargs": {
            "nthreads": 1,
            "memory_limit": 0,
            "dashboard": False,
            "dashboard_address": f"{LOOPBACK}:0",  # (of its metrics, which are served all the same)
            "host": f"tls://{LOOPBACK}",
            "preload": ["penstock.running.workers.start"],
            "death_timeout": 60,
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
            # (what ended a worker is not given to the next one: the run decides)
            "allowed_failures": 0,
        },
    }
    with quiet_dask():
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


BROKEN = 5
"""How often in a row a worker that ends within a second is started again."""


@functools.cache
def _worker_process() -> type:
    """Dask's worker in a process of its own, with environment variables that only it has.

    Where the process ends although nobody closed it, another takes its place.
    """
    from distributed.deploy.subprocess import SubprocessWorker

    class WorkerProcess(SubprocessWorker):
        def __init__(self, *args: Any, environment: dict[str, str], **kwargs: Any) -> None:
            self.environment = environment
            self.ends: dict[int, int] = {}
            self.closing = False
            super().__init__(*args, **kwargs)

        async def _start(self) -> None:
            await self._start_process()
            self._watching = asyncio.create_task(self._keep_up())

        async def _start_process(self) -> None:
            spec = {"cls": self.worker_class, "opts": self.worker_kwargs}
            command = ["-m", "dask", "spec", self.scheduler, "--spec", json.dumps(spec)]
            # (in a session of its own: Ctrl-C in the terminal is for the run to hear, which ends
            # its workers itself)
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

        async def _keep_up(self) -> None:
            soon = 0
            while soon < BROKEN and self.process is not None:
                began = time.monotonic()
                code = await self.process.wait()
                if self.closing or self.process is None:
                    return
                self.ends[self.process.pid] = code
                soon = soon + 1 if time.monotonic() - began < 1 else 0
                await self._start_process()
                if self.closing and self.process is not None:
                    self.process.kill()

        async def close(self) -> None:
            self.closing = True
            await super().close()

    return WorkerProcess


def exit_reason(client: Any, process: str) -> str:
    """How a local process of ours (``host:id``) ended, in words; nothing where it is not ours."""
    workers = getattr(getattr(client, "cluster", None), "workers", None) or {}
    kept = [worker for worker in workers.values() if hasattr(worker, "ends")]
    code: int | None = None
    began = time.monotonic()
    while kept and code is None and time.monotonic() < began + 2:
        # (Dask may know of it before the system says how it ended)
        codes = {str(pid): end for worker in kept for pid, end in worker.ends.items()}
        code = codes.get(process.rpartition(":")[-1])
        if code is None:
            time.sleep(0.05)
    if code is None:
        return ""
    if code >= 0:
        return f"it ended with exit code {code}"
    known: dict[int, str] = {
        signal.SIGSEGV: "a crash in compiled code: segmentation fault",
        signal.SIGKILL: "it was killed, as systems do where memory runs out",
    }
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    return known.get(-code, f"it was ended by the signal {name}")
