"""What a local worker process does when it starts (Dask calls `dask_setup`): it ends with its run.

However the run ends, killed included, its workers must not go on, not even a kernel that hangs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from typing import Any

_DEATH_SIGNAL = 1  # (PR_SET_PDEATHSIG of prctl)
_parent = os.getppid()


def dask_setup(worker: Any) -> None:
    """Have this process ended when that of the run ends."""
    with contextlib.suppress(OSError, AttributeError):  # (Linux alone)
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    threading.Thread(target=_end_with_parent, name="penstock-parent", daemon=True).start()


def _end_with_parent() -> None:
    while os.getppid() == _parent:
        time.sleep(1)
    os._exit(1)
