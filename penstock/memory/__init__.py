"""What processes take of memory, and may take: counted before, measured while they work."""

from penstock.memory.accounting import (
    MIB,
    available_memory,
    cpu_count,
    format_bytes,
    parse_bytes,
    process_base,
    pss,
    resident,
    trim_heap,
    use_lean_allocator,
)

__all__ = [
    "MIB",
    "available_memory",
    "cpu_count",
    "format_bytes",
    "parse_bytes",
    "process_base",
    "pss",
    "resident",
    "trim_heap",
    "use_lean_allocator",
]
