"""The page of a run: readable anywhere, with all that it needs inside."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import penstock as ps
from penstock.pages import html_table, page, piece


@pytest.fixture
def report(small: xr.Dataset, tmp_path: Path) -> ps.Report:
    broken = tmp_path / "broken.edf"
    broken.write_bytes(b"no recording")
    sources = {"one": small, "two": small, "broken": broken}
    return ps.Pipeline([np.abs]).run(sources, tmp_path / "out", workers=2, progress=False)


def test_a_report_tells_versions_and_machine_in_both_files(report: ps.Report) -> None:
    kept = json.loads(report.path.with_suffix(".json").read_text())["environment"]
    assert kept == report.environment
    assert kept["python"] == platform.python_version()
    assert kept["penstock"] == ps.__version__
    assert kept["dependencies"]["zarr"] == zarr.__version__
    assert kept["cores"] >= 1
    assert kept["memory"] > 1 << 28
    shown = report.path.read_text()
    for text in (platform.python_version(), np.__version__, xr.__version__, zarr.__version__):
        assert f"<b>{text}</b>" in shown


def test_a_page_needs_nothing_from_elsewhere(report: ps.Report) -> None:
    shown = report.page()
    assert not re.search(r"""(?:src|href)=['"]?(?!data:)|url\(|@import|https?:""", shown)
    assert "width=device-width" in shown
    assert "prefers-color-scheme:dark" in shown
    # (where there is little room rows are cards: each cell says of itself what it is)
    assert "data-label='reason'" in shown
    assert "@container" in shown


def test_failures_stand_before_all_else(report: ps.Report) -> None:
    shown = report._repr_html_()
    assert shown.index("Failed") < shown.index("Memory") < shown.index("Results")


def test_a_traceback_stands_behind_a_fold(small: xr.Dataset, tmp_path: Path) -> None:
    def broken(block):
        raise ArithmeticError("<no> such number")

    report = ps.Pipeline([broken]).run({"one": small}, tmp_path, progress=False)
    (fold,) = re.findall(r"<details>.*?</details>", report.page(), re.DOTALL)
    assert "<summary>ArithmeticError in one" in fold
    assert "Traceback (most recent call last)" in fold
    assert "&lt;no&gt; such number" in fold
    assert "<pre>" in fold


def test_colours_stand_in_one_place(report: ps.Report) -> None:
    body = report.page().split("</style>")[-1]
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgba?\(", body)


def test_a_table_escapes_what_it_shows_and_breaks_long_words() -> None:
    path = "/".join(["folder"] * 20)
    table = html_table(["a<b", ""], [["<i>", path]])
    assert "<i>" not in table
    assert "data-label='a&lt;b'" in table
    assert f"<td class='long'>{path}</td>" in table


def test_a_piece_brings_its_style_and_a_page_is_whole() -> None:
    shown = page("a & b", piece("<p>text</p>"))
    assert shown.startswith("<!doctype html>")
    assert "<title>a &amp; b</title>" in shown
    assert shown.count("<style>") == 2
    assert "<div class='penstock'><p>text</p></div>" in shown
