"""What is raised where memory does not suffice, or a recording fails."""

from __future__ import annotations

from penstock.memory.accounting import format_bytes


class BudgetError(ValueError):
    """The memory budget does not hold what a run needs at the least."""


class RecordingError(RuntimeError):
    """A recording of a run with ``on_error="raise"`` could not be done.

    Attributes
    ----------
    name : str
        Of the recording.
    reason : str
        What went wrong, in one sentence.
    error : str
        The type of what was raised where the recording was worked on, perhaps in another process.
    traceback : str
        Where that was; Python prints it below the error.
    """

    def __init__(self, name: str, reason: str, error: str = "", traceback: str = ""):
        super().__init__(name, reason, error, traceback)
        self.name, self.reason, self.error, self.traceback = name, reason, error, traceback
        if traceback:
            self.add_note(f"\nIt was raised here:\n{traceback}")

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class RowTooLarge(BudgetError):
    """One row of an intermediate result does not fit where it must be looked at beforehand."""

    def __init__(self, need: int, slot: int):
        super().__init__(need, slot)
        self.need, self.slot = need, slot

    def __str__(self) -> str:
        return (
            f"one row takes {format_bytes(self.need)} and cannot be cut, but only "
            f"{format_bytes(self.slot)} are left for it: allow more memory"
        )
