"""What is to be said of a result: failed positions, what a format could not hold, in sentences."""

from __future__ import annotations

from collections import Counter
from typing import Any

from penstock.records import failures_text, remarks_texts
from penstock.storage.ledger import Ledger

FAILURES_KEPT = 5
"""How many failed positions of a block, and of a recording, are named with their reasons."""


def noted_facts(ledger: Ledger) -> dict[str, Any]:
    """What blocks noted of the result, in one pass; empty where nothing is to be said.

    How many positions failed, and why the first of them did; and what all blocks together lost on
    the way, as sentences.
    """
    failed: list[dict[str, Any]] = []
    total: Counter[str] = Counter()
    for entry in ledger.entries():
        total.update(entry.get("remarks", {}))
        if "n_failed" in entry:
            failed.append(entry)
    facts: dict[str, Any] = {}
    if failed:
        failed.sort(key=lambda entry: (entry["stage"], entry["block"]))
        first = [failure for entry in failed for failure in entry["failures"]]
        facts["n_failed"] = sum(entry["n_failed"] for entry in failed)
        facts["failures"] = first[:FAILURES_KEPT]
    texts = remarks_texts(total)
    if texts:
        facts["remarks"] = texts
    return facts


def export_facts(result: Any) -> dict[str, Any]:
    """What the format could not hold as it was: for the sidecar and the report."""
    facts: dict[str, Any] = {}
    clipped = {str(name): int(n) for name, n in dict(result.clipped or {}).items() if n}
    if clipped:
        facts["clipped"] = clipped
    if result.padded_seconds:
        facts["padded_seconds"] = round(float(result.padded_seconds), 6)
    if result.renamed:
        facts["renamed"] = dict(result.renamed)
    if result.notes:
        facts["not_kept"] = list(result.notes)
    return facts


def result_note(facts: dict[str, Any]) -> str:
    """What is not as it should be, in one sentence; empty where nothing was lost."""
    parts = []
    if "n_failed" in facts:
        parts.append(failures_text(facts["n_failed"], facts["failures"][0]))
    parts += facts.get("remarks", [])
    if "passed_through" in facts:
        names = ", ".join(facts["passed_through"])
        parts.append(
            f"signals of other sampling frequencies are passed on as they are ({names}; open with "
            "rate= to process them)"
        )
    if "clipped" in facts:
        parts.append(f"{sum(facts['clipped'].values())} samples were clipped")
    if "padded_seconds" in facts:
        parts.append(
            f"the last data record is filled with {facts['padded_seconds']:g} s of the last value"
        )
    if "renamed" in facts:
        pairs = [f"{before} to {after}" for before, after in facts["renamed"].items()]
        more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        parts.append(f"channels are renamed ({', '.join(pairs[:5])}{more})")
    return "; ".join(part for part in (" and ".join(parts), *facts.get("not_kept", ())) if part)
