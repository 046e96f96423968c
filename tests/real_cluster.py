"""A scheduler and workers as a user starts them in a shell: without nannies, each a process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paths import environment


class RealCluster:
    """Processes of a scheduler and its workers, and a client of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address_file = folder / "scheduler.json"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show",
            "--scheduler-file", str(self.address_file),
        )  # fmt: skip
        self.client: Any = None

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            env=environment(),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def add_workers(self, n: int) -> None:
        """Start workers of one thread each."""
        for _ in range(n):
            self.workers.append(
                self._start(
                    "worker", "--scheduler-file", str(self.address_file), "--nthreads", "1",
                    "--no-nanny", "--no-dashboard", "--host", "127.0.0.1", "--memory-limit", "0",
                )
            )  # fmt: skip

    def connect(self) -> None:
        """Make the client, and wait for the workers."""
        from distributed import Client

        deadline = time.time() + 60
        while not self.address_file.exists():
            assert time.time() < deadline
            time.sleep(0.1)
        self.client = Client(scheduler_file=str(self.address_file), set_as_default=False, timeout=5)
        self.client.wait_for_workers(len(self.workers), timeout=60)

    def close(self) -> None:
        """End everything."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
        if self.client is not None:
            with contextlib.suppress(Exception):
                self.client.close(timeout=2)


@contextlib.contextmanager
def real_cluster(folder: Path, workers: int = 2) -> Iterator[RealCluster]:
    """A cluster of so many workers."""
    cluster = RealCluster(folder)
    try:
        cluster.add_workers(workers)
        cluster.connect()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RealCluster]:
    """A cluster of two workers."""
    with real_cluster(tmp_path) as made:
        yield made
