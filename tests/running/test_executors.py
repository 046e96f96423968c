import asyncio
import os

import psutil
import pytest

from penstock.running.workers.executors import local_processes


@pytest.fixture(scope="module")
def before():
    """What listens already: clusters of other tests."""
    return _listening()


@pytest.fixture(scope="module")
def client(before):
    with local_processes(1) as client:
        yield client


def _family():
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _listening():
    return {
        (one.pid, *c.laddr)
        for one in _family()
        for c in one.net_connections(kind="inet")
        if c.status == psutil.CONN_LISTEN
    }


def test_nothing_of_local_processes_listens_beyond_this_machine(client, before):
    assert {host for _, host, *_ in _listening() - before} == {"127.0.0.1"}


@pytest.mark.parametrize("of", ["scheduler", "worker"])
@pytest.mark.parametrize("keys", ["none", "others"])
def test_others_on_this_machine_cannot_connect(client, of, keys):
    from distributed import Security
    from distributed.comm import connect

    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    address = client.scheduler.address if of == "scheduler" else workers[0]
    security = Security.temporary() if keys == "others" else Security(require_encryption=False)
    if keys == "none":
        address = address.replace("tls://", "tcp://")

    async def talk():
        comm = await connect(address, timeout=2, **security.get_connection_args("client"))
        await comm.write({"op": "identity", "reply": True})
        return await comm.read()

    with pytest.raises((OSError, asyncio.TimeoutError)):
        asyncio.run(asyncio.wait_for(talk(), 4))


def test_keys_are_not_on_the_command_line_and_not_in_our_environment(client):
    lines = [" ".join(one.cmdline()) for one in psutil.Process().children(recursive=True)]
    assert lines
    assert not any("PRIVATE KEY" in line for line in lines)
    assert not any("PRIVATE KEY" in text for text in os.environ.values())


def test_work_reaches_the_processes(client):
    assert client.submit(os.getpid).result() != os.getpid()
