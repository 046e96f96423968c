"""What is raised where memory does not suffice."""

from __future__ import annotations

from penstock.memory.accounting import format_bytes


class BudgetError(ValueError):
    """The memory budget does not hold what a run needs at the least."""


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
