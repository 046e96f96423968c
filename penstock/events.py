"""What happens during a run, as small records. Progress, logs, reports and dashboards listen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from penstock.memory.footprints import Footprint
    from penstock.memory.overruns import Overrun


@dataclass(frozen=True)
class Event:
    """Something that happened during a run."""


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins."""

    recordings: int
    """How many recordings there are to do."""
    concurrency: int
    budget: int
    """Bytes for all processes together."""


@dataclass(frozen=True)
class RecordingPlanned(Event):
    """A recording was opened, prepared and planned."""

    name: str
    plan: dict[str, Any]
    """`Plan.to_dict` of it."""
    blocks: int
    """Blocks of all its stages."""
    finished: int
    """Blocks that an interrupted run left finished."""
    note: str = ""


@dataclass(frozen=True)
class BlockFinished(Event):
    """A block is in the store and in the ledger."""

    name: str
    stage: int
    block: int
    bytes_in: int
    bytes_out: int
    seconds: dict[str, float] = field(default_factory=dict)
    """Time by what it was spent on: "read", processor names, "write"."""
    process: str = ""
    """Which process did it: host and process id."""
    peak: int = 0
    """Highest memory of that process in this run so far [bytes]."""
    footprint: Footprint | None = None
    """What is known of the block's memory."""


@dataclass(frozen=True)
class BlockRetried(Event):
    """A task failed for a reason that may pass, and is tried again."""

    name: str
    stage: int
    block: int | None
    """None: opening or finishing the recording."""
    reason: str
    wait: float = 0.0
    """Seconds until then."""


@dataclass(frozen=True)
class RunWaits(Event):
    """A run waits for something that nobody sees: workers, or blocks that must end."""

    reason: str


@dataclass(frozen=True)
class MemoryOverrun(Event):
    """The run takes more memory than was planned."""

    overrun: Overrun


@dataclass(frozen=True)
class RecordingFinished(Event):
    """A result has its final name."""

    name: str
    target: str
    skipped: bool = False
    """It was there already, complete, from the same pipeline and input."""
    note: str = ""
    """What its format could not hold as it was."""


@dataclass(frozen=True)
class RecordingFailed(Event):
    """A recording could not be done; the others go on."""

    name: str
    reason: str
    error: str = ""
    """The exception's type."""
    traceback: str = ""
    """Where it was raised, as Python prints it."""
    stage: int | None = None
    """Of the block that failed; None: opening the recording, or writing its result."""
    block: int | None = None


@dataclass(frozen=True)
class RunFinished(Event):
    """A run ends, completely or not."""

    seconds: float
    interrupted: bool = False


Listener: TypeAlias = Callable[[Event], None]
