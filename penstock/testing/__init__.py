"""Conformance tests: for our own processors and readers, and for those that users write."""

from penstock.testing.memory import MemoryUse, memory_use
from penstock.testing.processors import check_processor, raise_if_computes, virtual_dataset
from penstock.testing.readers import check_reader

__all__ = [
    "MemoryUse",
    "check_processor",
    "check_reader",
    "memory_use",
    "raise_if_computes",
    "virtual_dataset",
]
