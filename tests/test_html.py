"""What files hold is text in our pages and pictures, whatever it is."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest

import penstock as ps

EVIL = (
    "</title></td></table><script>document.title='owned'</script>"
    "<img src=x onerror=\"document.title='owned'\">' onload='x' $\\frac{ $"
)
TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h3", "p", "div", "span", "table",
    "thead", "tbody", "tr", "th", "td", "img", "b", "details", "summary", "pre",
}  # fmt: skip


class Seen(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.problems = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        own = dict(attrs)
        if tag not in TAGS or any(name.startswith("on") for name in own):
            self.problems.append((tag, own))
        if tag == "img" and not own["src"].startswith("data:image/png;base64,"):
            self.problems.append((tag, own))


@pytest.fixture
def evil():
    ds = ps.make_dataset(
        np.ones((2, 1000), "f4"),
        sampling_frequency=100.0,
        units=EVIL,
        coords={"channel": [EVIL, "b"], "channel_type": ("channel", ["eeg", "eeg"])},
        attrs={"source": f"/{EVIL}.edf", "sidecar_notes": EVIL},
    )
    return ps.with_events(ds, {"onset": [1.0], "duration": [0.0], "label": [EVIL]})


def test_pages_of_runs_hold_no_tags_of_files(evil, tmp_path):
    from penstock.eeg import PickChannels

    pipeline = ps.Pipeline([PickChannels((EVIL,), on_missing="ignore")])
    broken = tmp_path / "<script>x<" / "<img src=x onerror=x>.edf"
    broken.parent.mkdir()
    broken.write_bytes(b"0       <script>" + bytes(400))
    name = EVIL.replace("/", "_")[:150]
    report = pipeline.run({name: evil, "b": broken}, tmp_path / "<b>o", progress=False)
    assert report.failed
    plan = pipeline.plan({name: evil})
    pages = [report.page(), report._repr_html_(), plan._repr_html_(), pipeline._repr_html_()]
    assert [Seen(page).problems for page in pages] == [[]] * len(pages)
    assert Seen("<p onclick='x'><script>").problems
    json.loads((tmp_path / "<b>o" / "penstock-report.json").read_text())


def test_pages_of_maskers_hold_no_tags_of_files(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    pytest.importorskip("matplotlib")
    from penstock.fmri import NiftiLabelsMasker

    labels = np.zeros((6, 6, 6), np.int16)
    labels[:3], labels[3:] = 1, 2
    path = tmp_path / "<script>atlas.nii"
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), path)
    masker = NiftiLabelsMasker(str(path), labels=["Background", EVIL, "b"]).fit()
    page = masker.generate_report()
    page.save_as_html(tmp_path / "page.html")
    assert Seen((tmp_path / "page.html").read_text()).problems == []


def test_names_with_dollars_are_drawn_as_they_are():
    pytest.importorskip("matplotlib").use("Agg")
    from penstock.plots.quantities import Scale, drawn_text
    from penstock.spectra import plot_map, plot_position

    assert drawn_text("a$b\x1b") == "a\\$b\\x1b"
    assert Scale.of("$\\frac{$", 1.0).label("$x$") == "\\$x\\$ [\\$\\frac{\\$]"
    ds = ps.make_dataset(
        np.ones((3, 4, 5)), ("y", "x", "frequency"), units="$\\frac{$", attrs={"long_name": EVIL}
    )
    ds["signal"].attrs["long_name"] = EVIL
    for drawn in (plot_map(ds.signal[..., 0]), plot_position(ds, (0, 0))):
        figure = getattr(drawn, "figure", None) or np.atleast_1d(drawn)[0].figure
        figure.savefig("/dev/null", format="png")
