"""Streaming EDF+ writer: two passes over the data (range, then samples), or one if it is known."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.dataset import SIGNAL, sampling_frequency
from penstock.formats import ExportReport, WriteOptions, check_recording
from penstock.io.edf.band import prefiltering
from penstock.io.edf.events_write import event_records
from penstock.io.edf.header_write import SignalFields, annotation_fields, header_bytes
from penstock.io.edf.identity import patient_field, recording_field, split_start, start_fields
from penstock.io.edf.labels import Channel, ascii_text, choose_labels, read_labels
from penstock.io.edf.plan import RecordLayout, plan_records, seconds_text
from penstock.io.edf.samples_write import Group, Progress, blocks, not_a_number, read_block
from penstock.io.edf.samples_write import write_records as write_samples
from penstock.io.edf.scaling import Candidates, Scaling, Source, read_source, source_signals
from penstock.io.edf.subject import identity
from penstock.io.edf.times import from_zero, same_time
from penstock.io.labels import VOLTAGE_TYPES, clean_unit, listed, split_label, volts
from penstock.storage.publish import published_file

if TYPE_CHECKING:
    import xarray as xr

PEEK_SAMPLES = 4096
"""Samples of each channel that tell whether its values may lie on a grid."""
HELD = frozenset({"source", "edf_type", "edf_record_duration", "edf_patient", "edf_recording",
                  "measurement_date", "first_time", "highpass", "lowpass", "penstock",
                  "store", "sidecars", "sidecar_notes"})  # fmt: skip
"""Attributes of a dataset that are written, or that say where and how it was made."""
INFO = frozenset({"mne_info", "channel_info"})
"""What MNE-Python's Info says of a recording."""


def export_edf(ds: xr.Dataset, path: str, options: WriteOptions) -> ExportReport:
    """Write a recording as EDF+; see `penstock.export`."""
    check_recording(ds)
    return write_edf(
        ds,
        path,
        ranges=options.ranges,
        typed_labels=options.typed_labels,
        progress=options.progress,
        buffer_bytes=options.buffer_bytes,
    )


def write_edf(
    ds: xr.Dataset,
    path: str,
    *,
    ranges: tuple[np.ndarray, np.ndarray] | None,
    typed_labels: bool,
    progress: Callable[[float], None] | None,
    buffer_bytes: int,
) -> ExportReport:
    """Write `ds` as EDF+C; see `penstock.io.export`."""
    ds, notes = same_time(ds)
    ds = from_zero(ds)
    groups = _groups(ds)
    layout = plan_records(
        [sampling_frequency(ds, group.time) for group in groups],
        [group.length for group in groups],
        [len(group.channels) for group in groups],
        _source_duration(ds),
    )
    notes += _moved_rates(ds, groups, layout)
    sources = _sources(ds, groups)
    offset = 0
    for i, group in enumerate(groups):
        group.samples, group.offset = layout.samples[i], offset
        offset += 2 * group.samples * len(group.channels)
    _choose_scaling(ds, groups, sources, ranges, buffer_bytes, progress)
    start, fraction, lost = split_start(ds.attrs.get("measurement_date"))
    notes += lost
    header = _Header(ds, groups, sources, layout, start, typed_labels)
    labels = dict(zip((c.name for c in header.channels), header.labels, strict=True))
    annotations, reserved, lost = event_records(ds, layout, fraction, labels)
    notes += lost
    with published_file(path) as file:
        file.write(header.bytes(reserved // 2))
        total = sum(group.length * len(group.channels) for group in groups)
        done = Progress(progress, 2 * total, total)
        write_samples(ds, file, groups, layout, annotations, reserved, buffer_bytes, done)
    return _report(path, ds, groups, layout, header, notes)


def _source_duration(ds: xr.Dataset) -> float | None:
    duration = ds.attrs.get("edf_record_duration")
    return float(duration) if isinstance(duration, int | float | np.number) else None


def _groups(ds: xr.Dataset) -> list[Group]:
    groups = []
    names = [SIGNAL, *(str(n) for n in ds.data_vars if str(n).startswith(f"{SIGNAL}_"))]
    for variable in names:
        suffix = variable.removeprefix(SIGNAL)
        channel, time = f"channel{suffix}", f"time{suffix}"
        if set(ds[variable].dims) != {channel, time} or 0 in ds[variable].shape:
            continue
        n = ds.sizes[channel]
        labels = _texts(ds, channel, n, "") if channel in ds.coords else []
        kinds = _texts(ds, f"channel_type{suffix}", n, "eeg")
        bad = ds[f"bad{suffix}"].values.astype(bool) if f"bad{suffix}" in ds.variables else [0] * n
        groups.append(
            Group(
                variable,
                channel,
                time,
                channels=[
                    Channel(name, kind, bool(is_bad))
                    for name, kind, is_bad in zip(
                        labels or [str(i + 1) for i in range(n)], kinds, bad, strict=True
                    )
                ],
                units=_texts(
                    ds, f"channel_unit{suffix}", n, str(ds[variable].attrs.get("units", ""))
                ),
                length=ds.sizes[time],
                clipped=np.zeros(n, dtype=np.int64),
            )
        )
    return groups


def _texts(ds: xr.Dataset, name: str, n: int, default: str) -> list[str]:
    return [str(v) for v in ds[name].values] if name in ds.variables else [default] * n


def _sources(ds: xr.Dataset, groups: list[Group]) -> list[list[Source]]:
    """What the file of every channel said of it."""
    result = []
    for group in groups:
        about = source_signals(ds[group.variable].attrs)
        labels = _source_labels(ds, group)
        former = [
            name if name in about else split_label(label)[0]
            for name, label in zip(group.names, labels, strict=True)
        ]
        # renamed channels are known by their places, if the others still are in theirs
        before = list(about)
        in_place = len(before) == len(former) and all(
            name not in about or name == old for name, old in zip(former, before, strict=True)
        )
        former = before if in_place else former
        result.append(
            [
                read_source(about.get(name, {}), unit)
                for name, unit in zip(former, group.units, strict=True)
            ]
        )
    return result


# ---------------------------------------------------------------------- first pass


def _choose_scaling(
    ds: xr.Dataset,
    groups: list[Group],
    sources: list[list[Source]],
    ranges: tuple[np.ndarray, np.ndarray] | None,
    buffer_bytes: int,
    progress: Callable[[float], None] | None,
) -> None:
    """Scaling of every channel, from all of its values, or from its range where that is known.

    A known range spares the pass unless the first samples lie on a grid that may be kept.
    """
    total = sum(group.length * len(group.channels) for group in groups)
    done = Progress(progress, 2 * total)
    for i, group in enumerate(groups):
        known = _checked(ranges, group) if ranges is not None and i == 0 else None
        if known is not None and not _promising(ds, group, sources[i], known, buffer_bytes):
            group.candidates = _candidates(group, sources[i])
            for candidate, low, high in zip(group.candidates, *known, strict=True):
                candidate.low, candidate.high = float(low), float(high)
                candidate.source, candidate.whole = None, False
            done.add(group.length * len(group.channels))
        else:
            group.candidates = _candidates(group, sources[i])
            for channels, times in blocks(ds, group, group.length, 1, buffer_bytes):
                block = read_block(ds, group, channels, times)
                for row, candidate in enumerate(group.candidates[channels]):
                    candidate.see(block[row])
                done.add(block.size)
            if known is not None:
                for candidate, low, high in zip(group.candidates, *known, strict=True):
                    if np.isfinite(low) and np.isfinite(high) and not candidate.missing:
                        candidate.low, candidate.high = float(low), float(high)
        for channel, candidate in zip(group.channels, group.candidates, strict=True):
            finite = np.isfinite(candidate.low) and np.isfinite(candidate.high)
            wrong = not finite or candidate.low > candidate.high
            if wrong or (candidate.missing and not channel.bad):
                raise not_a_number(channel.name)
        group.scaling = [candidate.choose() for candidate in group.candidates]


def _candidates(group: Group, sources: list[Source]) -> list[Candidates]:
    return [
        Candidates(channel.kind, unit, source.scaling)
        for channel, unit, source in zip(group.channels, group.units, sources, strict=True)
    ]


def _checked(ranges: tuple[np.ndarray, np.ndarray], group: Group) -> tuple[np.ndarray, np.ndarray]:
    low, high = (np.asarray(values, dtype=np.float64) for values in ranges)
    if low.shape != (len(group.channels),) or high.shape != low.shape:
        raise ValueError(
            f"ranges must be two arrays with a value for each of the {len(group.channels)} "
            f"channels, got shapes {low.shape} and {high.shape}"
        )
    return low, high


def _promising(
    ds: xr.Dataset,
    group: Group,
    sources: list[Source],
    known: tuple[np.ndarray, np.ndarray],
    buffer_bytes: int,
) -> bool:
    """Whether the first samples of a channel lie on a grid, or its range tells of none."""
    bad = np.array([channel.bad for channel in group.channels])
    if (bad & ~(np.isfinite(known[0]) & np.isfinite(known[1]))).any():
        return True
    candidates = _candidates(group, sources)
    length = min(group.length, PEEK_SAMPLES)
    for channels, times in blocks(ds, group, length, 1, buffer_bytes):
        block = read_block(ds, group, channels, times)
        for row, candidate in enumerate(candidates[channels]):
            candidate.see(block[row])
    return any(candidate.promising for candidate in candidates)


# ---------------------------------------------------------------------- header


class _Header:
    """The fields of the header, and what they do not say."""

    def __init__(
        self,
        ds: xr.Dataset,
        groups: list[Group],
        sources: list[list[Source]],
        layout: RecordLayout,
        start: datetime.datetime | None,
        typed: bool,
    ):
        self.layout = layout
        self.start = start
        date = start.date() if start is not None else None
        patient, recording = identity(ds.attrs)
        self.patient, whole_patient = patient_field(patient)
        self.recording, whole_recording = recording_field(recording, date)
        self.notes = [
            f"the {name} field does not keep to the rules of EDF+ ({rules}) and is written so "
            "that it does: what it held stands in it in another form"
            for name, rules, whole in (
                ("patient", "code, sex, birthdate, name", whole_patient),
                ("recording", "start date, admin code, technician, equipment", whole_recording),
            )
            if not whole
        ]
        self.channels = [channel for group in groups for channel in group.channels]
        scalings = [scaling for group in groups for scaling in group.scaling]
        units = [scaling.unit for scaling in scalings]
        before = [label for group in groups for label in _source_labels(ds, group)]
        self.labels, self.reserved = choose_labels(self.channels, units, before, typed)
        self.read_back = read_labels(self.labels, units, self.reserved)
        filtered = _prefiltering(ds, groups, sources)
        transducers = [source.transducer for each in sources for source in each]
        self.notes += [
            f"the {name} of {listed(changed)} does not fit into 80 ASCII characters and is changed"
            for name, texts in (("transducer", transducers), ("prefiltering text", filtered))
            if (changed := [c.name for c, t in zip(self.channels, texts, strict=True) if _odd(t)])
        ]
        self.signals = [
            SignalFields(
                label=label,
                transducer=ascii_text(transducer)[:80],
                unit=scaling.unit,
                physical_min=scaling.texts[0],
                physical_max=scaling.texts[1],
                digital_min=str(scaling.digital[0]),
                digital_max=str(scaling.digital[1]),
                prefiltering=ascii_text(went_through)[:80],
                samples=str(samples),
                reserved=reserved,
            )
            for label, transducer, went_through, scaling, samples, reserved in zip(
                self.labels,
                transducers,
                filtered,
                scalings,
                [group.samples for group in groups for _ in group.channels],
                self.reserved,
                strict=True,
            )
        ]

    def bytes(self, annotation_samples: int) -> bytes:
        """The header of a file with so many samples of annotations a record."""
        date, time = start_fields(self.start)
        return header_bytes(
            [*self.signals, annotation_fields(annotation_samples)],
            patient=self.patient,
            recording=self.recording,
            date=date,
            time=time,
            n_records=self.layout.n_records,
            duration=seconds_text(self.layout.duration),
        )


def _odd(text: str) -> bool:
    return ascii_text(text)[:80] != text


def _prefiltering(ds: xr.Dataset, groups: list[Group], sources: list[list[Source]]) -> list[str]:
    """What every channel has been through; values that are those of a file are no further on."""
    result = []
    for group, known in zip(groups, sources, strict=True):
        rate = sampling_frequency(ds, group.time)
        attrs = ds.attrs if group.variable == SIGNAL else {}
        for channel, scaling, source in zip(group.channels, group.scaling, known, strict=True):
            same = channel.kind == "stim" or scaling is source.scaling
            text = source.prefiltering
            result.append(text if same else prefiltering(text, attrs, rate))
    return result


def _source_labels(ds: xr.Dataset, group: Group) -> list[str]:
    suffix = group.variable.removeprefix(SIGNAL)
    return _texts(ds, f"label{suffix}", len(group.channels), "")


# ---------------------------------------------------------------------- report


def _report(
    path: str,
    ds: xr.Dataset,
    groups: list[Group],
    layout: RecordLayout,
    header: _Header,
    notes: list[str],
) -> ExportReport:
    everything = [(group, i) for group in groups for i in range(len(group.channels))]
    scaling = {group.names[i]: group.scaling[i] for group, i in everything}
    renamed = {}
    for before, after in zip(header.channels, header.read_back, strict=True):
        if after.name != before.name:
            renamed[before.name] = after.name
        if after.kind != before.kind:
            notes.append(
                f"EDF labels cannot say that {before.name!r} is of type {before.kind!r}: "
                "give it when opening, with channel_types"
            )
    notes += header.notes + _lost_units(groups) + _lost_values(groups)
    bad = [channel.name for channel in header.channels if channel.bad]
    if bad:
        notes.append(
            f"EDF has no place for bad channels: other software takes {listed(bad)} for good "
            "(Penstock reads the mark from the reserved field of the signal header)"
        )
    notes += _left_out(ds, groups)
    padded = float(layout.n_records * layout.duration) - groups[0].length / (
        groups[0].samples / float(layout.duration)
    )
    return ExportReport(
        path=path,
        format="edf",
        quantisation_step={name: abs(each.step) for name, each in scaling.items()},
        clipped={g.names[i]: int(g.clipped[i]) for g, i in everything},
        renamed=renamed,
        padded_seconds=0.0 if layout.exact else padded,
        notes=tuple(notes),
    )


def _moved_rates(ds: xr.Dataset, groups: list[Group], layout: RecordLayout) -> list[str]:
    notes = []
    for group, samples in zip(groups, layout.samples, strict=True):
        rate, written = sampling_frequency(ds, group.time), float(samples / layout.duration)
        if abs(written - rate) > 1e-12 * rate:
            notes.append(
                f"EDF cannot hold the sampling frequency {rate:.12g} Hz: it is {written:.12g} Hz"
            )
    return notes


def _lost_units(groups: list[Group]) -> list[str]:
    """Units that are not those of the dataset when the file is read."""
    lost: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        for channel, unit, scaling in zip(group.channels, group.units, group.scaling, strict=True):
            found = scaling.unit
            if channel.kind == "stim":
                unit = unit if volts(unit) is None or found else ""
            elif volts(unit) is not None:
                unit = "uV"
            if channel.kind != "stim" and (
                volts(found) is not None or (not found and channel.kind in VOLTAGE_TYPES)
            ):
                found = "uV"
            if clean_unit(unit) != found:
                lost.setdefault((unit, found), []).append(channel.name)
    return [
        f"the unit {unit!r} of {listed(names)} is read back as {found!r}"
        for (unit, found), names in lost.items()
    ]


def _lost_values(groups: list[Group]) -> list[str]:
    notes = []
    for group in groups:
        for channel, candidate, scaling in zip(
            group.channels, group.candidates, group.scaling, strict=True
        ):
            if channel.kind == "stim" and candidate.whole and abs(scaling.step) > 1:
                notes.append(
                    f"the codes of {channel.name!r} need more than 16 bits and are rounded: export "
                    "as .fif or .zarr to keep them"
                )
            elif channel.kind == "stim" and not _holds_codes(candidate, scaling):
                notes.append(
                    f"the codes of {channel.name!r} lie on no grid that EDF holds and are rounded "
                    f"to steps of {abs(scaling.step):.3g}: export as .fif or .zarr to keep them"
                )
            if candidate.missing:
                notes.append(
                    f"{candidate.missing} samples of the bad channel {channel.name!r} are not "
                    "numbers (NaN or infinite) and are written as 0"
                )
    return notes


def _holds_codes(candidate: Candidates, scaling: Scaling) -> bool:
    """Whether all values of a channel are read back as they are."""
    if candidate.source is not None or candidate.low == candidate.high:
        return True
    return candidate.whole and abs(scaling.step) == 1 and float(scaling.offset).is_integer()


def _left_out(ds: xr.Dataset, groups: list[Group]) -> list[str]:
    """Variables and attributes that EDF has no place for."""
    held = {"event_onset", "event_duration", "event_label", "event_channels"}
    for group in groups:
        suffix = group.variable.removeprefix(SIGNAL)
        held |= {group.variable, group.channel, group.time}
        held |= {f"{name}{suffix}" for name in ("channel_type", "channel_unit", "bad", "label")}
    variables = sorted(str(name) for name in ds.variables if str(name) not in held)
    attributes = sorted(str(name) for name, value in ds.attrs.items() if _says(name, value))
    notes = []
    if INFO & {*variables, *attributes}:
        notes.append(
            "EDF has no place for positions, projections and what else MNE-Python's Info says: "
            "export as .fif or .zarr to keep it"
        )
        variables = [name for name in variables if name not in INFO]
        attributes = [name for name in attributes if name not in INFO]
    if variables:
        notes.append(f"EDF has no place for the variables {', '.join(variables)}")
    if attributes:
        notes.append(f"EDF has no place for the attributes {', '.join(attributes)}")
    return notes


def _says(name: Any, value: Any) -> bool:
    return str(name) not in HELD and value is not None and value is not False
