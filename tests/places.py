"""The four places where everything runs: one fixture that gives what a run is told to run there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

PLACES = ("threads", "processes", "client", "cluster")


@pytest.fixture(scope="session")
def _clients() -> Iterator[dict[str, Any]]:
    made: dict[str, Any] = {}
    yield made
    for client, cluster in made.values():
        client.close()
        cluster.close()


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, _clients: dict[str, Any]) -> dict[str, Any]:
    """Options of `Pipeline.run`: threads, local processes, a client of this process, a cluster."""
    if request.param in ("threads", "processes"):
        return {"executor": request.param}
    if request.param not in _clients:
        from distributed import Client, LocalCluster

        cluster = LocalCluster(
            n_workers=2 if request.param == "cluster" else 1,
            threads_per_worker=1 if request.param == "cluster" else 2,
            processes=request.param == "cluster",
            memory_limit=0,
            dashboard_address=None,
        )
        _clients[request.param] = Client(cluster, set_as_default=False), cluster
    return {"client": _clients[request.param][0]}
