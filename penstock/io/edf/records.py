"""Samples of an EDF or BDF file, by region, with positioned reads into small buffers.

Never a memory map: its pages count as used memory until the kernel takes them back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from penstock.dataset import Indexer
from penstock.io.arrays.positioned import BATCH_BYTES, GAP_BYTES, fill
from penstock.memory.buffers import new_array

LONG_BYTES = 8 * BATCH_BYTES
"""Data records beyond this are read in pieces."""
PAD = 4
"""Bytes in front of a buffer, for the words that 24-bit samples are the top of."""


@dataclass(frozen=True, eq=False)
class EdfRecords:
    """Reads regions of the signals of one sampling rate: ``records(channels, times)``.

    Holds no open file, so it may be pickled; every read opens the file and closes it again.
    """

    path: str
    header_bytes: int
    record_bytes: int
    n_records: int
    sample_bytes: int
    samples: int
    """Samples of each signal in one data record."""
    offsets: np.ndarray
    """First byte of each signal within a data record."""
    gain: np.ndarray
    offset: np.ndarray
    """physical = digital * gain + offset, in the unit of the dataset."""
    masked: np.ndarray
    """Whether the values of a signal are codes, cut to the bits of `mask`."""
    mask: int
    dtype: np.dtype

    @property
    def buffer_bytes(self) -> int:
        """What a read holds at most, beside its result."""
        return max(BATCH_BYTES, min(LONG_BYTES, self.record_bytes)) + BATCH_BYTES

    def __call__(self, channels: Indexer, times: Indexer) -> np.ndarray:
        """Physical values of a region, as a new array (channels, times)."""
        wanted = np.arange(len(self.offsets))[channels]
        if isinstance(times, slice):
            out = new_array((len(wanted), max(0, times.stop - times.start)), self.dtype)
        else:
            out = np.empty((len(wanted), len(times)), self.dtype)
        if not out.size:
            return out
        fd = os.open(self.path, os.O_RDONLY)
        try:
            if isinstance(times, slice):
                self._read(fd, wanted, times.start, times.stop, out)
                return out
            done = 0
            # a stretch and what is picked of it take a batch together
            batch = BATCH_BYTES // (2 * len(wanted) * self.dtype.itemsize)
            limit = max(1, min(batch, max(self.samples, 4096)))
            for start, stop, picked in stretches(times, limit):
                part = np.empty((len(wanted), stop - start), self.dtype)
                self._read(fd, wanted, start, stop, part)
                out[:, done : done + len(picked)] = part[:, picked]
                done += len(picked)
        finally:
            os.close(fd)
        return out

    def _read(self, fd: int, wanted: np.ndarray, start: int, stop: int, out: np.ndarray) -> None:
        """Fill `out` (channels, samples) with samples [start, stop)."""
        signal_bytes = self.samples * self.sample_bytes
        spans = _spans(self.offsets[wanted], signal_bytes)
        span_bytes = sum(high - low for low, high in spans)
        scale = _Scaling(self, wanted)
        if span_bytes > LONG_BYTES:
            self._read_long(fd, wanted, start, stop, out, scale)
            return
        whole = len(spans) == 1 and self.record_bytes - span_bytes < GAP_BYTES
        stride = self.record_bytes if whole else span_bytes
        per_batch = max(1, min(BATCH_BYTES // stride, -(-(stop - start) // self.samples)))
        buffer = np.empty(PAD + per_batch * stride, np.uint8)
        slots = list(_slots(self.offsets[wanted], spans, signal_bytes))
        at = start
        while at < stop:
            record, first = divmod(at, self.samples)
            n_records, last = 1, min(self.samples, first + stop - at)
            if not first and last == self.samples:
                n_records = min(per_batch, (stop - at) // self.samples)
            position = self.header_bytes + record * self.record_bytes
            if whole:
                n_bytes = (n_records - 1) * stride + span_bytes
                fill(fd, position + spans[0][0], buffer[PAD : PAD + n_bytes], self.path)
            else:
                filled = PAD
                for i in range(n_records):
                    for low, high in spans:
                        target = buffer[filled : filled + high - low]
                        fill(fd, position + i * self.record_bytes + low, target, self.path)
                        filled += high - low
            done, count = at - start, n_records * (last - first)
            for slot, row, n_signals in slots:
                rows = slice(row, row + n_signals)
                samples = self._samples(buffer, slot, (n_signals, n_records, self.samples), stride)
                scale(samples[:, :, first:last], out[rows, done : done + count], rows)
            at += count

    def _read_long(
        self,
        fd: int,
        wanted: np.ndarray,
        start: int,
        stop: int,
        out: np.ndarray,
        scale: _Scaling,
    ) -> None:
        """The same for data records of many megabytes: in file order, in pieces of one signal."""
        piece = BATCH_BYTES // self.sample_bytes
        buffer = np.empty(PAD + BATCH_BYTES, np.uint8)
        for record in range(start // self.samples, -(-stop // self.samples)):
            position = self.header_bytes + record * self.record_bytes
            zero = record * self.samples
            low, high = max(start - zero, 0), min(stop - zero, self.samples)
            for row, channel in enumerate(wanted):
                for first in range(low, high, piece):
                    count = min(piece, high - first)
                    at = position + int(self.offsets[channel]) + first * self.sample_bytes
                    fill(fd, at, buffer[PAD : PAD + count * self.sample_bytes], self.path)
                    done = zero + first - start
                    scale(
                        self._samples(buffer, 0, (1, 1, count), 0),
                        out[row : row + 1, done : done + count],
                        slice(row, row + 1),
                    )

    def _samples(
        self, buffer: np.ndarray, slot: int, shape: tuple[int, int, int], stride: int
    ) -> np.ndarray:
        """View of the buffer as digital values, (signal, record, sample).

        24-bit samples are seen as the upper three bytes of a 32-bit word.
        """
        width = self.sample_bytes
        return np.ndarray(
            shape,
            "<i2" if width == 2 else "<i4",
            buffer,
            PAD + slot - (0 if width == 2 else 1),
            (self.samples * width, stride, width),
        )


class _Scaling:
    """Digital to physical values for the rows of one read.

    For float32, around the digital value whose physical value is closest to zero: that keeps
    every value, small ones too, within two units in the last place of the float64 result.
    """

    def __init__(self, records: EdfRecords, wanted: np.ndarray):
        gain, offset = records.gain[wanted], records.offset[wanted]
        self.bdf = records.sample_bytes == 3
        self.mask = records.mask
        self.masked = records.masked[wanted]
        self.center: np.ndarray | None = None
        if records.dtype == np.float32:
            center = np.rint(-offset / gain).astype(np.float32)
            offset = offset + center.astype(np.float64) * gain
            self.center = _column(center, 0)
        self.gain = _column(gain.astype(records.dtype), 1)
        self.offset = _column(offset.astype(records.dtype), 0)

    def __call__(self, samples: np.ndarray, out: np.ndarray, rows: slice) -> None:
        """Write `samples` (signal, record, sample) as physical values to `out` (signal, time)."""
        target = out.reshape(samples.shape)
        if self.bdf:
            np.right_shift(samples, 8, out=target, casting="unsafe")
        else:
            np.copyto(target, samples)
        for row in np.flatnonzero(self.masked[rows]):
            out[row] = out[row].astype(np.int64) & self.mask
        if self.center is not None:
            out -= self.center[rows]
        if self.gain is not None:
            out *= self.gain[rows]
        if self.offset is not None:
            out += self.offset[rows]


def _column(values: np.ndarray, neutral: float) -> np.ndarray | None:
    return None if bool((values == neutral).all()) else values[:, None]


def _spans(offsets: np.ndarray, signal_bytes: int) -> list[tuple[int, int]]:
    """Byte ranges of a record that cover the signals, joined where the gap is small."""
    spans: list[tuple[int, int]] = []
    for low in offsets.tolist():
        high = low + signal_bytes
        if spans and low - spans[-1][1] < GAP_BYTES:
            spans[-1] = spans[-1][0], high
        else:
            spans.append((low, high))
    return spans


def _slots(
    offsets: np.ndarray, spans: list[tuple[int, int]], signal_bytes: int
) -> Iterator[tuple[int, int, int]]:
    """Runs of adjacent signals: (byte within the joined spans, first row, number of rows)."""
    before, shifts = 0, []
    for low, high in spans:
        shifts.append((low, high, before - low))
        before += high - low
    starts = [
        next(low + shift for span_low, high, shift in shifts if span_low <= low < high)
        for low in offsets.tolist()
    ]
    row = 0
    for i in range(1, len(starts) + 1):
        if i == len(starts) or starts[i] - starts[i - 1] != signal_bytes:
            yield starts[row], row, i - row
            row = i


def stretches(positions: np.ndarray, limit: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Sorted positions as ranges of at most `limit`: (start, stop, positions within)."""
    at = 0
    while at < len(positions):
        start = int(positions[at])
        end = int(np.searchsorted(positions, start + limit))
        picked = positions[at:end] - start
        yield start, start + int(picked[-1]) + 1, picked
        at = end


def read_signal_bytes(
    path: str, offset: int, n_bytes: int, header_bytes: int, record_bytes: int, n_records: int
) -> Iterator[tuple[int, bytes]]:
    """Number of the data record and the bytes of one signal in it, for every record.

    Records smaller than a few pages are read many at a time, of larger ones only these bytes.
    """
    per_batch = max(1, BATCH_BYTES // record_bytes) if record_bytes < GAP_BYTES else 1
    fd = os.open(path, os.O_RDONLY)
    try:
        for first in range(0, n_records, per_batch):
            n = min(per_batch, n_records - first)
            position = header_bytes + first * record_bytes + offset
            data = os.pread(fd, (n - 1) * record_bytes + n_bytes, position)
            for i in range(n):
                yield first + i, data[i * record_bytes : i * record_bytes + n_bytes]
    finally:
        os.close(fd)
