"""One recording of a run: what is made of what, where it lies, and by what it is known."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from penstock.events import BlockFinished
from penstock.planning.plan import Resources
from penstock.processor import Processor
from penstock.running.keys import key_of, versions
from penstock.running.resuming.source_files import file_identity, recording_identity, same_files_now
from penstock.storage.ledger import LOCK, REPORT_NAME, partial_path
from penstock.storage.store import FORMAT, sidecar_path, stored_provenance


@dataclass(frozen=True)
class Job:
    """One recording to process: what, how, where to, within what."""

    token: str
    """Unique to this run and recording: ``run.recording``."""
    name: str
    path: Path | None
    dataset: xr.Dataset | None
    processors: tuple[Processor, ...]
    pipeline: list[dict[str, Any]]
    """Canonical form of the processors, as they are in the client."""
    target: Path
    format: str
    dtype: str | None
    """In which files are read; None: what holds their values exactly."""
    overwrite: bool
    limits: Resources
    identity: dict[str, Any] | None = None
    """What tells this input from another, where the path does not."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of `open_dataset`."""
    registered: bytes = b""
    """What the client registered beside what Penstock brings along, for other processes."""
    marks: Path | None = None
    """Folder in which tasks are marked while they last; None where they run in the client."""
    learned: dict[str, float] = field(default_factory=dict)
    """Scratch that steps were seen to take in this run, as multiples of their input."""

    @property
    def run(self) -> str:
        """Which run it belongs to."""
        return self.token.partition(".")[0]

    @property
    def building(self) -> Path:
        """Folder of the unfinished result."""
        return partial_path(self.target)

    @property
    def store(self) -> Path:
        """Zarr store under construction."""
        return self.building / "store"

    @property
    def scratch(self) -> Path:
        """Zarr group of what stages pass on to later stages."""
        return self.building / "scratch"

    @property
    def exported(self) -> Path:
        """The result in a format other than Zarr, before it is published."""
        return self.building / "exported" / self.target.name

    @property
    def sidecar(self) -> Path:
        """Provenance of a result whose format cannot hold it."""
        return sidecar_path(self.target)

    @property
    def coming_sidecar(self) -> Path:
        """The same, before the result is published."""
        return self.building / "sidecar.json"


@dataclass(frozen=True)
class Opened:
    """A recording that is ready for its blocks."""

    job: Job
    plan: dict[str, Any]
    states: tuple[Any, ...]
    blocks: tuple[tuple[int, ...], ...]
    """Block shape of every stage."""
    counts: tuple[int, ...]
    """Blocks of every stage."""
    in_order: tuple[bool, ...]
    """Whether a stage reads its source from front to back."""
    block_bytes: int
    finish_bytes: int
    kept: int = 0
    """What a process keeps of the recording beside its blocks [bytes]."""
    kept_in_all: int = 0
    """The same in all processes: `block_bytes` and `finish_bytes` hold it."""
    finished: Mapping[int, Set[int]] = field(default_factory=dict)
    note: str = ""
    key: str = ""
    """Of the result, by what the source was when it was opened."""


@dataclass(frozen=True)
class Done:
    """A recording whose result has its final name."""

    target: Path
    skipped: bool = False
    opened: Opened | None = None
    blocks: tuple[BlockFinished, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------------- identity


def source_identity(job: Job) -> dict[str, Any]:
    """What tells one input from another: its files as they are now, or the data themselves."""
    if job.identity is not None:
        identity = dict(job.identity)
        if "files" in identity:
            identity["files"] = same_files_now(identity["files"])
        source = str(job.dataset.attrs.get("source", "")) if job.dataset is not None else ""
    else:
        assert job.path is not None
        source = str(job.path.absolute())
        identity = recording_identity(
            Path(source),
            sidecars=job.options.get("sidecars", True),
            leave_out=_own_files(job, source),
        )
    if job.options:
        identity["options"] = job.options
    beside = [path for one in job.processors for path in one.companions(source)] if source else []
    if beside:
        identity["companions"] = [file_identity(Path(path)) for path in beside]
    return identity


def _own_files(job: Job, source: str) -> frozenset[str]:
    """What a run writes into a source that is a folder: no part of it."""
    out = job.target.parent
    if Path(source) in out.parents:
        return frozenset({str(out)})
    if str(out) != source:
        return frozenset()
    ours = (job.target, job.building, job.sidecar, out / LOCK, *out.glob(f"{REPORT_NAME}*"))
    return frozenset(map(str, ours))


def result_key(job: Job) -> str:
    """Digest of all that decides the result's bytes: two runs with one key make the same result."""
    return key_of(job.pipeline, source_identity(job), job.format, job.dtype)


def provenance_of(job: Job, key: str, identity: dict[str, Any]) -> dict[str, Any]:
    """Provenance kept with a result; that of an anonymised one does not say of what it is made."""
    anonymous = any(processor.anonymizes for processor in job.processors)
    return {
        "format": FORMAT,
        "key": key,
        "pipeline": [processor.recorded() for processor in job.processors],
        "source": {"withheld": "anonymised"} if anonymous else identity,
        "versions": versions(),
    }


def result_provenance(job: Job) -> dict[str, Any] | None:
    """What the result that is there says of its making."""
    return stored_provenance(job.target) or read_json(job.sidecar)


def read_json(path: Path) -> dict[str, Any] | None:
    """A file of ours as a dictionary; None where it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        return content if isinstance(content, dict) else None
    return None
