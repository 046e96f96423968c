"""EDF and BDF files made byte by byte: what writers that keep to the rules do not make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass
class Signal:
    """One signal and its texts in the header."""

    label: str
    values: np.ndarray | None = field(default_factory=lambda: np.zeros(0, np.int16))
    unit: str = "uV"
    physical: tuple[str, str] = ("-3276.8", "3276.7")
    digital: tuple[str, str] = ("-32768", "32767")
    transducer: str = ""
    prefiltering: str = ""
    reserved: str = ""


@dataclass
class Annotations:
    """A signal of annotations: the bytes of every record, without the NUL that end them."""

    records: Sequence[bytes]
    label: str = "EDF Annotations"


def stamps(onsets: Sequence[float | str], *events: tuple[int, bytes]) -> Annotations:
    """Time stamps of records, with further annotations (record, bytes)."""
    records = [f"+{onset}\x14\x14\x00".encode() for onset in onsets]
    for record, data in events:
        records[record] += data + b"\x00"
    return Annotations(records)


def write(
    path: Path,
    signals: Sequence[Signal | Annotations],
    *,
    n_records: int,
    duration: float | str = 1,
    reserved: str = "EDF+C",
    patient: str = "X X X X",
    recording: str = "Startdate X X X X",
    date: str = "01.01.85",
    time: str = "00.00.00",
    stated_records: int | None = None,
    bdf: bool = False,
) -> Path:
    """Write the file; every text is cut to its field."""

    def text(value: object, width: int) -> bytes:
        return str(value).encode("latin-1").ljust(width)[:width]

    width = 3 if bdf else 2
    rows = []
    samples = []
    for signal in signals:
        if isinstance(signal, Annotations):
            longest = -(-max(map(len, signal.records)) // width)
            samples.append(longest)
            rows.append((signal.label, "", "", "-1", "1", "-32768", "32767", "", longest, ""))
            continue
        assert signal.values is not None
        samples.append(len(signal.values) // n_records)
        rows.append(
            (signal.label, signal.transducer, signal.unit, *signal.physical, *signal.digital,
             signal.prefiltering, samples[-1], signal.reserved)
        )  # fmt: skip
    n = len(signals)
    head = b"\xffBIOSEMI" if bdf else text("0", 8)
    head += text(patient, 80) + text(recording, 80) + text(date, 8) + text(time, 8)
    head += text(256 * (n + 1), 8) + text(reserved, 44)
    head += text(n_records if stated_records is None else stated_records, 8)
    head += text(duration, 8) + text(n, 4)
    for column, size in enumerate((16, 80, 8, 8, 8, 8, 8, 80, 8, 32)):
        for row in rows:
            head += text(row[column], size)
    body = b""
    for record in range(n_records):
        for signal, count in zip(signals, samples, strict=True):
            if isinstance(signal, Annotations):
                body += signal.records[record].ljust(width * count, b"\x00")
                continue
            part = np.asarray(signal.values)[record * count : (record + 1) * count]
            if bdf:
                body += part.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
            else:
                body += part.astype("<i2").tobytes()
    path.write_bytes(head + body)
    return path


def signals_of(path: Path) -> dict[str, dict[str, object]]:
    """Header and digital values of every signal but annotations, by label, without any library."""
    data = path.read_bytes()
    n, n_records = int(data[252:256]), int(data[236:244])
    texts: list[list[str]] = [[] for _ in range(n)]
    at = 256
    for size in (16, 80, 8, 8, 8, 8, 8, 80, 8, 32):
        for texts_of_one in texts:
            texts_of_one.append(data[at : at + size].decode("latin-1").strip())
            at += size
    samples = [int(each[8]) for each in texts]
    values = np.frombuffer(data[at:], "<i2").reshape(n_records, -1)
    found: dict[str, dict[str, object]] = {}
    first = 0
    for each, count in zip(texts, samples, strict=True):
        if each[0] != "EDF Annotations":
            found[each[0]] = {
                "transducer": each[1],
                "physical": [float(text.replace(",", ".")) for text in each[3:5]],
                "digital": [int(text) for text in each[5:7]],
                "prefiltering": each[7],
                "samples": count,
                "values": values[:, first : first + count].tobytes(),
            }
        first += count
    return found


def odd_file(path: Path, **changes: object) -> Path:
    """A file as recorders write them: several annotation signals, scalings of every kind."""
    rng = np.random.default_rng(5)

    def noise(n: int, low: int = -2000, high: int = 2000) -> np.ndarray:
        return rng.integers(low, high, n)

    signals = [
        Signal("EEG Fpz-Cz", noise(1000), "uV", ("-500", "500"), ("-2048", "2047"),
               "AgAgCl electrode", "HP:0.1Hz LP:75Hz N:50Hz"),
        stamps(range(0, 20, 2), (2, b"+2.25\x14first\x14")),
        Signal("Fc5.", noise(1000), "\xb5V", ("500", "-500"), ("-2048", "2047")),
        Signal("Pz", noise(1000), "mV", ("-1.25", "1.25"), ("2047", "-2048"), "gold cup"),
        Signal("Resp chest", noise(100), "", ("-1e-3", "0.001"), ("-32767", "32767")),
        Annotations([f"+{i + 0.5}\x1510.5\x14more \xb5\x14\x00".encode() for i in range(10)]),
        Signal("EOG left", noise(1000), "", ("-1024", "1023,5"), ("-2048", "2047")),
        Signal("Temp rectal", noise(10, 0, 2000), "\xb0C", ("34", "40.2"), ("-2849", "2731")),
        Signal("STI 014", noise(1000, 0, 255), "Boolean", ("-32768", "32767")),
    ]  # fmt: skip
    return write(path, signals, n_records=10, **changes)
