"""Subjects as MNE-Python's ``Info["subject_info"]`` describes them, in the patient field of EDF+.

Both ways as MNE-Python's own reader and writer of EDF do it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from penstock.io.edf.identity import date_text, parse_date, patient_field
from penstock.io.mne.text import from_text

_SEXES = {"M": 1, "F": 2}
_NAMES = ("first_name", "middle_name", "last_name")


def subject_of(patient: str) -> dict[str, Any]:
    """What a patient field says, as MNE-Python keeps it.

    Examples
    --------
    >>> subject_of("MCH-0234567 F 02-MAY-1951 Harry_Haagse")["last_name"]
    'Haagse'
    """
    words = patient.split()
    if len(words) < 4:
        return {"his_id": words[0]} if words else {}
    parts = words[3].split("_")
    names = {2: ("first_name", "last_name"), 3: _NAMES}.get(len(parts))
    subject: dict[str, Any] = {"his_id": words[0], "sex": _SEXES.get(words[1], 0)}
    subject |= dict(zip(names, parts, strict=True)) if names else {"last_name": words[3]}
    birthday = parse_date(words[2])
    if birthday is not None:
        subject["birthday"] = birthday
    for word in words[4:]:
        key, _, value = word.partition("=")
        if key in ("weight", "height", "hand"):
            try:
                subject[key] = int(value) if key == "hand" else float(value)
            except ValueError:
                continue
    return subject


def patient_of(subject: Mapping[str, Any]) -> str:
    """The patient field for what MNE-Python keeps of a subject."""

    def word(value: Any) -> str:
        return "_".join(str(value).split()) if value else ""

    birthday = subject.get("birthday")
    if not isinstance(birthday, datetime.date):
        birthday = None
    fields = [
        word(subject.get("his_id")) or "X",
        {1: "M", 2: "F"}.get(int(subject.get("sex") or 0), "X"),
        date_text(birthday),
        "_".join(filter(None, (word(subject.get(name)) for name in _NAMES))) or "X",
    ]
    more = ((key, subject.get(key)) for key in ("height", "weight", "hand"))
    return " ".join([*fields, *(f"{key}={value}" for key, value in more if value)])


def identity(attrs: Mapping[str, Any]) -> tuple[str, str]:
    """Texts for the patient and the recording field, from what a dataset says of both.

    What MNE-Python's Info says of the subject wins over the field of the file, which it may have
    been made from: anonymising changes the Info.
    """
    patient, recording = (str(attrs.get(key, "")) for key in ("edf_patient", "edf_recording"))
    text = str(attrs.get("mne_info", ""))
    if not text:
        return patient, recording
    try:
        info = from_text(text)
    except ValueError:
        return patient, recording
    subject = info.get("subject_info") or {}
    if not patient or subject_of(patient_field(patient)[0]) != dict(subject):
        patient = patient_of(subject)
    device = (info.get("device_info") or {}).get("type")
    if not recording and device:
        recording = f"Startdate X X X {'_'.join(str(device).split())}"
    return patient, recording
