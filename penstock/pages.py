"""HTML for people: the pieces that reports and plans are made of, and the one place of their style.

A piece (`piece`) stands in a notebook as well as in a page of its own (`page`). It takes the
colours of what is around it, and its tables become cards where it is narrow itself: the window does
not count. Nothing is loaded from elsewhere, and no script runs.
"""

from __future__ import annotations

import html

from penstock.memory.accounting import format_bytes
from penstock.messages import shown_text

NARROW = "600px"
"""Width of a piece below which the rows of its tables become cards."""
LONG_WORD = 30
"""Characters of a word that may be broken anywhere: of a path, or a name of many parts."""

# (lines and backgrounds are grey and half transparent: they suit dark surroundings and light ones)
STYLE = f"""
.penstock{{--line:#8886;--soft:#8883;--base:#8296aa;--accent:#3f83dc;--alarm:#d9485c;
container-type:inline-size;line-height:1.45;text-align:left}}
.penstock h3{{font-size:1.1em;margin:1.6em 0 .4em}}
.penstock p{{margin:.5em 0}}
.penstock .wide{{overflow-x:auto}}
.penstock table{{border-collapse:collapse;margin:.4em 0;font-size:.9em}}
.penstock th,.penstock td{{text-align:left;vertical-align:top;padding:.3em 1.1em .3em 0;
border-bottom:1px solid var(--line);white-space:normal}}
.penstock th{{font-weight:600;white-space:nowrap}}
.penstock .long{{overflow-wrap:anywhere;min-width:9em}}
.penstock .faint,.penstock .facts span{{opacity:.72;font-size:.88em}}
.penstock .alarm{{color:var(--alarm);font-weight:600}}
.penstock .facts{{display:flex;flex-wrap:wrap;gap:.7em 2.2em;margin:.7em 0 1em}}
.penstock .facts b{{display:block;font-size:1.15em}}
.penstock .bar{{position:relative;display:flex;height:14px;max-width:640px;margin:.8em 0 .3em;
background:var(--soft)}}
.penstock .bar .mark{{position:absolute;top:-4px;bottom:-4px;width:3px;margin-left:-1px}}
.penstock .bar div{{background:var(--color)}}
.penstock .legend{{display:flex;flex-wrap:wrap;gap:.1em 1.4em;font-size:.88em}}
.penstock .legend b{{color:var(--color)}}
.penstock .times{{display:grid;grid-template-columns:minmax(8em,max-content) max-content 1fr;
gap:.25em 1.2em;align-items:center;max-width:720px;font-size:.9em}}
.penstock .times span{{overflow-wrap:anywhere}}
.penstock .times div{{height:10px;background:var(--accent)}}
.penstock img{{display:block;max-width:100%;height:auto;background:#fff;border-radius:3px}}
.penstock pre{{overflow-x:auto;font-size:.82em;line-height:1.35;margin:.4em 0;padding:.6em;
background:var(--soft)}}
.penstock summary{{cursor:pointer}}
@container (max-width:{NARROW}){{
.penstock table,.penstock tbody{{display:block}}
.penstock thead{{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}}
.penstock tr{{display:block;padding:.45em 0;border-bottom:1px solid var(--line)}}
.penstock td{{display:flex;gap:.8em;border:0;padding:.1em 0;overflow-wrap:anywhere}}
.penstock td:first-child{{font-weight:600}}
.penstock td[data-label]::before{{content:attr(data-label);flex:0 0 7.5em;font-weight:400;
opacity:.72;overflow-wrap:normal}}
.penstock td:empty{{display:none}}
.penstock .times{{grid-template-columns:1fr max-content}}
.penstock .times div{{grid-column:1/-1;margin-bottom:.4em}}
}}
"""

PAGE_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;max-width:1080px;margin:1.5em auto;padding:0 1em;
color:#1d2125;background:#fff}
h1{font-size:1.5em;margin:.2em 0}
p{overflow-wrap:anywhere}
@media (prefers-color-scheme:dark){body{color:#dde2e7;background:#15181c}}
"""


def escaped(text: str) -> str:
    """Text for a page."""
    return html.escape(shown_text(text))


def piece(body: str) -> str:
    """Something to show in a notebook or in a page, with its style."""
    return f"<style>{STYLE}</style><div class='penstock'>{body}</div>"


def page(title: str, body: str) -> str:
    """A page of its own: all that it needs is in it, in dark and in light, on any screen."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escaped(title)}</title><style>{PAGE_STYLE}</style></head>"
        f"<body>{body}</body></html>"
    )


def html_table(header: list[str], rows: list[list[str]]) -> str:
    """A table; where there is little room for it, each of its rows is a card."""
    head = "".join(f"<th>{escaped(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(map(_cell, row, header)) + "</tr>"  # (a row has as many as the header)
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='wide'>{table}</div>"


def _cell(text: str, label: str) -> str:
    long = " class='long'" if any(len(word) > LONG_WORD for word in text.split()) else ""
    named = f" data-label='{escaped(label)}'" if label else ""
    return f"<td{long}{named}>{escaped(text)}</td>"


def fold(summary: str, text: str) -> str:
    """Lines that few want to read, such as a traceback, behind what they are."""
    lines = html.escape(shown_text(text, lines=True))
    return f"<details><summary>{escaped(summary)}</summary><pre>{lines}</pre></details>"


def facts(values: dict[str, str]) -> str:
    """A few numbers side by side, each over what it is."""
    shown = "".join(
        f"<div><b>{escaped(value)}</b><span>{escaped(name)}</span></div>"
        for name, value in values.items()
    )
    return f"<div class='facts'>{shown}</div>"


def time_bars(seconds: dict[str, float]) -> str:
    """How long each of some steps took, and which part of all that is."""
    whole = sum(seconds.values()) or 1.0
    rows = "".join(
        f"<span>{escaped(name)}</span><span>{taken:.2f} s</span>"
        f"<div style='width:{100 * taken / whole:.1f}%'></div>"
        for name, taken in seconds.items()
    )
    return f"<div class='times'>{rows}</div>"


def memory_bar(base: float, blocks: float, budget: float, measured: float | None = None) -> str:
    """A bar: what the process takes, what blocks add, the budget, and the measured peak."""
    whole = max(budget, base + blocks, measured or 0) or 1
    parts = [
        (base, "--base", f"processes {format_bytes(base)}"),
        (blocks, "--accent", f"blocks {format_bytes(blocks)}"),
    ]
    bars = [
        f"<div title='{text}' style='width:{100 * size / whole:.2f}%;--color:var({color})'></div>"
        for size, color, text in parts
    ]
    legend = [_key(color, "■", text) for _, color, text in parts]
    legend.append(_key("--line", "■", f"budget {format_bytes(budget)}"))
    if measured:
        text = f"measured peak {format_bytes(measured)}"
        place = f"left:{100 * measured / whole:.2f}%;--color:var(--alarm)"
        bars.append(f"<div class='mark' title='{text}' style='{place}'></div>")
        legend.append(_key("--alarm", "▮", text))
    return f"<div class='bar'>{''.join(bars)}</div><div class='legend'>{''.join(legend)}</div>"


def _key(color: str, sign: str, text: str) -> str:
    return f"<span><b style='--color:var({color})'>{sign}</b> {text}</span>"
