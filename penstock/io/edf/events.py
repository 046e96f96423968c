"""Annotations of an EDF+ or BDF+ file, and the time stamps of its data records."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from penstock.io.edf.header import EdfHeader, read_header
from penstock.io.edf.records import read_signal_bytes
from penstock.local_paths import local_path

if TYPE_CHECKING:
    import pandas as pd

SEAM = "BAD_ACQ_SKIP"
"""Label of the event that marks where pieces are joined, as MNE-Python calls a pause."""
JITTER = 1e-3
"""Seconds by which time stamps of a file that says it is continuous may be off: they are often
those of a clock, not of the samples."""

_TAL = re.compile(rb"([+-]\d+(?:\.\d*)?)(?:\x15(\d+(?:\.\d*)?))?\x14(.*?)\x14?\Z", re.DOTALL)


class Row(NamedTuple):
    """One event; times in seconds from the first sample."""

    onset: Decimal
    duration: float
    label: str
    record: int
    """Data record that it is stored in."""


@dataclass(frozen=True)
class Events:
    """What the annotation signals of a file hold."""

    first: Decimal
    """Onset of the first record: the fraction of a second after the start in the header."""
    rows: list[Row]
    """In order of time."""
    onsets: np.ndarray
    """Onset [s] of every data record after the first one; NaN where the file gives none."""
    decimals: int
    """Most decimals that one of these onsets is written with."""


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
    path = local_path(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"no such file: {path}; check the path for typing errors")
    return table(read_events(read_header(path)).rows)


def read_events(header: EdfHeader) -> Events:
    """Time-stamped annotation lists (TAL) of all records, through reads of their bytes only."""
    first: Decimal | None = None
    rows: list[Row] = []
    onsets = np.full(header.n_records, np.nan)
    decimals = 0
    plus = "+" in header.kind
    for number, signal in enumerate(header.annotations):
        # the first signal that holds any says when the records begin
        stamping = not np.isfinite(onsets).any()
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
                if stamping and np.isnan(onsets[record]) and not texts[0]:
                    if first is None:
                        first = onset - record * Decimal(repr(header.record_duration))
                    onsets[record] = float(onset - first)
                    decimals = max(decimals, len(match[1].partition(b".")[2].rstrip(b"0")))
                duration = float(match[2]) if match[2] else 0.0
                rows.extend(Row(onset, duration, _decode(text), record) for text in texts if text)
    zero = first or Decimal(0)
    relative = [row._replace(onset=row.onset - zero) for row in rows]
    relative.sort(key=lambda row: row.onset)
    return Events(zero, relative, onsets, decimals)


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def table(rows: list[Row]) -> pd.DataFrame:
    """Events as `penstock.with_events` takes them."""
    import pandas as pd

    return pd.DataFrame(
        {
            "onset": np.array([float(row.onset) for row in rows], dtype=np.float64),
            "duration": np.array([row.duration for row in rows], dtype=np.float64),
            "label": pd.Series([row.label for row in rows], dtype=object),
        }
    )


def of_channels(rows: list[Row], names: Mapping[str, str]) -> tuple[list[Row], list[str]]:
    """Events of single channels, which MNE-Python marks (``label@@channel``), one for all of them.

    Parameters
    ----------
    rows : list of Row
    names : mapping of str to str
        Name in the dataset of every label in the file.

    Returns
    -------
    tuple of list of Row, list of str
        The events, and the channels of each as JSON text; "" for all channels.
    """
    found: list[Row] = []
    channels: list[list[str]] = []
    places: dict[tuple[Decimal, float, str], int] = {}
    for row in rows:
        label, _, channel = row.label.partition("@@")
        if channel not in names:
            found.append(row)
            channels.append([])
            continue
        key = row.onset, row.duration, label
        if key not in places:
            places[key] = len(found)
            found.append(row._replace(label=label))
            channels.append([])
        channels[places[key]].append(names[channel])
    return found, [json.dumps(each) if each else "" for each in channels]


# ---------------------------------------------------------------------- interruptions


def without_gaps(header: EdfHeader, events: Events, gaps: str) -> list[Row]:
    """Events in the time of the joined records, with one for every seam.

    Raises
    ------
    ValueError
        If the time stamps of the records jump and `gaps` is ``"raise"``.
    """
    discontinuous = header.kind.endswith("+D")
    if discontinuous and np.isnan(events.onsets).any():
        raise ValueError(
            f"{header.path} is a discontinuous recording ({header.kind}) that does not say when "
            f"each of its data records begins: export it again as {header.kind[:-1]}C"
        )
    seams, jumps = _seams(header, events)
    if not len(seams):
        return events.rows
    if gaps == "raise":
        after = f"{len(seams)} time(s), first after {seams[0] * header.record_duration:g} s"
        if discontinuous and jumps[0] > 0:
            said = f"is interrupted {after} for {jumps[0]:g} s ({header.kind})"
        else:
            claim = "is interrupted" if discontinuous else "says that it is continuous"
            said = f"{claim} ({header.kind}), and its time stamps jump {after} by {jumps[0]:g} s"
        raise ValueError(
            f"{header.path} {said}: cut it into "
            "continuous pieces, or open it with gaps='join' (on the command line --gaps join) to "
            f"join them and mark every seam with a {SEAM} event"
        )
    joined = _JoinedTime(header, events.onsets, seams)
    rows = [joined.row(row) for row in events.rows]
    for seam in seams:
        onset = Decimal(repr(float(seam * header.record_duration)))
        rows.append(Row(onset, 0.0, SEAM, int(seam)))
    return sorted(rows, key=lambda row: row.onset)


def _seams(header: EdfHeader, events: Events) -> tuple[np.ndarray, np.ndarray]:
    """Records that do not begin where the one before ends, and by how many seconds."""
    duration = header.record_duration
    stamped = np.flatnonzero(np.isfinite(events.onsets))
    onsets = events.onsets[stamped]
    nothing = np.zeros(0, np.int64), np.zeros(0)
    continuous = header.kind.endswith("+C")
    if len(stamped) < 2 or (continuous and (onsets == onsets[0]).all()):
        return nothing  # (some writers stamp every record with 0)
    # a record begins where the one before ends, up to half a sample, and up to what is lost where
    # its onset is written with too few decimals
    slack = 0.5 * duration / max(signal.samples for signal in header.signals)
    digit = Decimal(1).scaleb(-events.decimals)
    if Decimal(repr(duration)) % digit:
        slack += float(digit)
    if continuous:
        slack = max(slack, JITTER)
    steps = np.diff(onsets) - np.diff(stamped) * duration
    jumps = np.abs(steps) > slack
    return stamped[1:][jumps], steps[jumps]


class _JoinedTime:
    """Times of the recording to times of its records put one after the other."""

    def __init__(self, header: EdfHeader, onsets: np.ndarray, seams: np.ndarray):
        self.duration = header.record_duration
        records = np.arange(header.n_records)
        stamped = np.isfinite(onsets)
        # records without a stamp follow the one before
        last = np.maximum.accumulate(np.where(stamped, records, 0))
        self.onsets = np.nan_to_num(onsets[last]) + (records - last) * self.duration
        self.slack = 0.5 * self.duration / max(signal.samples for signal in header.signals)
        self.firsts = np.array([0, *seams])
        self.stops = np.array([*seams, header.n_records])
        self.begins = self.onsets[self.firsts] - self.slack
        self.ends = self.onsets[self.stops - 1] + self.duration

    def row(self, row: Row) -> Row:
        """The event in joined time; of an interruption that it spans nothing is left."""
        onset = float(row.onset)
        home = int(np.searchsorted(self.stops, row.record, side="right"))
        piece = self._piece(onset, home)
        start = self._at(onset, piece)
        duration = row.duration
        if duration > 0:
            end = onset + duration
            duration = max(0.0, self._at(end, self._piece(end, piece)) - start)
            if abs(duration - row.duration) < 1e-6:
                duration = row.duration
        return row._replace(onset=Decimal(repr(start)), duration=duration)

    def _piece(self, time: float, home: int) -> int:
        """The piece that holds a time: where clocks went back several may, then `home`."""
        holding = np.flatnonzero((self.begins <= time) & (time <= self.ends))
        if home in holding:
            return home
        if len(holding):
            return int(holding[-1])
        begun = np.flatnonzero(self.begins <= time)
        return int(begun[np.argmax(self.begins[begun])]) if len(begun) else 0

    def _at(self, time: float, piece: int) -> float:
        first, stop = int(self.firsts[piece]), int(self.stops[piece])
        onsets = self.onsets[first:stop]
        record = max(0, int(np.searchsorted(onsets, time + self.slack, side="right")) - 1)
        within = time - float(onsets[record])
        if record < len(onsets) - 1 or piece < len(self.firsts) - 1:
            # what happened during an interruption belongs to its seam
            within = min(within, self.duration)
        if piece or record:
            within = max(within, 0.0)
        return (first + record) * self.duration + within
