"""Options that commands share: help and versions, JSON, logs, modules of one's own, completion."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import Penstock

import penstock as ps
from penstock.commands import options
from penstock.messages import folded

STEPS = """
from dataclasses import dataclass

import penstock as ps

print("imported")


@dataclass(frozen=True)
class Loud(ps.Processor):
    factor: float = 2.0

    def kernel(self, block, ctx):
        return block * block.dtype.type(self.factor)


def louder(block):
    return 3 * block
"""


@pytest.fixture
def penstock(run_cli: Penstock) -> Penstock:
    """The command line, in a folder with ``good.edf``, ``broken.edf`` and ``p.yaml``."""
    rng = np.random.default_rng(3)
    ds = ps.make_dataset(
        (rng.standard_normal((4, 2000)) * 20).astype("f4"),
        sampling_frequency=200.0,
        units="uV",
        coords={"channel": [f"C{i}" for i in range(4)]},
    )
    ps.export(ds, "good.edf")
    Path("broken.edf").write_bytes(b"not a recording")
    Path("p.yaml").write_text("pipeline:\n  - HighPassFilter: {freq: 1.0}\n  - Resample: 100\n")
    return run_cli


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Where Python looks for modules, as it was before."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield sys.path
    for name in set(sys.modules) - before:
        if name.startswith("steps_beside"):
            del sys.modules[name]


@pytest.fixture
def as_by_default() -> Iterator[logging.Logger]:
    """The logger, which must be as before when a command has ended."""
    logger = logging.getLogger("penstock")
    before = logger.level, logger.propagate, list(logger.handlers)
    yield logger
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


@pytest.mark.parametrize("command", ["", "info", "plan", "run", "extract", "convert", "demo"])
def test_h_is_help(penstock: Penstock, command: str) -> None:
    for option in ("-h", "--help"):
        shown = penstock(*filter(None, [command]), option)
        assert shown.code == 0
        assert f"Usage: penstock {command}".rstrip() in shown.out


def test_commands_are_listed_in_the_order_of_their_use(penstock: Penstock) -> None:
    listed = penstock("-h").out.partition("Commands:")[2].splitlines()
    names = [line.split()[0] for line in listed if line.strip()]
    assert names == ["info", "plan", "run", "extract", "convert", "demo"]


def test_versions(penstock: Penstock) -> None:
    assert penstock("-V").out == penstock("--version").out == f"penstock {ps.__version__}\n"
    told = penstock("--versions")
    assert told.code == 0
    assert told.out.startswith(f"penstock {ps.__version__}\n")
    assert np.__version__ in told.out


# ---------------------------------------------------------------------- JSON


def test_info_as_json_is_one_document(penstock: Penstock) -> None:
    told = penstock("info", "good.edf", "broken.edf", "--json")
    assert told.code == 1
    assert "broken.edf" in told.sentence
    document = json.loads(told.out)
    (recording,) = document["recordings"]
    assert list(document["failed"]) == ["broken.edf"]
    signal = recording["arrays"]["signal"]
    assert signal["dims"] == {"channel": 4, "time": 2000}
    assert (signal["sampling_frequency"], signal["seconds"]) == (200, 10)
    assert [channel["name"] for channel in recording["channels"]] == ["C0", "C1", "C2", "C3"]
    assert recording["bytes"] == os.path.getsize("good.edf")


def test_info_of_a_file_of_several_datasets_as_json(penstock: Penstock) -> None:
    np.savez("several.npz", one=np.ones((2, 3)), other=np.ones((4, 5)))
    told = penstock("info", "several.npz", "--json")
    assert told.code == 0
    found = {each["dataset"]: each["arrays"] for each in json.loads(told.out)["recordings"]}
    assert sorted(found) == ["one", "other"]
    assert list(found["other"]["signal"]["dims"].values()) == [4, 5]


def test_info_of_a_result_as_json(penstock: Penstock) -> None:
    penstock("run", "p.yaml", "good.edf", "-o", "out", "-m", "2GiB")
    (recording,) = json.loads(penstock("info", "out/good.zarr", "--json").out)["recordings"]
    steps = [step["processor"] for step in recording["pipeline"]]
    assert steps == ["penstock.eeg.HighPassFilter", "penstock.eeg.Resample"]


def test_plan_as_json_is_that_of_the_plan(penstock: Penstock) -> None:
    given = ("-m", "2GiB", "-j", "2")
    told = penstock("plan", "p.yaml", "good.edf", *given, "--json")
    assert told.code == 0
    document = json.loads(told.out)
    plan = ps.Pipeline.from_yaml("p.yaml").plan("good.edf", memory="2GiB", workers=2)
    assert isinstance(plan, ps.Plan)
    assert document["plans"][0]["stages"] == plan.to_dict()["stages"]
    assert (document["blocks"], document["budget"]) == (plan.n_blocks, 2 << 30)
    assert document["failed"] == {}

    several = penstock("plan", "p.yaml", "good.edf", "broken.edf", *given, "--json")
    assert several.code == 1
    document = json.loads(several.out)
    assert [one["name"] for one in document["plans"]] == ["good"]
    assert list(document["failed"]) == ["broken"]


def test_a_plan_goes_past_what_fails(penstock: Penstock) -> None:
    planned = penstock("plan", "p.yaml", "broken.edf", "good.edf", "-m", "2GiB")
    assert planned.code == 1
    assert "broken.edf" in planned.sentence
    assert "1 recording, " in planned.out
    assert "HighPassFilter → Resample" in planned.out


# ---------------------------------------------------------------------- 80 columns


def test_plans_fit_80_columns() -> None:
    from penstock.eeg import (
        AASCorrection,
        HighPassFilter,
        LowPassFilter,
        Rereference,
        Resample,
        TriggerDetector,
        simulate,
    )

    ds = simulate.recording(n_channels=4, duration=60, sampling_frequency=1000, fmri=True)
    steps = [TriggerDetector("^1$"), HighPassFilter(1.0), AASCorrection(), LowPassFilter(70.0)]
    plan = ps.Pipeline([*steps, Rereference(), Resample(250.0)]).plan(ds, memory="3 GiB")
    lines = str(plan).splitlines()
    assert max(map(len, lines)) <= 80
    assert "AASCorrection" in str(plan)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_long_lines_are_folded_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "  channels  " + ", ".join(f"C{i}" for i in range(60))
    monkeypatch.setenv("COLUMNS", "60")
    for stream, longest in ((Terminal(), 60), (io.StringIO(), len(line))):
        monkeypatch.setattr(sys, "stdout", stream)
        options.show(line)
        lines = stream.getvalue().splitlines()
        assert max(map(len, lines)) == pytest.approx(longest, abs=5)
        assert max(map(len, lines)) <= longest
        assert all(one.startswith(" " * 12) for one in lines[1:])
        assert "".join(lines).replace(" ", "") == line.replace(" ", "")


def test_words_longer_than_a_line_stay_whole() -> None:
    path = "/" + "a" * 200
    assert folded(f"{path} ends", 80) == f"{path}\n  ends"


# ---------------------------------------------------------------------- logs


def test_a_log_file_has_all_of_it(penstock: Penstock, as_by_default: logging.Logger) -> None:
    given = ("run", "p.yaml", "good.edf", "broken.edf", "-o", "out", "-m", "2GiB")
    ran = penstock(*given, "--log-file", "log.txt")
    assert ran.code == 1
    assert ran.sentence.startswith("broken: ")  # (nothing else is said)
    told = Path("log.txt").read_text()
    for part in ("INFO good: planned", "DEBUG good: block 0 of stage 1", "INFO good: done",
                 "ERROR broken: failed", "Traceback (most recent call last)",
                 "INFO run ended"):  # fmt: skip
        assert part in told, part
    assert penstock(*given, "--log-file", "log.txt").code == 1
    again = Path("log.txt").read_text()
    assert again.startswith(told)
    assert "good: is there already" in again[len(told) :]


def test_verbose_tells_of_recordings_and_twice_of_blocks(
    penstock: Penstock, as_by_default: logging.Logger
) -> None:
    given = ("run", "p.yaml", "good.edf", "-m", "2GiB", "-o")
    once = penstock(*given, "once", "-v")
    assert once.code == 0
    assert "good: planned" in once.err
    assert "block 0" not in once.err
    assert all(line.startswith("penstock: ") for line in once.err.splitlines())
    assert "block 0 of stage 1" in penstock(*given, "twice", "-vv").err


def test_a_log_file_that_cannot_be_written(penstock: Penstock) -> None:
    ran = penstock("run", "p.yaml", "good.edf", "-o", "out", "--log-file", "no/log.txt")
    assert ran.code == 2
    assert "no/log.txt: no such file or directory" in ran.sentence
    assert not Path("out").exists()


def test_what_was_not_foreseen_is_in_the_log_file(
    penstock: Penstock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise LookupError("somewhere")

    monkeypatch.setattr(ps.Pipeline, "run", fail)
    assert penstock("run", "p.yaml", "good.edf", "-o", "out", "--log-file", "log.txt").code == 2
    assert "LookupError: somewhere" in Path("log.txt").read_text()


# ---------------------------------------------------------------------- modules of one's own


def test_modules_beside_the_pipeline_file(penstock: Penstock, paths: list[str]) -> None:
    before = list(paths)
    folder = Path("project")
    folder.mkdir()
    (folder / "steps_beside.py").write_text(STEPS)
    (folder / "p.yaml").write_text(
        "pipeline:\n  - Loud: 4\n  - Apply: {function: 'steps_beside:louder'}\n"
    )
    refused = penstock("plan", "project/p.yaml", "good.edf")
    assert refused.code == 2
    assert (
        "step 1: unknown processor 'Loud': steps_beside.py beside the file has one: add "
        "--allow steps_beside" in refused.sentence
    )
    assert "imported" not in refused.out
    assert paths == before

    given = ("run", "project/p.yaml", "good.edf", "-o", "out", "-m", "2GiB")
    assert penstock(*given, "--allow", "steps_beside").code == 0
    assert paths == [*before, str(folder.absolute())]
    made = ps.open_dataset("out/good.zarr").signal.values
    assert np.array_equal(made, 12 * ps.open_dataset("good.edf").signal.values)


def test_modules_that_are_installed_come_before_those_beside(
    penstock: Penstock, paths: list[str]
) -> None:
    Path("json.py").write_text("raise RuntimeError('not this one')\n")
    before = list(paths)
    assert penstock("plan", "p.yaml", "good.edf", "--allow", "json", "-m", "2GiB").code == 0
    assert paths == before


def test_an_unknown_processor_of_a_module_says_how_it_is_allowed(penstock: Penstock) -> None:
    Path("x.yaml").write_text("pipeline:\n  - elsewhere.steps.Loud: 4\n")
    refused = penstock("plan", "x.yaml", "good.edf")
    assert refused.code == 2
    assert "must be allowed: --allow elsewhere.steps" in refused.sentence
    Path("x.yaml").write_text("pipeline:\n  - Zzz: 4\n")
    refused = penstock("plan", "x.yaml", "good.edf")
    assert "known are" in refused.sentence
    assert "--allow MODULE" in refused.sentence


# ---------------------------------------------------------------------- extras


def test_a_missing_extra_is_told_before_anything_is_opened(
    penstock: Penstock, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, "mne", None)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "mne" else find(name, *rest),
    )
    monkeypatch.setattr(
        "penstock.io.open_dataset", lambda *args, **options: pytest.fail("something was opened")
    )
    Path("x.yaml").write_text("pipeline:\n  - MNE: {method: rescale, scalings: 2.0}\n")
    for command in (("plan",), ("run", "-o", "out")):
        ran = penstock(*command, "x.yaml", "good.edf")
        assert ran.code == 2
        assert ran.sentence == 'MNE needs mne: pip install "penstock[eeg]"'
    ran = penstock("run", "p.yaml", "good.edf", "-o", "out", "--format", "fif")
    assert ran.code == 2
    assert ran.sentence == 'writing fif needs mne: pip install "penstock[eeg]"'
    assert not Path("out").exists()


# ---------------------------------------------------------------------- completion


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("penstock pl", ["plan"]),
        ("penstock run --lo", ["--log-file"]),
        ("penstock run --format n", ["nifti", "nii"]),
    ],
)
def test_commands_and_options_are_completed(words: str, found: list[str]) -> None:
    environment = {
        **os.environ,
        "_PENSTOCK_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    script = "import sys; sys.argv = ['penstock']; from penstock.commands.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == found
