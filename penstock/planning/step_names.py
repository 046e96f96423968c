"""Processors as people know them, and where each says what memory it takes."""

from __future__ import annotations

from dataclasses import fields

from penstock.processor import Processor


def step_name(processor: Processor) -> str:
    """A processor as people know it: that of a function, or of a method, is named with it."""
    for parameter in ("function", "method", "transformer"):
        value = getattr(processor, parameter, None)
        if value is not None and type(processor).__name__ in ("Apply", "PerPosition", "MNE"):
            name = value if isinstance(value, str) else getattr(value, "__name__", None)
            return f"{type(processor).__name__}({name or type(value).__name__})"
    return type(processor).__name__


def advice_for(processor: Processor) -> str:
    """Where a processor says what it takes: ``{scratch}`` stands for the multiple to write."""
    name = type(processor).__name__
    if "scratch" in [parameter.name for parameter in fields(processor)]:
        return f"write {name}(..., scratch={{scratch:g}})"
    if type(processor).__module__.startswith("penstock."):
        return "this is a fault of Penstock: please report it, and allow more memory until then"
    if type(processor).kernel_bytes is not Processor.kernel_bytes:
        return f"let kernel_bytes of {name} say {{scratch:g}} times the input"
    return f"declare scratch = {{scratch:g}} in {name}"
