"""What reading takes at once: refused in one sentence before it fills the memory.

A small file can stand for very much: compressed data of zeros shrink a thousandfold, and a header
may announce anything.
"""

from __future__ import annotations

from penstock.memory.accounting import available_memory, format_bytes


def check_room(n_bytes: int, what: str, advice: str) -> None:
    """Raise OSError where something must be held at once that is larger than the free memory.

    Parameters
    ----------
    n_bytes : int
        How much memory it takes.
    what : str
        What it is, and of which file.
    advice : str
        What to do instead.

    Examples
    --------
    >>> from penstock.io.room import check_room
    >>> check_room(1 << 60, "signal of a.npz", "save it without compression")
    Traceback (most recent call last):
    OSError: signal of a.npz takes 1048576 TiB of memory at once, more than there is (...): save ...
    """
    free = available_memory()
    if n_bytes > free:
        raise OSError(
            f"{what} takes {format_bytes(n_bytes)} of memory at once, more than there is "
            f"({format_bytes(free)}): {advice}"
        )
