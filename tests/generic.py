"""Processors that know nothing of EEG: the core is tested with them on several kinds of dims."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.ndimage import uniform_filter1d

from penstock.dataset import SIGNAL, blank_variable
from penstock.processor import Context, Processor


@dataclass(frozen=True, repr=False)
class Demean(Processor):
    """Needs its core dim whole."""

    dim: str = "time"

    @property
    def core_dims(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.dim,)

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        return block - block.mean(axis=-1, keepdims=True)


@dataclass(frozen=True, repr=False)
class MovingAverage(Processor):
    """May be cut along time with a margin; what it does at the true ends is scipy's business."""

    size: int = 11
    core_dims = ("time",)

    def margin(self, ds: xr.Dataset) -> int:
        return self.size

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        return uniform_filter1d(block, self.size, axis=-1, mode="nearest")


@dataclass(frozen=True, repr=False)
class SubtractMean(Processor):
    """Needs only the mean over a dim: the reduction may be streamed."""

    dim: str = "channel"
    n_statistics = 2
    scratch = 0.0

    @property
    def core_dims(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.dim,)

    @property
    def reduce_dims(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.dim,)

    def partial(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        count = np.full(block.shape[:-1], float(block.shape[-1]))
        return np.stack([block.sum(axis=-1, dtype=np.float64), count])

    def combine(self, partials: np.ndarray) -> np.ndarray:
        total = partials.sum(axis=0)
        return total[0] / total[1]

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        return block - ctx.reduced[..., np.newaxis].astype(block.dtype)


@dataclass(frozen=True, repr=False)
class SortChannels(Processor):
    """Needs all channels at once and has no reduction: only a transpose helps."""

    core_dims = ("channel",)

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        return np.sort(block, axis=-1)


@dataclass(frozen=True, repr=False)
class RegionMeans(Processor):
    """Volumes to regions: three core dims go, another comes."""

    n_regions: int = 3
    core_dims = ("x", "y", "z")
    scratch = 1.0

    def outline(self, ds: xr.Dataset, state: object) -> xr.Dataset:
        signal = ds[SIGNAL]
        loops = tuple(str(d) for d in signal.dims if d not in self.core_dims)
        shape = (self.n_regions, *(ds.sizes[d] for d in loops))
        blank = blank_variable(("region", *loops), shape, signal.dtype, signal.attrs)
        return ds.drop_dims(self.core_dims, errors="ignore").assign({SIGNAL: blank})

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        flat = block.reshape(*block.shape[:-3], -1)
        parts = np.array_split(flat, self.n_regions, axis=-1)
        return np.stack([part.mean(axis=-1) for part in parts], axis=-1)


@dataclass(frozen=True, repr=False)
class Slow(Processor):
    """Waits in every block, and leaves a mark when it begins."""

    seconds: float = 0.2
    marks: str = ""
    core_dims = ("time",)
    scratch = 1.0

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        if self.marks:
            name = f"{ctx.region['channel'].start}-{time.time_ns()}"
            (Path(self.marks) / name).touch()
        time.sleep(self.seconds)
        return block * 2


@dataclass(frozen=True, repr=False)
class FailsAt(Processor):
    """Raises at one channel."""

    channel: int = 0

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        region = ctx.region["channel"]
        if region.start <= self.channel < region.stop:
            raise ValueError(f"channel {self.channel} is out of order")
        return block
