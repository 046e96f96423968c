"""Tables of results, as Markdown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Table:
    """Rows of one comparison."""

    title: str
    columns: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, **row: Any) -> None:
        """Add a row, and show that it is there."""
        self.rows.append(row)
        print("  " + ", ".join(f"{k} {v}" for k, v in row.items()), flush=True)

    def __str__(self) -> str:
        lines = [f"### {self.title}", "", "| " + " | ".join(self.columns) + " |"]
        lines.append("|" + "---|" * len(self.columns))
        lines += [
            "| " + " | ".join(str(row.get(column, "")) for column in self.columns) + " |"
            for row in self.rows
        ]
        return "\n".join([*lines, ""])
