"""Samples of a dataset into the data records of an EDF file, a block at a time."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.dataset import read_region
from penstock.io.edf.labels import Channel
from penstock.io.edf.plan import RecordLayout
from penstock.io.edf.scaling import Candidates, Scaling
from penstock.storage.publish import write_at

if TYPE_CHECKING:
    import xarray as xr

LINE_BYTES = 40
"""Bytes a sample that one channel at a time costs in float64 while it is checked and scaled."""


@dataclass
class Group:
    """The channels of one sampling rate and how they are written."""

    variable: str
    channel: str
    time: str
    channels: list[Channel]
    units: list[str]
    """Units of the values in the dataset."""
    length: int
    candidates: list[Candidates] = field(default_factory=list)
    """What is known of the values of each channel."""
    scaling: list[Scaling] = field(default_factory=list)
    samples: int = 0
    """Samples a data record."""
    offset: int = 0
    """First byte within a data record."""
    clipped: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def names(self) -> list[str]:
        """Names of the channels in the dataset."""
        return [channel.name for channel in self.channels]


def not_a_number(name: str) -> ValueError:
    """The error for values that EDF cannot store."""
    return ValueError(
        f"channel {name!r} holds values that are not numbers (NaN or infinite), which EDF cannot "
        "store: replace them first, mark the channel as bad (it is then written as 0 there), or "
        "export as .fif or .zarr"
    )


def blocks(
    ds: xr.Dataset, group: Group, n_times: int, step: int, buffer_bytes: int
) -> Iterator[tuple[slice, slice]]:
    """Regions (channels, samples) to read one after the other; stretches of whole `step` samples.

    All channels at a time, unless the data is stored in long stretches of single channels, which
    would be read again and again: then channel by channel.
    """
    n_channels = len(group.names)
    itemsize = ds[group.variable].dtype.itemsize
    sample_bytes = 2 * itemsize + 2
    chunk = _time_chunk(ds, group)
    channels_each = n_channels
    length = buffer_bytes // (n_channels * sample_bytes + LINE_BYTES)
    if chunk > length:
        channels_each = max(
            1, min(n_channels, buffer_bytes // (chunk * (sample_bytes + LINE_BYTES)))
        )
        length = buffer_bytes // (channels_each * sample_bytes + LINE_BYTES)
    if chunk <= length:
        length -= length % chunk
    length = max(step, length - length % step)
    for start in range(0, n_times, length):
        for first in range(0, n_channels, channels_each):
            yield (
                slice(first, min(n_channels, first + channels_each)),
                slice(start, min(n_times, start + length)),
            )


def _time_chunk(ds: xr.Dataset, group: Group) -> int:
    """Samples that the source stores together (1 where any stretch may be read)."""
    variable = ds.variables[group.variable]
    sizes: Any = variable.chunksizes or variable.encoding.get("preferred_chunks") or {}
    size = sizes.get(group.time, 1)
    return min(group.length, max(size) if isinstance(size, tuple) else int(size))


def read_block(ds: xr.Dataset, group: Group, channels: slice, times: slice) -> np.ndarray:
    """Values of a region (channels, samples)."""
    block = read_region(ds, {group.channel: channels, group.time: times}, group.variable)
    return block if ds.variables[group.variable].dims[0] == group.channel else block.T


def write_records(
    ds: xr.Dataset,
    file: io.FileIO,
    groups: list[Group],
    layout: RecordLayout,
    annotations: list[bytes],
    reserved: int,
    buffer_bytes: int,
    done: Progress,
) -> None:
    """Every block to its places in the data records.

    The page cache gathers the pieces; in return each sample is read only once, whichever way the
    source is stored.
    """
    fd, header_bytes = file.fileno(), file.tell()
    record_bytes = sum(2 * group.samples * len(group.names) for group in groups) + reserved
    single = len(groups) == 1
    for group in groups:
        n_times = group.samples * layout.n_records
        for channels, times in blocks(ds, group, n_times, group.samples, buffer_bytes):
            digital = _digitise(ds, group, channels, times)
            first = times.start // group.samples
            n_records, n_channels, _ = digital.shape
            position = header_bytes + first * record_bytes + group.offset
            done.add(digital.size)
            if single and n_channels == len(group.names):
                records = np.zeros((n_records, record_bytes), np.uint8)
                records[:, : record_bytes - reserved] = digital.view(np.uint8).reshape(
                    n_records, -1
                )
                for i, tals in enumerate(annotations[first : first + n_records]):
                    row = records[i, record_bytes - reserved :]
                    row[: len(tals)] = np.frombuffer(tals, np.uint8)
                write_at(fd, records, position)
                del digital, records  # (before the next block is read)
                continue
            position += 2 * group.samples * channels.start
            for i in range(n_records):
                write_at(fd, digital[i], position + i * record_bytes)
            del digital
    if not single or os.fstat(fd).st_size < header_bytes + layout.n_records * record_bytes:
        _write_annotations(fd, annotations, header_bytes, record_bytes, reserved)


def _write_annotations(
    fd: int, annotations: list[bytes], header_bytes: int, record_bytes: int, reserved: int
) -> None:
    for i, tals in enumerate(annotations):
        position = header_bytes + (i + 1) * record_bytes - reserved
        write_at(fd, np.frombuffer(tals.ljust(reserved, b"\x00"), np.uint8), position)


def _digitise(ds: xr.Dataset, group: Group, channels: slice, times: slice) -> np.ndarray:
    """Digital values (record, channel, sample) of a block; its last sample repeated to the end."""
    stop = min(times.stop, group.length)
    block = read_block(ds, group, channels, slice(min(times.start, stop), stop))
    n_times = times.stop - times.start
    n_records = n_times // group.samples
    digital = np.empty((n_records, len(block), group.samples), "<i2")
    line = np.empty(n_times)
    for row, i in enumerate(range(channels.start, channels.stop)):
        scaling = group.scaling[i]
        line[: block.shape[1]] = block[row]
        if block.shape[1] < n_times:
            at_end = slice(group.length - 1, group.length)
            last = (
                block[row, -1:]
                if block.shape[1]
                else read_block(ds, group, slice(i, i + 1), at_end)
            )
            line[block.shape[1] :] = last.ravel()[0]
        if group.candidates[i].missing:
            line[~np.isfinite(line)] = 0
        line -= scaling.offset
        line /= scaling.step
        np.rint(line, out=line)
        low, high = sorted(scaling.digital)
        # NaN compares false: only then is this sum not the number of samples
        outside = int(np.count_nonzero((line < low) | (line > high)))
        if outside or np.isnan(line[0]) or np.isnan(line.sum()):
            if not np.isfinite(line).all():
                raise not_a_number(group.names[i])
            group.clipped[i] += outside
            np.clip(line, low, high, out=line)
        digital[:, row] = line.reshape(n_records, group.samples)
    return digital


class Progress:
    """Fractions of a known number of samples, to the caller's function."""

    def __init__(self, function: Callable[[float], None] | None, total: int, done: int = 0):
        self.function, self.total, self.done = function, total, done

    def add(self, n: int) -> None:
        """Count `n` more samples."""
        self.done += n
        if self.function is not None:
            self.function(min(1.0, self.done / self.total))
