"""The tables of docs/mne_methods.md, from those of the code: `python tests/eeg/mne_page.py`."""

from __future__ import annotations

from pathlib import Path

from penstock.eeg.mne_methods.table import (
    CHANNEL_WISE,
    DESCRIPTION,
    MOMENTS,
    REFUSED,
    SELECTION,
    WHOLE,
)

PAGE = Path(__file__).parents[2] / "docs" / "mne_methods.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
_SECTIONS = (
    ("Samples, every channel for itself", "blocks may be single channels", CHANNEL_WISE),
    ("Samples, from all channels at one time", "blocks are stretches of time", MOMENTS),
    ("Samples, of the whole recording", "it must fit the budget at once", WHOLE),
    ("Only what is said of the recording", "costs nothing", DESCRIPTION),
    ("A part of the recording", "costs nothing", SELECTION),
)


def tables() -> str:
    """Which methods are steps, and what to use instead of the others, as Markdown."""
    lines: list[str] = []
    for title, how, methods in _SECTIONS:
        lines += [
            f"### {title}",
            "",
            f"({how})",
            "",
            "| method | what changes, or is needed |",
            "|---|---|",
        ]
        lines += [f"| `{name}` | {text} |" for name, text in sorted(methods.items())]
        lines.append("")
    lines += ["### Refused", "", "| method | instead |", "|---|---|"]
    lines += [
        f"| `{name}` | {text.replace('{method}', name)} |" for name, text in sorted(REFUSED.items())
    ]
    return "\n".join(lines)


def page_with_tables(text: str) -> str:
    """The page with its tables replaced by those of the code."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
