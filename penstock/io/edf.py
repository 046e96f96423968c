"""EDF, EDF+ and BDF recordings as datasets."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, lazy_variable, sampled_coordinate, with_events
from penstock.io.arrays import as_dtype
from penstock.io.edf_header import EdfHeader, SignalHeader, read_header
from penstock.io.edf_records import (
    GAP_BYTES,
    EdfRecords,
    read_signal_bytes,
)
from penstock.io.labels import (
    VOLTAGE_TYPES,
    apply_channel_types,
    clean_unit,
    split_label,
    unique_names,
    volts,
)

if TYPE_CHECKING:
    import pandas as pd

_TAL = re.compile(rb"([+-]\d+(?:\.\d*)?)(?:\x15(\d+(?:\.\d*)?))?\x14(.*?)\x14?\Z", re.DOTALL)


def open_edf(
    path: str,
    *,
    dtype: Any = "float32",
    channel_types: Mapping[str, str] | None = None,
    rate: float | None = None,
    gaps: str = "raise",
    stim_mask: int | None = 0x1FFFF,
) -> xr.Dataset:
    """Open an EDF, EDF+ or BDF file; samples stay in it until a region is read.

    Parameters
    ----------
    path : str
        The file.
    dtype : {"float32", "float64"}
        Type of the samples. float32 is within two units in the last place of float64.
    channel_types : mapping of str to str, optional
        Channel name to type, over what the labels say.
    rate : float, optional
        Sampling frequency [Hz] of the channels that become ``signal``. Default: the rate with the
        most samples. Every other rate keeps its own ``signal_<rate>Hz``.
    gaps : {"raise", "join"}
        What to do with an interrupted recording (EDF+D). Its samples lie on no regular time axis,
        and a filter across an interruption is wrong, so it is refused; ``"join"`` puts the pieces
        one after the other, moves events to the joined time, and marks each seam with an event
        ``BAD_ACQ_SKIP`` of duration 0. EDF+D files without interruption open in either case.
    stim_mask : int or None
        Bits of a BDF status channel to keep. The default leaves out the amplifier's own codes
        (bits 17 to 23), as MNE-Python does; None keeps all 24 bits with their sign.

    Returns
    -------
    xarray.Dataset
        Voltages in uV. Channels with another unit keep it (``channel_unit``). A channel without
        unit is taken to be in uV if it is of a voltage type (MNE-Python takes it for V, which
        makes EEG a million times too large).

    Raises
    ------
    ValueError
        If the file is not usable, interrupted, or holds annotations only.
    """
    if gaps not in ("raise", "join"):
        raise ValueError(f"gaps must be 'raise' or 'join', got {gaps!r}")
    header = read_header(path)
    events = _read_events(header)
    if not header.signals:
        raise ValueError(
            f"{path} holds annotations only ({len(events.rows)} events, no signals): read them "
            "with penstock.io.read_annotations(path) and add them to a recording with "
            "penstock.with_events"
        )
    rows = events.rows
    if header.kind.endswith("+D"):
        rows = _without_gaps(header, events, gaps)
    channels = _channels(header, channel_types)
    groups: dict[int, list[int]] = {}
    for i, signal in enumerate(header.signals):
        groups.setdefault(signal.samples, []).append(i)
    main = _main_group(header, groups, rate)
    ds = xr.Dataset(attrs=_attrs(header, events.first))
    for samples in sorted(groups, key=lambda samples: (samples != main, -samples)):
        suffix = "" if samples == main else f"_{_rate(header, samples):.10g}Hz"
        members = groups[samples]
        ds = _add_group(ds, header, channels, members, suffix, as_dtype(dtype), stim_mask)
    return with_events(ds, _table(rows)) if header.annotations else ds


def read_annotations(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Events of an EDF+ or BDF+ file, such as a hypnogram without signals.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    pandas.DataFrame
        ``onset`` [s] from the start of the recording, ``duration`` [s], ``label``: what
        `penstock.with_events` takes.

    Examples
    --------
    >>> from penstock.io import read_annotations
    >>> stages = read_annotations("SC4001EC-Hypnogram.edf")  # doctest: +SKIP
    """
    path = os.path.abspath(os.path.expanduser(os.fspath(path)))
    if not os.path.exists(path):
        raise FileNotFoundError(f"no such file: {path}; check the path for typing errors")
    return _table(_read_events(read_header(path)).rows)


# ---------------------------------------------------------------------- signals


@dataclass(frozen=True)
class _Channel:
    name: str
    label: str
    kind: str
    unit: str
    """Unit of the values in the dataset."""
    factor: float
    """From the unit of the file to that of the dataset."""


def _channels(header: EdfHeader, wanted: Mapping[str, str] | None) -> list[_Channel]:
    parts = [split_label(signal.label, signal.unit) for signal in header.signals]
    names = unique_names(name for name, _ in parts)
    kinds = apply_channel_types(names, [kind for _, kind in parts], wanted, header.path)
    channels = []
    for signal, name, kind in zip(header.signals, names, kinds, strict=True):
        factor = volts(signal.unit) if kind != "stim" else None
        unit = clean_unit(signal.unit)
        if factor is not None or (not unit and kind in VOLTAGE_TYPES):
            unit = "uV"
        channels.append(_Channel(name, signal.label, kind, unit, factor or 1.0))
    return channels


def _rate(header: EdfHeader, samples: int) -> float:
    return samples / header.record_duration


def _main_group(header: EdfHeader, groups: Mapping[int, list[int]], rate: float | None) -> int:
    if rate is None:
        return max(groups, key=lambda samples: (samples * len(groups[samples]), samples))
    for samples in groups:
        if abs(_rate(header, samples) - rate) <= 1e-6 * rate:
            return samples
    rates = ", ".join(f"{_rate(header, samples):g}" for samples in sorted(groups))
    raise ValueError(f"no channel of {header.path} is sampled at {rate:g} Hz: it has {rates} Hz")


def _add_group(
    ds: xr.Dataset,
    header: EdfHeader,
    channels: list[_Channel],
    members: list[int],
    suffix: str,
    dtype: np.dtype,
    stim_mask: int | None,
) -> xr.Dataset:
    signals = [header.signals[i] for i in members]
    chosen = [channels[i] for i in members]
    samples = signals[0].samples
    records = _records(header, signals, chosen, dtype, stim_mask)
    n_times = header.n_records * samples
    dims = f"channel{suffix}", f"time{suffix}"
    shape = len(members), n_times
    units = "uV" if any(c.unit == "uV" for c in chosen) else chosen[0].unit
    ds[SIGNAL + suffix] = lazy_variable(
        dims,
        records,
        shape,
        dtype,
        {"units": units},
        {
            "source": header.path,
            # beside it, and beside a fixed batch of records, a read holds nothing
            "read_scratch": 0.0,
            "read_scratch_bytes": records.buffer_bytes,
            "interleaved": samples * header.sample_bytes < GAP_BYTES and len(header.signals) > 1,
            "edf_scaling": {
                c.name: (s.physical_min, s.physical_max, s.digital_min, s.digital_max, s.unit)
                for c, s in zip(chosen, signals, strict=True)
                if header.sample_bytes == 2
            },
        },
    )
    ds = ds.assign_coords(
        {
            dims[0]: np.array([c.name for c in chosen]),
            f"channel_type{suffix}": (dims[0], np.array([c.kind for c in chosen])),
            f"channel_unit{suffix}": (dims[0], np.array([c.unit for c in chosen])),
            f"bad{suffix}": (dims[0], np.zeros(len(chosen), dtype=bool)),
        }
    )
    if any(c.label != c.name for c in chosen):
        ds = ds.assign_coords({f"label{suffix}": (dims[0], np.array([c.label for c in chosen]))})
    return ds.assign_coords(sampled_coordinate(dims[1], n_times, _rate(header, samples)))


def _records(
    header: EdfHeader,
    signals: list[SignalHeader],
    chosen: list[_Channel],
    dtype: np.dtype,
    stim_mask: int | None,
) -> EdfRecords:
    bdf = header.sample_bytes == 3
    gain, offset = np.array([signal.scaling() for signal in signals]).T
    factor = np.array([c.factor for c in chosen])
    # the status channel of a BDF file holds codes, whatever its header says about scaling
    codes = np.array([bdf and c.kind == "stim" for c in chosen])
    return EdfRecords(
        path=header.path,
        header_bytes=header.header_bytes,
        record_bytes=header.record_bytes,
        n_records=header.n_records,
        sample_bytes=header.sample_bytes,
        samples=signals[0].samples,
        offsets=np.array([signal.offset for signal in signals]),
        gain=np.where(codes, 1.0, gain * factor),
        offset=np.where(codes, 0.0, offset * factor),
        masked=codes & (stim_mask is not None),
        mask=stim_mask or 0,
        dtype=dtype,
    )


def _attrs(header: EdfHeader, first: Decimal) -> dict[str, Any]:
    attrs: dict[str, Any] = {"source": header.path, "edf_type": header.kind}
    if header.start is not None:
        start = header.start + datetime.timedelta(seconds=float(first))
        attrs["measurement_date"] = start.isoformat()
    attrs["edf_record_duration"] = header.record_duration
    if header.patient:
        attrs["edf_patient"] = header.patient
    if header.recording:
        attrs["edf_recording"] = header.recording
    return attrs


# ---------------------------------------------------------------------- annotations

_Row = tuple[Decimal, float, str]


@dataclass(frozen=True)
class _Events:
    first: Decimal
    """Onset of the first record: the fraction of a second after the start in the header."""
    rows: list[_Row]
    """Onset relative to the first sample, duration, label."""
    onsets: list[Decimal]
    """Onset of every data record, relative to the first; empty where the file gives none."""


def _read_events(header: EdfHeader) -> _Events:
    """Time-stamped annotation lists (TAL) of all records, through reads of their bytes only."""
    first: Decimal | None = None
    rows: list[_Row] = []
    onsets: list[Decimal] = []
    plus = "+" in header.kind
    for number, signal in enumerate(header.annotations):
        n_bytes = signal.samples * header.sample_bytes
        for record, data in read_signal_bytes(
            header.path,
            signal.offset,
            n_bytes,
            header.header_bytes,
            header.record_bytes,
            header.n_records,
        ):
            data = data.strip(b"\x00 ")
            if number == 0 and data and plus and data[:1] not in (b"+", b"-"):
                raise ValueError(
                    f"the annotations of {header.path} are not where its header says (data record "
                    f"{record + 1} of {header.n_records}), as after a transfer in text mode: copy "
                    "it again in binary mode, or export it again"
                )
            for tal in data.split(b"\x00"):
                match = _TAL.match(tal) if tal else None
                if match is None:
                    continue
                onset = Decimal(match[1].decode())
                texts = match[3].split(b"\x14")
                if number == 0 and len(onsets) == record and not texts[0]:
                    onsets.append(onset)
                    first = onset if first is None else first
                duration = float(match[2]) if match[2] else 0.0
                rows.extend((onset, duration, _decode(text)) for text in texts if text)
    zero = first or Decimal(0)
    relative = [(onset - zero, duration, label) for onset, duration, label in rows]
    relative.sort(key=lambda row: row[0])
    return _Events(zero, relative, [onset - zero for onset in onsets])


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _without_gaps(header: EdfHeader, events: _Events, gaps: str) -> list[_Row]:
    """Events in the time of the joined records."""
    if len(events.onsets) != header.n_records:
        raise ValueError(
            f"{header.path} is a discontinuous recording (EDF+D) that does not say when each of "
            "its data records begins: export it again as EDF+C"
        )
    onsets = np.array([float(onset) for onset in events.onsets])
    duration = header.record_duration
    # records begin where the last one ends, up to half a sample of rounding
    slack = 0.5 * duration / max(signal.samples for signal in header.signals)
    steps = np.diff(onsets) - duration
    seams = np.flatnonzero(np.abs(steps) > slack) + 1
    if not len(seams):
        return events.rows
    if gaps == "raise":
        raise ValueError(
            f"{header.path} is interrupted {len(seams)} time(s), first after "
            f"{seams[0] * duration:g} s for {steps[seams[0] - 1]:g} s (EDF+D): cut it into "
            "continuous pieces, or open it with gaps='join' to join them and mark every seam "
            "with a BAD_ACQ_SKIP event"
        )
    rows: list[_Row] = []
    for onset, length, label in events.rows:
        record = max(0, int(np.searchsorted(onsets, float(onset) + slack, side="right")) - 1)
        within = float(onset) - onsets[record]
        if record < header.n_records - 1:
            # what happened during an interruption belongs to its seam
            within = min(within, duration)
        rows.append((Decimal(repr(float(record * duration + within))), length, label))
    rows.extend((Decimal(repr(float(seam * duration))), 0.0, "BAD_ACQ_SKIP") for seam in seams)
    return sorted(rows, key=lambda row: row[0])


def _table(rows: list[_Row]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "onset": np.array([float(onset) for onset, _, _ in rows], dtype=np.float64),
            "duration": np.array([duration for _, duration, _ in rows], dtype=np.float64),
            "label": pd.Series([label for _, _, label in rows], dtype=object),
        }
    )
