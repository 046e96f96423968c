"""A cluster as a user starts it in a shell, and what stores hold afterwards."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import search_path

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": search_path(),
}


def content(folder: Path) -> dict[str, str]:
    """Digest of every file of a store."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def cluster(tmp_path: Path):
    """A real scheduler and two real workers, as a user would start them in a shell."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            env=ENVIRONMENT,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        return process

    address_file = tmp_path / "scheduler.json"
    start(
        "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show",
        "--scheduler-file", str(address_file),
    )  # fmt: skip
    workers = [
        start(
            "worker", "--scheduler-file", str(address_file), "--nthreads", "1", "--no-nanny",
            "--no-dashboard", "--host", "127.0.0.1", "--memory-limit", "0",
        )
        for _ in range(2)
    ]  # fmt: skip
    from distributed import Client

    deadline = time.time() + 60
    while not address_file.exists():
        assert time.time() < deadline
        time.sleep(0.1)
    client = Client(scheduler_file=str(address_file), set_as_default=False)
    client.wait_for_workers(2, timeout=60)
    try:
        yield client, workers
    finally:
        client.close()
        for process in started:
            process.kill()
            process.wait()
