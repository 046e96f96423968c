import warnings

import numpy as np
import pytest

import penstock as ps
from penstock.messages import shown_text, warn

EVIL = "Cz\x1b[2J\x1b]0;owned\x07\r\nFAILED\u202egnp"


def test_what_cannot_be_seen_is_shown_by_its_code():
    assert shown_text(EVIL).isprintable()
    assert shown_text("µV Ω 名") == "µV Ω 名"
    assert shown_text("a\nb\x1b", lines=True) == "a\nb\\x1b"


def test_warnings_hold_no_commands_for_the_terminal():
    with pytest.warns(UserWarning, match="is odd") as told:
        warn(f"{EVIL} is odd")
    assert "\x1b" not in str(told[0].message)
    assert told[0].filename == __file__


@pytest.fixture
def evil(tmp_path):
    """A recording whose names, labels and path hold what steers a terminal."""
    ds = ps.make_dataset(
        np.ones((2, 1000), "f4"),
        sampling_frequency=100.0,
        units="u\x1b[31mV",
        coords={"channel": [EVIL, "b\x1b[5m"], "channel_type": ("channel", ["eeg", "eeg"])},
        attrs={"measurement_date": "\x1b[2J", "sidecar_notes": EVIL, "left_out": [EVIL]},
    )
    ds = ps.with_events(ds, {"onset": [1.0], "duration": [0.0], "label": [EVIL]})
    from penstock.storage.store import write_store

    return write_store(ds, tmp_path / "re\x1b[31mc\u202e.zarr")


def only_text(text):
    return all(c.isprintable() or c == "\n" for c in text)


def test_nothing_of_a_file_steers_the_terminal(evil, tmp_path, run_cli):
    pipeline = tmp_path / "p.yaml"
    pipeline.write_text("pipeline:\n  - HighPassFilter: {freq: 1.0}\n")
    broken = tmp_path / "bro\x1b[2Jken.edf"
    broken.write_bytes(b"0       " + b"\x1b[2J" * 100)
    commands = [
        ["info", evil],
        ["info", broken],
        ["plan", pipeline, evil],
        ["plan", pipeline, evil, broken],
        ["run", pipeline, evil, broken, "-o", tmp_path / "out"],
        ["run", tmp_path / "no\x1b[2Jthing.yaml", evil, "-o", tmp_path / "out"],
        ["convert", evil, tmp_path / "c\x1b[2J.edf"],
        ["run", pipeline, evil, "-o", tmp_path / "out2", "--name", "{na\x1b[2Jme}"],
    ]
    for command in commands:
        done = run_cli(*map(str, command))
        text = done.out + done.err
        assert text, command
        assert only_text(text), (command, text)
        assert "\nFAILED" not in text


def test_errors_warnings_and_tables_in_python_hold_only_text(evil, tmp_path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ds = ps.open_dataset(evil)
        pipeline = ps.Pipeline([ps.Apply(np.negative)])
        plan = pipeline.plan(ds, memory="2 GiB")
        broken = tmp_path / "bro\x1b[2Jken.edf"
        broken.write_bytes(b"0       " + b"\x1b[2J" * 100)
        sources = {"a": evil, "b": broken}
        report = pipeline.run(sources, tmp_path / "o", memory="2 GiB", progress=False)
    texts = [str(plan), plan._repr_html_(), str(report), report.page(), *report.failures()]
    assert all(map(only_text, [*texts, *(str(w.message) for w in told)]))
    assert (tmp_path / "o" / "penstock-report.json").read_text().isascii()
