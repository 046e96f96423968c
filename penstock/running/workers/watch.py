"""The workers of a cluster, looked at while a run waits: who works, who is paused, who is gone.

Dask waits for workers without end and without a word. A run says what it waits for, and gives up
after a while in which nobody could work.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from penstock import events
from penstock.running.failures import RunStopped
from penstock.running.progress import duration

PATIENCE = 60.0
"""Seconds in which no worker may work before a run is given up."""
QUEUE_PATIENCE = 3600.0
"""The same while a cluster object has asked for workers: those of job queues take their time."""
SOON = 5.0
"""Seconds that workers nobody has asked for may take to appear at the beginning of a run."""
ANSWER = 15.0
"""Seconds in which a scheduler answers."""
UNHEARD = 60.0
"""Seconds without a heartbeat after which a worker counts as lost."""

GO_ON = "run the same command again to go on"


class WorkerWatch:
    """Looks after the workers of a client for one run.

    Parameters
    ----------
    client : distributed.Client
        Whose workers they are.
    tell : callable
        Hears what the run waits for.
    own : bool, default False
        Whether they are local processes of the run itself.
    """

    def __init__(
        self, client: Any, tell: Callable[[events.Event], None] = lambda _: None, own: bool = False
    ):
        self.client, self.tell, self.own = client, tell, own
        self.address = str(getattr(getattr(client, "scheduler", None), "address", "") or "")
        self._since: float | None = None
        self._said = ""
        self._idle = 0
        self.nobody = False
        """Whether there was no worker at all when they were last looked at."""

    # ------------------------------------------------------------------ looking

    def check_connection(self) -> bool:
        """Whether the scheduler can be reached now.

        Raises
        ------
        RunStopped
            If it cannot be reached any more.
        """
        status = self.client.status
        if status in ("closed", "closing"):
            raise RunStopped(
                f"the connection to the Dask scheduler{self.at} is lost (it ended, or the client "
                f"was closed): what is finished is kept; connect to a scheduler and {GO_ON}"
            )
        return bool(status == "running")

    def look(self) -> set[str]:
        """See whether anybody can work; say so where nobody can, once.

        Returns
        -------
        set of str
            Keys of tasks that wait at a paused worker while others have nothing to do.

        Raises
        ------
        RunStopped
            If nobody could work for as long as a run is patient.
        """
        workers = self.workers() if self.check_connection() else None
        self.nobody = workers == {}
        text, patience = self._state(workers)
        now = time.monotonic()
        if not text or patience is None:
            self._since = None
        elif self._since is None:
            self._since = now
        if text and text != self._said:
            self.tell(events.RunWaits(text))
        self._said = text
        if patience is not None and self._since is not None and now - self._since >= patience:
            raise RunStopped(f"{text}, for {duration(now - self._since)}: {self._advice(workers)}")
        return self._stuck(workers) if workers else set()

    # ------------------------------------------------------------------ states

    @property
    def at(self) -> str:
        """Where the scheduler is, as sentences say it."""
        return f" at {self.address}" if self.address else ""

    def workers(self) -> dict[str, Any] | None:
        """What the scheduler knows of every worker; None where it does not answer."""
        with contextlib.suppress(OSError, TimeoutError, RuntimeError, ValueError, AttributeError):
            found = self.client.sync(
                self.client.scheduler.identity, n_workers=-1, callback_timeout=ANSWER
            )
            workers: dict[str, Any] = found["workers"]
            return workers
        return None

    def asked_for(self) -> str:
        """What a cluster object has asked for; nothing where nobody has."""
        cluster: Any = getattr(self.client, "cluster", None)
        with contextlib.suppress(Exception):  # (objects of other libraries, in any state)
            if planned := len(cluster.plan):
                return f"{planned} asked for"
        adaptive = getattr(cluster, "_adaptive", None)
        most = getattr(adaptive, "maximum", 0) or 0
        return f"up to {most} as they are needed" if most else ""

    def _state(self, workers: dict[str, Any] | None) -> tuple[str, float | None]:
        """What is to be said of the workers, and for how long it may last (None: for ever)."""
        if workers is None:
            return f"the Dask scheduler{self.at} does not answer", PATIENCE
        if not workers:
            if self.own:
                return "no worker process could be started again", PATIENCE
            asked = self.asked_for()
            if asked:
                return f"all Dask workers are gone ({asked})", QUEUE_PATIENCE
            return "all Dask workers are gone", PATIENCE
        now = time.time()
        states = Counter(_state_of(worker, now) for worker in workers.values())
        able = states.pop("running", 0)
        if not states:
            return "", None
        kinds = ", ".join(f"{n} {state}" for state, n in states.items())
        if able or _executing(workers):
            n = sum(states.values())
            does = "does" if n == 1 else "do"
            return f"{n} of {len(workers)} Dask workers {does} not take blocks ({kinds})", None
        return f"no Dask worker takes blocks ({kinds})", PATIENCE

    def _advice(self, workers: dict[str, Any] | None) -> str:
        if workers is None:
            return f"see whether it still runs, and {GO_ON}"
        if not workers:
            return f"look at their logs (out of memory?), start new ones, and {GO_ON}"
        return (
            "Dask pauses workers whose memory is nearly full; give them more memory or restart "
            f"them, and {GO_ON}"
        )

    def _stuck(self, workers: dict[str, Any]) -> set[str]:
        """Tasks that Dask leaves with a paused worker, though others are idle."""
        now = time.time()
        held = [at for at, worker in workers.items() if _state_of(worker, now) == "paused"]
        idle = held and len(held) < len(workers) and not _executing(workers)
        self._idle = self._idle + 1 if idle else 0
        if self._idle < 2:  # (what workers say of themselves is a few seconds old)
            return set()
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            processing = self.client.processing()
            return {str(key) for at in held for key in processing.get(at, ())}
        return set()


def wait_for_workers(client: Any, heard: Sequence[events.Listener] = ()) -> None:
    """Wait until a cluster has a first worker.

    Raises
    ------
    RunStopped, ValueError
        If none comes; if nobody has asked for any.
    """
    watch = WorkerWatch(client)
    began = time.monotonic()
    wish: Any = None
    while not watch.workers():
        watch.check_connection()
        asked = watch.asked_for()
        waited = time.monotonic() - began
        if not asked and waited >= SOON:
            raise ValueError(
                f"the Dask client{watch.at} has no workers: start some, or close the client"
            )
        if asked and wish is None:
            # (a cluster that adapts starts workers when there is something to do)
            wish = client.submit(int, pure=False)
            for listener in heard:
                listener(events.RunWaits(f"waiting for Dask workers ({asked})"))
        if waited >= QUEUE_PATIENCE:
            raise RunStopped(
                f"no Dask worker came in {duration(waited)} ({asked}): look at the queue of the "
                f"cluster, and {GO_ON}"
            )
        time.sleep(0.2)


def _state_of(worker: dict[str, Any], now: float) -> str:
    status = str(worker.get("status", "running"))
    if now - float(worker.get("last_seen") or now) > UNHEARD:
        return "not heard of for a minute"
    return {"closing_gracefully": "retiring", "init": "starting"}.get(status, status)


def _executing(workers: dict[str, Any]) -> int:
    """Tasks, of anybody, that workers are at."""
    return sum(int(worker.get("metrics", {}).get("executing", 0)) for worker in workers.values())
