"""What is configured once, for all runs on this machine: ``penstock`` in the settings of Dask.

That is a file below ``~/.config/dask``, a variable such as ``DASK_PENSTOCK__MEMORY``, or
``dask.config.set``. What a call or a command names comes before it.
"""

from __future__ import annotations

from typing import Any


def configured_memory(memory: int | float | str | None) -> int | float | str | None:
    """A budget, or the one that is configured where none is named.

    Examples
    --------
    >>> import dask
    >>> from penstock.configuration import configured_memory
    >>> with dask.config.set({"penstock.memory": "2 GiB"}):
    ...     configured_memory(None), configured_memory("1 GiB")
    ('2 GiB', '1 GiB')
    """
    return _setting("memory") if memory is None else memory


def configured_workers(workers: int | None) -> int | None:
    """A number of workers, or the one that is configured where none is named.

    Raises
    ------
    ValueError
        If what is configured is no whole number.
    """
    if workers is not None:
        return workers
    found = _setting("workers")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int):
        raise ValueError(
            f"penstock.workers in the configuration of Dask must be a whole number, got {found!r}"
        )
    return found


def _setting(name: str) -> Any:
    import dask

    return dask.config.get(f"penstock.{name}", None)
