"""Streaming EDF+ writer: two passes over the data (range, then samples), or one if it is known."""

from __future__ import annotations

import datetime
import importlib.util
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.dataset import SIGNAL, events_table, read_region, sampling_frequency
from penstock.io.edf_plan import (
    HIGH,
    LOW,
    RecordLayout,
    annotation_records,
    ascii_text,
    edf_label,
    number_text,
    physical_range,
    plan_records,
    seconds_text,
)
from penstock.io.export import ExportReport
from penstock.io.labels import split_label, unique_names, volts
from penstock.io.publish import published_file, write_at
from penstock.io.registry import MissingExtraError

if TYPE_CHECKING:
    import xarray as xr


LINE_BYTES = 40
"""Bytes a sample that one channel at a time costs in float64 while it is checked and scaled."""


@dataclass
class _Group:
    """The channels of one sampling rate and how they are written."""

    variable: str
    channel: str
    time: str
    names: list[str]
    labels: list[str]
    kinds: list[str]
    units: list[str]
    length: int
    samples: int = 0
    """Samples a data record."""
    offset: int = 0
    """First byte within a data record."""
    low: np.ndarray = field(default_factory=lambda: np.zeros(0))
    high: np.ndarray = field(default_factory=lambda: np.zeros(0))
    scaling: list[_Scaling] = field(default_factory=list)
    clipped: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass(frozen=True)
class _Scaling:
    """Header fields of a channel; physical values are in `unit`, `factor` of the dataset's each."""

    physical: tuple[float, float]
    digital: tuple[int, int]
    unit: str
    factor: float = 1.0

    @property
    def step(self) -> float:
        """Distance of neighbouring values in the unit of the dataset."""
        physical, digital = self.physical, self.digital
        return (physical[1] - physical[0]) / (digital[1] - digital[0]) * self.factor

    @property
    def offset(self) -> float:
        """Value of digital 0 in the unit of the dataset."""
        return self.physical[0] * self.factor - self.digital[0] * self.step


def write_edf(
    ds: xr.Dataset,
    path: str,
    *,
    ranges: tuple[np.ndarray, np.ndarray] | None,
    progress: Callable[[float], None] | None,
    buffer_bytes: int,
) -> ExportReport:
    """Write `ds` as EDF+C; see `penstock.io.export`."""
    if importlib.util.find_spec("edfio") is None:
        raise MissingExtraError(f'writing {path} needs edfio: pip install "penstock[eeg]"')
    groups = _groups(ds)
    layout = plan_records(
        [sampling_frequency(ds, group.time) for group in groups],
        [group.length for group in groups],
        [len(group.names) for group in groups],
    )
    total = sum(group.length * len(group.names) for group in groups)
    passes = 1 if ranges is not None and len(groups) == 1 else 2
    done = _Progress(progress, total * passes)
    offset = 0
    for i, group in enumerate(groups):
        group.samples, group.offset = layout.samples[i], offset
        offset += 2 * group.samples * len(group.names)
        _choose_scaling(ds, group, ranges if i == 0 else None, buffer_bytes, done)
    start, fraction = _start(ds)
    table = events_table(ds)
    annotations, reserved = annotation_records(
        table["onset"].tolist(),
        table["duration"].fillna(0.0).tolist(),
        table["label"].tolist(),
        layout,
        fraction,
    )
    header, notes = _header(ds, groups, layout, start, reserved // 2)
    with published_file(path) as file:
        file.write(header)
        _write_records(ds, file, groups, layout, annotations, reserved, buffer_bytes, done)
    return _report(path, groups, layout, notes)


def _groups(ds: xr.Dataset) -> list[_Group]:
    groups = []
    names = [SIGNAL, *(str(n) for n in ds.data_vars if str(n).startswith(f"{SIGNAL}_"))]
    for variable in names:
        suffix = variable.removeprefix(SIGNAL)
        channel, time = f"channel{suffix}", f"time{suffix}"
        if set(ds[variable].dims) != {channel, time}:
            continue
        n = ds.sizes[channel]
        channels = [str(c) for c in ds[channel].values] if channel in ds.coords else []
        groups.append(
            _Group(
                variable,
                channel,
                time,
                names=channels or [str(i + 1) for i in range(n)],
                labels=[],
                kinds=_texts(ds, f"channel_type{suffix}", n, "eeg"),
                units=_texts(
                    ds, f"channel_unit{suffix}", n, str(ds[variable].attrs.get("units", ""))
                ),
                length=ds.sizes[time],
            )
        )
    labels = unique_names(
        edf_label(name, kind, unit)
        for group in groups
        for name, kind, unit in zip(group.names, group.kinds, group.units, strict=True)
    )
    for group in groups:
        group.labels = [label[-16:] for label in labels[: len(group.names)]]
        labels = labels[len(group.names) :]
        group.clipped = np.zeros(len(group.names), dtype=np.int64)
    return groups


def _texts(ds: xr.Dataset, name: str, n: int, default: str) -> list[str]:
    return [str(v) for v in ds[name].values] if name in ds.variables else [default] * n


# ---------------------------------------------------------------------- first pass


def _choose_scaling(
    ds: xr.Dataset,
    group: _Group,
    ranges: tuple[np.ndarray, np.ndarray] | None,
    buffer_bytes: int,
    done: _Progress,
) -> None:
    """Range of every channel, from the data unless given, and what it becomes in the header.

    Data that still lies on the grid of the EDF file it was read from keeps that file's scaling,
    so that copying a recording changes none of its digital values.
    """
    source = _source_scaling(ds, group) if ranges is None else {}
    if ranges is not None:
        low, high = (np.asarray(values, dtype=np.float64) for values in ranges)
        if low.shape != (len(group.names),) or high.shape != low.shape:
            raise ValueError(
                f"ranges must be two arrays with a value for each of the {len(group.names)} "
                f"channels, got shapes {low.shape} and {high.shape}"
            )
    else:
        low = np.full(len(group.names), np.inf)
        high = -low
        for channels, times in _blocks(ds, group, group.length, 1, buffer_bytes):
            block = _read(ds, group, channels, times)
            low[channels] = np.minimum(low[channels], block.min(axis=1))
            high[channels] = np.maximum(high[channels], block.max(axis=1))
            for row, i in enumerate(range(channels.start, channels.stop)):
                if i in source and not _on_grid(block[row], source[i]):
                    del source[i]
            done.add(block.size)
    for i, name in enumerate(group.names):
        if not (np.isfinite(low[i]) and np.isfinite(high[i]) and low[i] <= high[i]):
            raise _not_a_number(name)
    group.low, group.high = low, high
    group.scaling = [
        source.get(i) or _new_scaling(low[i], high[i], group.kinds[i], group.units[i])
        for i in range(len(group.names))
    ]


def _new_scaling(low: float, high: float, kind: str, unit: str) -> _Scaling:
    if kind == "stim" and low >= LOW and high <= HIGH:
        return _Scaling((LOW, HIGH), (LOW, HIGH), ascii_text(unit)[:8])
    microvolts = volts(unit)
    if microvolts is not None:
        physical = physical_range(low * microvolts, high * microvolts)
        return _Scaling(physical, (LOW, HIGH), "uV", 1 / microvolts)
    return _Scaling(physical_range(low, high), (LOW, HIGH), ascii_text(unit)[:8])


def _source_scaling(ds: xr.Dataset, group: _Group) -> dict[int, _Scaling]:
    known = ds[group.variable].encoding.get("edf_scaling") or {}
    result = {}
    for i, name in enumerate(group.names):
        if name in known:
            low, high, digital_low, digital_high, unit = known[name]
            factor = volts(unit) if group.units[i] == "uV" and unit else None
            usable = low != high and digital_low != digital_high and unit.isascii()
            if usable and all(LOW <= value <= HIGH for value in (digital_low, digital_high)):
                result[i] = _Scaling((low, high), (digital_low, digital_high), unit, factor or 1.0)
    return result


def _on_grid(values: np.ndarray, scaling: _Scaling) -> bool:
    # float32 values of 16 bits are this close to a whole digital value, or are no copy
    digital = (values.astype(np.float64) - scaling.offset) / scaling.step
    whole = np.rint(digital)
    inside = whole.min() >= min(scaling.digital) and whole.max() <= max(scaling.digital)
    return bool(inside and np.abs(digital - whole).max() < 0.01)


def _not_a_number(name: str) -> ValueError:
    return ValueError(
        f"channel {name!r} holds values that are not numbers (NaN or infinite), which EDF cannot "
        "store: replace them first, or export as .fif or .zarr"
    )


# ---------------------------------------------------------------------- second pass


def _blocks(
    ds: xr.Dataset, group: _Group, n_times: int, step: int, buffer_bytes: int
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


def _time_chunk(ds: xr.Dataset, group: _Group) -> int:
    """Samples that the source stores together (1 where any stretch may be read)."""
    variable = ds.variables[group.variable]
    sizes: Any = variable.chunksizes or variable.encoding.get("preferred_chunks") or {}
    size = sizes.get(group.time, 1)
    return min(group.length, max(size) if isinstance(size, tuple) else int(size))


def _read(ds: xr.Dataset, group: _Group, channels: slice, times: slice) -> np.ndarray:
    block = read_region(ds, {group.channel: channels, group.time: times}, group.variable)
    return block if ds.variables[group.variable].dims[0] == group.channel else block.T


def _write_records(
    ds: xr.Dataset,
    file: io.FileIO,
    groups: list[_Group],
    layout: RecordLayout,
    annotations: list[bytes],
    reserved: int,
    buffer_bytes: int,
    done: _Progress,
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
        for channels, times in _blocks(ds, group, n_times, group.samples, buffer_bytes):
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
                continue
            position += 2 * group.samples * channels.start
            for i in range(n_records):
                write_at(fd, digital[i], position + i * record_bytes)
    if not single or os.fstat(fd).st_size < header_bytes + layout.n_records * record_bytes:
        _write_annotations(fd, annotations, header_bytes, record_bytes, reserved)


def _write_annotations(
    fd: int, annotations: list[bytes], header_bytes: int, record_bytes: int, reserved: int
) -> None:
    for i, tals in enumerate(annotations):
        position = header_bytes + (i + 1) * record_bytes - reserved
        write_at(fd, np.frombuffer(tals.ljust(reserved, b"\x00"), np.uint8), position)


def _digitise(ds: xr.Dataset, group: _Group, channels: slice, times: slice) -> np.ndarray:
    """Digital values (record, channel, sample) of a block; its last sample repeated to the end."""
    stop = min(times.stop, group.length)
    block = _read(ds, group, channels, slice(min(times.start, stop), stop))
    n_times = times.stop - times.start
    n_records = n_times // group.samples
    digital = np.empty((n_records, len(block), group.samples), "<i2")
    line = np.empty(n_times)
    for row, i in enumerate(range(channels.start, channels.stop)):
        scaling = group.scaling[i]
        line[: block.shape[1]] = block[row]
        if block.shape[1] < n_times:
            at_end = slice(group.length - 1, group.length)
            last = block[row, -1:] if block.shape[1] else _read(ds, group, slice(i, i + 1), at_end)
            line[block.shape[1] :] = last.ravel()[0]
        line -= scaling.offset
        line /= scaling.step
        np.rint(line, out=line)
        low, high = sorted(scaling.digital)
        # NaN compares false: only then is this sum not the number of samples
        outside = int(np.count_nonzero((line < low) | (line > high)))
        if outside or np.isnan(line[0]) or np.isnan(line.sum()):
            if not np.isfinite(line).all():
                raise _not_a_number(group.names[i])
            group.clipped[i] += outside
            np.clip(line, low, high, out=line)
        digital[:, row] = line.reshape(n_records, group.samples)
    return digital


# ---------------------------------------------------------------------- header and report


def _start(ds: xr.Dataset) -> tuple[datetime.datetime | None, Decimal]:
    """Start in whole seconds, and the fraction of a second that the first sample is later."""
    text = ds.attrs.get("measurement_date")
    if not text:
        return None, Decimal(0)
    start = datetime.datetime.fromisoformat(str(text)).replace(tzinfo=None)
    return start.replace(microsecond=0), Decimal(start.microsecond) / 1_000_000


def _header(
    ds: xr.Dataset,
    groups: list[_Group],
    layout: RecordLayout,
    start: datetime.datetime | None,
    annotation_samples: int,
) -> tuple[bytes, list[str]]:
    """Header of a file of one record, made by edfio, with our numbers in their places."""
    import edfio

    notes = []
    duration = float(seconds_text(layout.duration))
    signals = [
        edfio.EdfSignal.from_digital(
            np.full(group.samples, scaling.digital[0], np.int16),
            group.samples / duration,
            label=label,
            physical_dimension=scaling.unit,
            digital_range=scaling.digital,
        )
        for group in groups
        for label, scaling in zip(group.labels, group.scaling, strict=True)
    ]
    date = start.date() if start is not None else None
    if date is not None and not 1985 <= date.year <= 2084:
        notes.append(f"EDF holds dates from 1985 to 2084: the date {date} is left out")
        date = None
    edf = edfio.Edf(
        signals,
        recording=edfio.Recording(startdate=date),
        starttime=start.time() if start is not None else None,
        data_record_duration=duration,
        annotations=(),
    )
    patient = ascii_text(str(ds.attrs.get("edf_patient", "")))
    if patient and len(patient) <= 80:
        edf.local_patient_identification = patient
    recording = ascii_text(str(ds.attrs.get("edf_recording", ""))).split()
    if recording[:1] == ["Startdate"]:
        # the date is that of this dataset, which may be a part of the recording
        written = edf.local_recording_identification.split()[:2] + recording[2:]
        if len(" ".join(written)) <= 80:
            edf.local_recording_identification = " ".join(written)
    buffer = io.BytesIO()
    edf.write(buffer)
    n_signals = len(signals) + 1
    header = bytearray(buffer.getvalue()[: 256 * (n_signals + 1)])

    def put(position: int, text: str) -> None:
        header[position : position + 8] = text.ljust(8).encode()

    put(236, str(layout.n_records))
    # edfio rounds ranges once more, away from those that the samples are scaled with
    scalings = [scaling for group in groups for scaling in group.scaling]
    for i, scaling in enumerate(scalings):
        for column, value in zip((104, 112), scaling.physical, strict=True):
            put(256 + column * n_signals + 8 * i, number_text(value))
    put(256 + 216 * n_signals + 8 * (n_signals - 1), str(annotation_samples))
    return bytes(header), notes


def _report(
    path: str, groups: list[_Group], layout: RecordLayout, notes: list[str]
) -> ExportReport:
    everything = [(group, i) for group in groups for i in range(len(group.names))]
    renamed = {}
    for group, i in everything:
        read_back = split_label(group.labels[i], group.scaling[i].unit)
        if read_back[0] != group.names[i]:
            renamed[group.names[i]] = read_back[0]
        elif read_back[1] != group.kinds[i]:
            notes.append(
                f"EDF labels cannot say that {group.names[i]!r} is of type {group.kinds[i]!r}: "
                "give it when opening, with channel_types"
            )
        if group.kinds[i] == "stim" and group.scaling[i].step > 1:
            notes.append(
                f"the codes of {group.names[i]!r} need more than 16 bits and are rounded: export "
                "as .fif or .zarr to keep them"
            )
    padded = float(layout.n_records * layout.duration) - groups[0].length / (
        groups[0].samples / float(layout.duration)
    )
    return ExportReport(
        path=path,
        format="edf",
        quantisation_step={g.names[i]: abs(g.scaling[i].step) for g, i in everything},
        clipped={g.names[i]: int(g.clipped[i]) for g, i in everything},
        renamed=renamed,
        padded_seconds=0.0 if layout.exact else padded,
        notes=tuple(notes),
    )


class _Progress:
    """Fractions of a known number of samples, to the caller's function."""

    def __init__(self, function: Callable[[float], None] | None, total: int):
        self.function, self.total, self.done = function, total, 0

    def add(self, n: int) -> None:
        """Count `n` more samples."""
        self.done += n
        if self.function is not None:
            self.function(min(1.0, self.done / self.total))
