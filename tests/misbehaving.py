"""Processors, readers and formats that fail in every way, for the recordings that ask for it."""

from __future__ import annotations

import ctypes
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import penstock as ps
from penstock.processor import Context


class Unprintable(Exception):
    """Cannot be asked what it says."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def fail(how: str) -> None:
    """Fail as `how` says; "" does not."""
    if how == "value":
        raise ValueError("this part is out of order")
    if how == "lines":
        raise ValueError("first\nsecond\n" * 20)
    if how == "enormous":
        raise ValueError("x" * 10_000_000)
    if how == "unprintable":
        raise Unprintable
    if how == "unpicklable":

        class Local(Exception):
            def __init__(self, first: str, second: int) -> None:
                super().__init__(first)
                self.kept = lambda: second

        raise Local("belongs to this process", 2)
    if how == "exit":
        raise SystemExit(4)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "stop":
        raise StopIteration
    if how == "memory":
        raise MemoryError
    if how == "warning":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.warn("a warning that counts as an error", stacklevel=2)
    if how == "recursion":
        fail(how)
    if how == "end":
        os._exit(3)
    if how == "crash":
        ctypes.string_at(0)


RAISED = (
    "value", "lines", "enormous", "unprintable", "unpicklable", "exit", "interrupt", "stop",
    "memory", "warning", "recursion",
)  # fmt: skip
"""Ways that are exceptions."""


@dataclass(frozen=True, repr=False)
class Misbehaves(ps.Processor):
    """Doubles; fails in the phase and the way that the recording's attribute ``how`` names."""

    core_dims = ("time",)
    scratch = 1.0

    def prepare(self, ds: xr.Dataset) -> Any:
        fail(_asked(ds, "prepare"))
        return None

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        fail(_asked(ds, "outline"))
        return ds

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        fail(_asked(ctx.dataset, "kernel"))
        return block * 2


def _asked(ds: xr.Dataset, phase: str) -> str:
    at, _, how = str(ds.attrs.get("how", "")).partition(" ")
    return how if at == phase else ""


@dataclass(frozen=True, repr=False)
class Hangs(ps.Processor):
    """Never ends at one channel."""

    at: int = 0
    core_dims = ("time",)
    scratch = 1.0

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        channels = ctx.region["channel"]
        while channels.start <= self.at < channels.stop:
            time.sleep(1)
        return block


def recording(how: str = "", channels: int = 4) -> xr.Dataset:
    """A small recording that asks for a failure."""
    values = np.arange(channels * 400, dtype="f4").reshape(channels, 400)
    return ps.make_dataset(values, sampling_frequency=100.0).assign_attrs(how=how)


def open_numbers(path: str, *, dtype: Any = None) -> xr.Dataset:
    """A reader that a user might register: four channels of float32; it fails where it is told."""
    how = Path(path).stem.replace("-", " ")
    fail(_asked(xr.Dataset(attrs={"how": how}), "open"))
    values = np.fromfile(path, "<f4").reshape(4, -1)
    return ps.make_dataset(values, sampling_frequency=100.0).assign_attrs(how=how)


def write_numbers(ds: xr.Dataset, path: str) -> None:
    """A writer that a user might register."""
    fail(_asked(ds, "write"))
    ds.signal.values.astype("<f4").tofile(path)
