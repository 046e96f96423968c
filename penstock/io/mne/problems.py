"""What MNE-Python says when it cannot open a recording, as one sentence with what to do."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any

from penstock.io.registry import MissingExtraError

IN_THE_EXTRA = ("antio", "curryreader", "defusedxml", "mffpy", "pymatreader")
"""Modules of single formats that ``penstock[eeg]`` brings."""

_MODULE = (
    re.compile(r"\bthe module (?P<name>[\w.]+?)(?P<version>[<>=!]=?[\w.]+)?[ ,(].*is needed"),
    re.compile(r"^(?P<name>\w+) is required to (?P<version>)"),
    re.compile(r"^No module named '(?P<name>\w+)(?P<version>)"),
)
_OPTION = re.compile(r"(\w+)\(\) got an unexpected keyword argument '(\w+)'")


_EPOCHS = {"No raw data in": "read_epochs", "The number of trials": "read_epochs_eeglab"}
"""What MNE-Python says of files of epochs, and what reads them."""


def reading_problem(path: str, error: Exception, options: Mapping[str, Any]) -> Exception:
    """The error to raise for one of MNE-Python's while a recording was opened.

    Parameters
    ----------
    path : str
        The recording.
    error : Exception
        What MNE-Python raised.
    options : mapping
        Options of the format that it was given.

    Returns
    -------
    Exception
        A `MissingExtraError` where a module is missing, otherwise a ValueError.
    """
    text = _one_line(error)
    reasons = _reasons(path, text)
    if reasons:
        # (which of the formats it is nobody can tell: what each reader lacks is said of it)
        parts = [f"as {name}: {_needs(reason) or reason}" for name, reason in reasons.items()]
        text = "; ".join(parts)
    elif needs := _needs(text):
        return MissingExtraError(f"{path} {needs}")
    wrong = _OPTION.search(text) if isinstance(error, TypeError) else None
    if wrong is not None and wrong[2] in options:
        return ValueError(_unknown_option(path, wrong[1], wrong[2]))
    for phrase, reader in _EPOCHS.items():
        if phrase in text:
            return ValueError(
                f"{path} holds no recording in one piece ({text}): if it holds epochs, hand them "
                f"over with penstock.from_mne(mne.{reader}(path))"
            )
    return ValueError(
        f"MNE-Python cannot open {path} ({text}): check that the file and those that belong to it "
        "are complete"
    )


def _one_line(error: Exception) -> str:
    lines = str(error).splitlines()
    # (some messages hold a traceback: what counts is its last line)
    if "Traceback" in str(error) or any(line.strip().startswith('File "') for line in lines):
        lines = [line for line in lines if re.match(r"\w+(Error|Exception)\b", line)][-1:] or lines
    return " ".join(" ".join(lines).split())[:300] or type(error).__name__


def _reasons(path: str, text: str) -> dict[str, str]:
    """Why each reader of an extension that several formats use refused a file."""
    reasons: dict[str, str] = {}
    if "any of the possible readers" not in text:
        return reasons
    import mne

    for function, name in re.findall(r"mne\.io\.(read_raw_\w+) \((.+?)\)", text):
        try:
            getattr(mne.io, function)(path, preload=False, verbose="error")
        except Exception as error:
            reasons[name] = _one_line(error)
    return reasons


def _needs(text: str) -> str:
    """What a reader needs and how it is installed; empty where no module is missing."""
    missing = _missing(text)
    if not missing:
        return ""
    module = re.split(r"[<>=!]", missing)[0]
    quoted = f'"{missing}"' if module != missing else missing
    extra = ' (or "penstock[eeg]", which brings it)' if module in IN_THE_EXTRA else ""
    return f"needs {module} to be read: pip install {quoted}{extra}"


def _missing(text: str) -> str:
    """The module that a message asks for, with its version; empty where it asks for none."""
    if "HDF reader for matlab v7.3" in text:
        return "pymatreader"
    for pattern in _MODULE:
        if match := pattern.search(text):
            return match["name"] + (match["version"] or "")
    return ""


def _unknown_option(path: str, function: str, option: str) -> str:
    import mne

    reader = getattr(mne.io, function, None)
    known = [] if reader is None else list(inspect.signature(reader).parameters)[1:]
    known = [name for name in known if name not in ("preload", "verbose")]
    return f"{path} cannot be opened with {option!r}: {hint(option, known)}"


def hint(option: str, known: list[str]) -> str:
    """What could have been meant by an option that its reader does not know."""
    close = difflib.get_close_matches(option, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"options of this format are {', '.join(known)}" if known else "it takes no options"
