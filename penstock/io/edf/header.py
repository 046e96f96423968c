"""The header of an EDF, EDF+ or BDF file, and whether the file that follows fits it.

Parsed here and not with edfio: the position of annotation signals is not in its public interface,
and headers in the wild (decimal commas, NUL padding, Latin-1 units) must open or give one clear
sentence.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass

from penstock.io.edf.identity import read_start, read_time
from penstock.messages import warn

_SIGNAL_FIELDS = (
    ("label", 16),
    ("transducer", 80),
    ("unit", 8),
    ("physical_min", 8),
    ("physical_max", 8),
    ("digital_min", 8),
    ("digital_max", 8),
    ("prefiltering", 80),
    ("samples", 8),
    ("reserved", 32),
)
_COPY = "copy it again in binary mode, or export it again"


@dataclass(frozen=True)
class SignalHeader:
    """One signal of an EDF or BDF file."""

    label: str
    unit: str
    physical_min: float
    physical_max: float
    digital_min: int
    digital_max: int
    samples: int
    """Samples in one data record."""
    offset: int
    """First byte of its samples within a data record."""
    transducer: str = ""
    prefiltering: str = ""
    reserved: str = ""

    @property
    def flat(self) -> bool:
        """Whether the header gives no scaling: a physical or digital range of zero."""
        return self.physical_min == self.physical_max or self.digital_min == self.digital_max

    def scaling(self) -> tuple[float, float]:
        """Gain and offset: physical = digital * gain + offset.

        A digital or physical range of zero counts as one, as in MNE-Python.
        """
        physical = self.physical_max - self.physical_min
        digital = self.digital_max - self.digital_min
        gain = (physical or 1.0) / (digital or 1)
        return gain, self.physical_min - self.digital_min * gain


@dataclass(frozen=True)
class EdfHeader:
    """What the header says, and how many complete data records the file really holds."""

    path: str
    sample_bytes: int
    """2 in EDF, 3 in BDF."""
    header_bytes: int
    record_bytes: int
    n_records: int
    record_duration: float
    kind: str
    """``"EDF"``, ``"EDF+C"``, ``"EDF+D"``, ``"BDF"``, ``"BDF+C"`` or ``"BDF+D"``."""
    patient: str
    recording: str
    start: datetime.datetime | None
    """Date and time in whole seconds, local time; None if anonymised or unreadable."""
    start_time: datetime.time
    """The time alone, which anonymised files may still hold."""
    signals: tuple[SignalHeader, ...]
    annotations: tuple[SignalHeader, ...]


def read_header(path: str) -> EdfHeader:
    """Parse the header and compare it with the size of the file.

    Raises
    ------
    ValueError
        If the file is no EDF or BDF file, or cannot be used.

    Warns
    -----
    UserWarning
        If the last data record is incomplete or records are missing: the complete ones are used.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(256)
        if head[:8] != b"0       " and head[:8] != b"\xffBIOSEMI":
            raise ValueError(
                f"{path} is not an EDF or BDF file (it begins with {head[:16]!r}): "
                "check where the file comes from"
            )
        if len(head) < 256:
            raise ValueError(
                f"{path} ends inside its header ({size} bytes, a header has at least 512): "
                "copy or export it again"
            )
        header_bytes = int(_number(path, "header size", head[184:192]))
        n_records = int(_number(path, "number of data records", head[236:244]))
        duration = _number(path, "data record duration", head[244:252])
        n_signals = int(_number(path, "number of signals", head[252:256]))
        if n_signals < 1 or header_bytes < 256 * (n_signals + 1) or duration < 0:
            raise ValueError(
                f"the header of {path} contradicts itself ({n_signals} signals, {header_bytes} "
                f"header bytes, {duration:g} s a record): {_COPY}"
            )
        if size < header_bytes:
            raise ValueError(
                f"{path} ends inside its header ({size} of {header_bytes} bytes): "
                "copy or export it again"
            )
        table = file.read(256 * n_signals)
    bdf = head[0] == 0xFF
    sample_bytes = 3 if bdf else 2
    signals, annotations = _signals(path, table, n_signals, sample_bytes)
    everything = [*signals, *annotations]
    record_bytes = sum(signal.samples for signal in everything) * sample_bytes
    if record_bytes == 0 or (signals and duration == 0):
        raise ValueError(
            f"the header of {path} gives data records without samples or duration: {_COPY}"
        )
    reserved = _text(head[192:236])
    family = "BDF" if bdf else "EDF"
    plus = reserved[3:5] if reserved.startswith(("EDF+", "BDF+")) else ""
    recording = _text(head[88:168])
    return EdfHeader(
        path=path,
        sample_bytes=sample_bytes,
        header_bytes=header_bytes,
        record_bytes=record_bytes,
        n_records=_complete_records(path, size, header_bytes, record_bytes, n_records),
        record_duration=duration,
        kind=family + plus,
        patient=_text(head[8:88]),
        recording=recording,
        start=read_start(recording, _text(head[168:176]), _text(head[176:184])),
        start_time=read_time(_text(head[176:184])),
        signals=signals,
        annotations=annotations,
    )


def _signals(
    path: str, table: bytes, n_signals: int, sample_bytes: int
) -> tuple[tuple[SignalHeader, ...], tuple[SignalHeader, ...]]:
    columns: dict[str, list[bytes]] = {}
    position = 0
    for name, width in _SIGNAL_FIELDS:
        columns[name] = [
            table[position + i * width : position + (i + 1) * width] for i in range(n_signals)
        ]
        position += width * n_signals
    signals, annotations, offset = [], [], 0
    for i in range(n_signals):
        label = _text(columns["label"][i])
        is_annotation = label in ("EDF Annotations", "BDF Annotations")
        samples = int(_number(path, f"samples a record of {label!r}", columns["samples"][i]))
        if samples < 0:
            raise ValueError(
                f"the header of {path} gives {label!r} {samples} samples a record: {_COPY}"
            )
        # the scaling of annotation signals means nothing and is often left out
        low, high, digital_low, digital_high = (
            (0.0, 1.0, 0.0, 1.0)
            if is_annotation
            else (
                _number(path, f"{name.replace('_', ' ')} of {label!r}", columns[name][i])
                for name in ("physical_min", "physical_max", "digital_min", "digital_max")
            )
        )
        signal = SignalHeader(
            label=label,
            unit=_text(columns["unit"][i]),
            physical_min=low,
            physical_max=high,
            digital_min=int(digital_low),
            digital_max=int(digital_high),
            samples=samples,
            offset=offset,
            transducer=_text(columns["transducer"][i]),
            prefiltering=_text(columns["prefiltering"][i]),
            reserved=_text(columns["reserved"][i]),
        )
        offset += samples * sample_bytes
        if is_annotation:
            annotations.append(signal)
        elif samples:
            signals.append(signal)
    return tuple(signals), tuple(annotations)


def _complete_records(
    path: str, size: int, header_bytes: int, record_bytes: int, stated: int
) -> int:
    data_bytes = size - header_bytes
    found, rest = divmod(data_bytes, record_bytes)
    if (
        stated > 0
        and data_bytes > stated * record_bytes
        and _line_ends_converted(path, header_bytes)
    ):
        raise ValueError(
            f"{path} was changed by a transfer in text mode (every line end has become CR LF, "
            f"{data_bytes - stated * record_bytes} bytes too many): copy it again in binary mode"
        )
    if found == 0:
        raise ValueError(
            f"{path} holds no complete data record ({data_bytes} of {record_bytes} bytes): "
            "copy or export it again"
        )
    if stated > found or (rest and stated < 0):
        missing = f"{found} of {stated} data records" if stated > 0 else "an incomplete last record"
        warn(
            f"{path} is cut short ({missing}): the {found} complete records are used",
            stacklevel=5,
        )
    elif stated > 0 and data_bytes > stated * record_bytes:
        warn(
            f"{path} holds {data_bytes - stated * record_bytes} bytes after the {stated} data "
            "records its header announces: they are left out",
            stacklevel=5,
        )
    return found if stated <= 0 else min(stated, found)


def _line_ends_converted(path: str, header_bytes: int) -> bool:
    with open(path, "rb") as file:
        file.seek(header_bytes)
        data = file.read(1 << 22)
    line_feeds = data.count(b"\n")
    return line_feeds > 0 and data.count(b"\r\n") == line_feeds


def _text(field: bytes) -> str:
    return field.split(b"\x00")[0].decode("latin-1").strip()


def _number(path: str, what: str, field: bytes) -> float:
    text = _text(field).replace(",", ".")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise ValueError(
            f"the header of {path} is damaged (the {what} is {_text(field)!r}, not a number; a "
            f"transfer in text mode does that): {_COPY}"
        )
    return value
