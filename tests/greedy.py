"""Functions that take or keep memory which nobody declared."""

from __future__ import annotations

import threading
import time

import numpy as np

MIB = 1 << 20

kept: list[np.ndarray] = []
at_once: list[int] = []
_lock = threading.Lock()
_running = 0


def forget() -> None:
    kept.clear()
    at_once.clear()


def keeping(block: np.ndarray) -> np.ndarray:
    """Keeps 50 MiB a block."""
    kept.append(np.ones(50 * MIB, "uint8"))
    return block


def greedy(block: np.ndarray) -> np.ndarray:
    """Takes 96 MiB for a moment."""
    global _running
    with _lock:
        _running += 1
        at_once.append(_running)
    more = np.ones(96 * MIB, "uint8")
    time.sleep(0.05)
    with _lock:
        _running -= 1
    return block * np.float32(more[0])


def honest(block: np.ndarray) -> np.ndarray:
    """Takes twice its input."""
    return np.sqrt(np.abs(block) + 1)
