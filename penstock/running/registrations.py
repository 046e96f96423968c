"""What this process registered beside the built-in readers and formats, for other processes.

A worker knows what Penstock brings along and what the modules that it imports register. Readers of
a script or a notebook travel with the job, as functions do.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
import threading
from dataclasses import replace
from typing import Any

from penstock.running.failures import text_of

_lock = threading.Lock()
_taken: bytes | None = None


def registrations() -> bytes:
    """What a user registered here, for `take_over` in another process; empty where nothing was."""
    if "penstock.io.registry" not in sys.modules and "penstock.formats" not in sys.modules:
        return b""  # (imported where they are needed: a script with arrays alone starts earlier)
    from penstock import formats
    from penstock.io import registry

    readers = {
        name: reader
        for name, reader in registry.readers().items()
        if registry.BUILT_IN.get(name) is not reader
    }
    added = {name: each for name, each in formats.FORMATS.items() if name not in formats.BUILT_IN}
    if not readers and not added:
        return b""
    import cloudpickle

    found = {
        "from": _process(),
        "readers": [_sent(reader, "open") for reader in readers.values()],
        "formats": [_sent(each, "write") for each in added.values()],
    }
    return bytes(cloudpickle.dumps(found))


def take_over(registered: bytes) -> None:
    """Register here what another process registered; twice is as good as once."""
    global _taken
    if not registered:
        return
    with _lock:
        if registered == _taken:
            return
        import cloudpickle

        from penstock import formats
        from penstock.io import registry

        found = cloudpickle.loads(registered)
        if found["from"] != _process():
            for sent in found["readers"]:
                registry.register_reader(_received(sent, "open"))
            for sent in found["formats"]:
                formats.register_format(_received(sent, "write"))
        _taken = registered


def _process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def _sent(entry: Any, function: str) -> tuple[Any, bytes]:
    """An entry without its functions, and whole, as bytes; nothing where it cannot be sent.

    One reader that belongs to this process must not stop runs that do without it.
    """
    import cloudpickle

    bare = replace(entry, **{function: None, **({"can_open": None} if function == "open" else {})})
    try:
        return bare, bytes(cloudpickle.dumps(entry))
    except Exception as error:
        reason = f"it cannot be sent to other processes ({type(error).__name__})"
        return replace(bare, **{function: functools.partial(_refuse, entry.name, reason)}), b""


def _received(sent: tuple[Any, bytes], function: str) -> Any:
    """An entry as it was sent; where that cannot be, one that says why when it is used."""
    import cloudpickle

    bare, whole = sent
    if not whole:
        return bare
    try:
        return cloudpickle.loads(whole)
    except Exception as error:
        reason = f"a worker cannot load it ({text_of(error)})"
        return replace(bare, **{function: functools.partial(_refuse, bare.name, reason)})


def _refuse(name: str, reason: str, *args: Any, **options: Any) -> Any:
    raise ValueError(
        f"{name!r} was registered in the process that began the run, but {reason}: register it in "
        "a module that workers can import, without what belongs to one process (open files, locks)"
    )
