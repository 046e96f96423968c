"""EDF, EDF+ and BDF recordings as datasets."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, lazy_variable, sampled_coordinate, with_events
from penstock.io.arrays.arrays import as_dtype
from penstock.io.arrays.positioned import GAP_BYTES
from penstock.io.edf.band import band_of
from penstock.io.edf.events import of_channels, read_events, table, without_gaps
from penstock.io.edf.header import EdfHeader, SignalHeader, read_header
from penstock.io.edf.labels import read_labels
from penstock.io.edf.records import EdfRecords
from penstock.io.edf.scaling import SIGNALS, describe_signals
from penstock.io.labels import (
    VOLTAGE_TYPES,
    apply_channel_types,
    clean_unit,
    listed,
    says_eeg,
    volts,
)
from penstock.messages import warn
from penstock.reading import Reading

BRAIN_TYPES = frozenset({"eeg", "seeg", "ecog", "dbs"})


def open_edf(
    path: str,
    *,
    dtype: Any = "float32",
    channel_types: Mapping[str, str] | None = None,
    channel_units: Mapping[str, str] | None = None,
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
    channel_units : mapping of str to str, optional
        Channel name to unit, for channels of which the header does not give it.
    rate : float, optional
        Sampling frequency [Hz] of the channels that become ``signal``. Default: the rate with the
        most EEG, and the most samples where there is none. Every other rate keeps its own
        ``signal_<rate>Hz``.
    gaps : {"raise", "join"}
        What to do with a recording whose time stamps jump: an interrupted one (EDF+D), or one that
        says it is not (EDF+C). Its samples lie on no regular time axis, and a filter across an
        interruption is wrong, so it is refused; ``"join"`` puts the pieces one after the other,
        moves events to the joined time, and marks each seam with an event ``BAD_ACQ_SKIP`` of
        duration 0. EDF+D files without interruption open in either case.
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

    Notes
    -----
    ``signal.attrs["edf_signals"]`` is JSON text with what the header says of every channel beside
    its label and unit (physical and digital range, transducer, prefiltering); writing EDF uses it.
    """
    if gaps not in ("raise", "join"):
        raise ValueError(f"gaps must be 'raise' or 'join', got {gaps!r}")
    header = read_header(path)
    events = read_events(header)
    if not header.signals:
        raise ValueError(
            f"{path} holds annotations only ({len(events.rows)} events, no signals): read them "
            "with penstock.io.read_annotations(path) and add them to a recording with "
            "penstock.with_events"
        )
    rows = without_gaps(header, events, gaps)
    _warn_of_flat(header)
    channels = _channels(header, channel_types, channel_units)
    groups: dict[int, list[int]] = {}
    for i, signal in enumerate(header.signals):
        groups.setdefault(signal.samples, []).append(i)
    main = _main_group(header, channels, groups, rate)
    ds = xr.Dataset(attrs=_attrs(header, events.first))
    for samples in sorted(groups, key=lambda samples: (samples != main, -samples)):
        suffix = "" if samples == main else f"_{_rate(header, samples):.10g}Hz"
        members = groups[samples]
        ds = _add_group(ds, header, channels, members, suffix, as_dtype(dtype), stim_mask)
    ds.attrs |= _band(header, channels, groups[main], _rate(header, main))
    if not header.annotations:
        return ds
    rows, channels_of = of_channels(rows, {c.label.strip(): c.name for c in channels})
    ds = with_events(ds, table(rows))
    return ds.assign_coords(event_channels=("event", channels_of)) if any(channels_of) else ds


# ---------------------------------------------------------------------- signals


@dataclass(frozen=True)
class _Channel:
    name: str
    label: str
    kind: str
    bad: bool
    unit: str
    """Unit of the values in the dataset."""
    factor: float
    """From the unit of the file to that of the dataset."""


def _channels(
    header: EdfHeader, wanted: Mapping[str, str] | None, units: Mapping[str, str] | None
) -> list[_Channel]:
    found = read_labels(
        [signal.label for signal in header.signals],
        [signal.unit for signal in header.signals],
        [signal.reserved for signal in header.signals],
    )
    names = [channel.name for channel in found]
    kinds = apply_channel_types(names, [c.kind for c in found], wanted, header.path)
    channels = []
    for signal, channel, kind in zip(header.signals, found, kinds, strict=True):
        unit = clean_unit(signal.unit) or clean_unit((units or {}).get(channel.name, ""))
        factor = volts(unit) if kind != "stim" else None
        if factor is not None or (not unit and kind in VOLTAGE_TYPES):
            unit = "uV"
        channels.append(
            _Channel(channel.name, signal.label, kind, channel.bad, unit, factor or 1.0)
        )
    return channels


def _warn_of_flat(header: EdfHeader) -> None:
    """Scaling is guessed, as by MNE-Python, for channels whose header gives none."""
    flat = [signal.label for signal in header.signals if signal.flat]
    if flat:
        warn(
            f"{header.path} gives no scaling for {listed(flat)} (smallest and largest value are "
            "the same): their range is taken to be 1",
            stacklevel=4,
        )


def _rate(header: EdfHeader, samples: int) -> float:
    return samples / header.record_duration


def _main_group(
    header: EdfHeader,
    channels: list[_Channel],
    groups: Mapping[int, list[int]],
    rate: float | None,
) -> int:
    """Samples a record of the rate that is the recording: of the EEG, not of a faster snore."""
    if rate is None:

        def size(samples: int) -> tuple[float, int, int]:
            members = [channels[i] for i in groups[samples]]
            brain = [channel for channel in members if channel.kind in BRAIN_TYPES]
            # a label that says nothing is called EEG as well: it counts less than one that does
            sure = sum(channel.kind != "eeg" or says_eeg(channel.label) for channel in brain)
            return sure + 0.25 * (len(brain) - sure), samples * len(members), samples

        return max(groups, key=size)
    for samples in groups:
        if abs(_rate(header, samples) - rate) <= 1e-6 * rate:
            return samples
    rates = ", ".join(f"{_rate(header, samples):g}" for samples in sorted(groups))
    raise ValueError(f"no channel of {header.path} is sampled at {rate:g} Hz: it has {rates} Hz")


def _band(
    header: EdfHeader, channels: list[_Channel], members: list[int], rate: float
) -> dict[str, float]:
    """The band that is left of the brain signals, or of all signals where there are none."""
    brain = [i for i in members if channels[i].kind in BRAIN_TYPES]
    others = [i for i in members if channels[i].kind != "stim"]
    return band_of((header.signals[i].prefiltering for i in brain or others), rate)


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
        {"units": units, SIGNALS: describe_signals((c.name for c in chosen), signals)},
        {"source": header.path},
        reading=Reading(
            # beside it, and beside a fixed batch of records, a read holds nothing
            scratch_bytes=records.buffer_bytes,
            interleaved=samples * header.sample_bytes < GAP_BYTES and len(header.signals) > 1,
        ),
    )
    ds = ds.assign_coords(
        {
            dims[0]: np.array([c.name for c in chosen]),
            f"channel_type{suffix}": (dims[0], np.array([c.kind for c in chosen])),
            f"channel_unit{suffix}": (dims[0], np.array([c.unit for c in chosen])),
            f"bad{suffix}": (dims[0], np.array([c.bad for c in chosen], dtype=bool)),
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
    elif header.start_time != datetime.time():
        attrs["edf_start_time"] = header.start_time.isoformat()
    attrs["edf_record_duration"] = header.record_duration
    if header.patient:
        attrs["edf_patient"] = header.patient
    if header.recording:
        attrs["edf_recording"] = header.recording
    return attrs
