from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Outcome, Penstock

import penstock as ps

DIMS = ("channel", "time")


def edf(path: Path, onsets: list[int] | None = None, kind: str = "") -> Path:
    """An EDF file of 1 s records: C3, C4 at 100 Hz and a faster ``Mic`` at 500 Hz, in uV."""
    rng = np.random.default_rng(0)
    signals: list[tuple[str, int]] = [("EEG C3", 100), ("EEG C4", 100), ("Mic", 500)]
    onsets = list(range(8)) if onsets is None else onsets
    labels = [label for label, _ in signals] + (["EDF Annotations"] if kind else [])
    counts = [n for _, n in signals] + ([10] if kind else [])

    def field(text: Any, width: int) -> bytes:
        return str(text).encode().ljust(width)

    head = field("0", 8) + field("X X X X", 80) + field("Startdate X X X X", 80)
    head += field("01.01.24", 8) + field("10.00.00", 8) + field(256 * (len(labels) + 1), 8)
    head += field(kind, 44) + field(len(onsets), 8) + field(1, 8) + field(len(labels), 4)
    columns: list[tuple[list[Any], int]] = [
        (labels, 16), ([""] * len(labels), 80), (["uV"] * 3 + [""], 8), ([-500] * 4, 8),
        ([500] * 4, 8), ([-32768] * 4, 8), ([32767] * 4, 8), ([""] * len(labels), 80),
        (counts, 8), ([""] * len(labels), 32),
    ]  # fmt: skip
    for values, width in columns:
        head += b"".join(field(value, width) for value in values[: len(labels)])
    body = b""
    for onset in onsets:
        for n in counts[:3]:
            body += rng.integers(-300, 300, n).astype("<i2").tobytes()
        if kind:
            body += f"+{onset}\x14\x14\0".encode().ljust(20, b"\0")
    path.write_bytes(head + body)
    return path


def said(run_cli: Penstock, command: str) -> Outcome:
    return run_cli(*command.split())


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    edf(tmp_path / "night.edf")
    edf(tmp_path / "gap.edf", [0, 1, 2, 3, 10, 11, 12, 13], "EDF+D")
    (tmp_path / "p.yaml").write_text("pipeline:\n  - Apply: numpy:abs\n")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"channel": ["C3", "C4"], "bad": [False, False]}),
        ("--rate 500", {"channel": ["Mic"]}),
        ("--bads C4", {"bad": [False, True]}),
        ("--bads C4,C3", {"bad": [True, True]}),
        ("--bads C4 --bads C3", {"bad": [True, True]}),
        ("--channel-types C3=eog", {"channel_type": ["eog", "eeg"]}),
        ("--channel-types C3=eog,Mic=ecg", {"channel_type": ["eog", "eeg"]}),
        ("--open rate=500", {"channel": ["Mic"]}),
        ("--gaps join --no-sidecars --engine edf", {"channel": ["C3", "C4"]}),
    ],
)
def test_what_the_command_line_asks_for_is_what_is_processed(
    work: Path, run_cli: Penstock, options: str, expected: dict[str, Any]
) -> None:
    ran = said(run_cli, f"run p.yaml night.edf -o out --quiet {options}")
    assert ran.code == 0, ran.sentence
    ds = ps.open_dataset(work / "out" / "night.zarr")
    for name, values in expected.items():
        assert ds[name].values.tolist() == values
    assert said(run_cli, f"info night.edf {options}").code == 0
    assert said(run_cli, f"plan p.yaml night.edf {options}").code == 0


def test_interrupted_recordings_are_joined_where_that_is_asked_for(
    work: Path, run_cli: Penstock
) -> None:
    ran = said(run_cli, "run p.yaml gap.edf -o out --quiet")
    assert ran.code == 1
    assert "--gaps join" in ran.sentence
    for command in ("run p.yaml *.edf -o out", "plan p.yaml *.edf", "info *.edf"):
        assert said(run_cli, f"{command} --gaps join").code == 0
    assert "BAD_ACQ_SKIP" in ps.open_dataset(work / "out" / "gap.zarr").event_label.values
    assert said(run_cli, "convert gap.edf gap2.zarr --gaps join --quiet").code == 0


def test_options_are_part_of_what_a_result_is_made_of(work: Path) -> None:
    pipeline = ps.Pipeline.from_yaml(work / "p.yaml")

    def run(**options: Any) -> ps.Report:
        return pipeline.run("night.edf", "out", progress=False, open_options=options)

    assert run(bads=["C3"]).ok
    assert run(bads=["C3"]).skipped == ["night"]
    assert "was not made by this pipeline from this input" in run().failed["night"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--gaps jion", "gaps must be 'raise' or 'join', got 'jion'"),
        ("--rate 250", "no channel of .*night.edf is sampled at 250 Hz: it has 100, 500 Hz"),
        ("--bads c3", "bads names 'c3', not in .*night.edf: did you mean 'C3'"),
        ("--channel-types C9=eog", "channel_types names 'C9', not in .*night.edf"),
        ("--channel-types C3", "write NAME=TYPE"),
        ("--stim-mask ff", "write a number"),
        ("--open gpas=join", "with the option 'gpas' .did you mean 'gaps'."),
        ("--open gaps", "write KEY=VALUE"),
        ("--open bads=[", "is not YAML"),
        ("--bads C3 --open bads=C4", "bads is given already"),
        ("--engine efd", "engine 'efd' is not known: use one of edf"),
    ],
)
def test_what_is_wrong_with_an_option_is_one_sentence(
    work: Path, run_cli: Penstock, options: str, reason: str
) -> None:
    ran = said(run_cli, f"run p.yaml night.edf -o out --quiet {options}")
    assert ran.code in (1, 2)
    import re

    assert re.search(reason, ran.sentence), ran.sentence


def test_a_pipeline_file_says_how_its_recordings_are_read(work: Path, run_cli: Penstock) -> None:
    text = "open: {gaps: join, bads: [C4]}\npipeline:\n  - Apply: numpy:abs\n"
    (work / "q.yaml").write_text(text)
    pipeline = ps.Pipeline.from_yaml(work / "q.yaml")
    assert pipeline.open_options == {"gaps": "join", "bads": ["C4"]}
    assert ps.Pipeline.from_yaml(pipeline.to_yaml()) == pipeline
    assert ps.Pipeline(pipeline.processors, open_options={"bads": ("C4",), "gaps": "join"}) == (
        pipeline
    )
    assert pipeline != ps.Pipeline(pipeline.processors)
    assert pipeline[:1].open_options == (pipeline | np.abs).open_options == pipeline.open_options
    assert said(run_cli, "run q.yaml gap.edf -o out --quiet").code == 0
    assert ps.open_dataset("out/gap.zarr").bad.values.tolist() == [False, True]
    assert pipeline.compute("gap.edf").bad.values.tolist() == [False, True]
    # what a call says comes before what the file says
    assert said(run_cli, "run q.yaml gap.edf -o out2 --quiet --bads C3").code == 0
    assert ps.open_dataset("out2/gap.zarr").bad.values.tolist() == [True, False]
    ran = said(run_cli, "run q.yaml gap.edf -o out3 --quiet --gaps raise")
    assert "is interrupted" in ran.sentence
    for wrong in ("open: [gaps]", "open: {1: join}", "opne: {gaps: join}"):
        with pytest.raises(ValueError, match=r"under 'open:'|unknown key 'opne'"):
            ps.Pipeline.from_yaml(f"{wrong}\npipeline:\n  - Apply: numpy:abs\n")


def test_options_reach_worker_processes(work: Path) -> None:
    report = ps.Pipeline([np.abs]).run(
        "gap.edf",
        "out",
        executor="processes",
        workers=1,
        progress=False,
        open_options={"gaps": "join", "bads": ["C4"]},
    )
    assert report.ok, report.failed
    assert ps.open_dataset(report.outputs["gap"]).bad.values.tolist() == [False, True]


def test_options_that_no_case_of_a_format_needs_are_left_out(work: Path) -> None:
    np.save("x.npy", np.ones((2, 50), "f4"))
    ds = ps.open_dataset("x.npy", dims=DIMS, gaps="join", sampling_frequency=10.0, rate=10.0)
    assert ds.sizes == {"channel": 2, "time": 50}
    with pytest.raises(ValueError, match="is sampled at 20 Hz: it has 10 Hz"):
        ps.open_dataset("x.npy", dims=DIMS, sampling_frequency=10.0, rate=20.0)
    with pytest.raises(ValueError, match="gaps must be 'raise' or 'join'"):
        ps.open_dataset("x.npy", gaps="jump")
    with pytest.raises(ValueError, match="is not sampled in time"):
        ps.open_dataset("x.npy", dims=("a", "b"), rate=20.0)
