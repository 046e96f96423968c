"""The command line: results, exit codes, and one clear sentence for everything that is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import distributed
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from command_line import Penstock
from digests import digests
from paths import TESTS

import penstock as ps
from penstock.memory.accounting import MIB, PROCESS_ALLOWANCE, process_base
from penstock.storage.ledger import Ledger, partial_path
from penstock.storage.store import write_store

SCRIPT = Path(sys.executable).with_name("penstock")
PIPELINE = "pipeline:\n  - HighPassFilter: {freq: 1.0}\n  - Resample: 100\n"


def make(n_channels: int = 4, size: int = 2000, frequency: float = 200.0) -> xr.Dataset:
    rng = np.random.default_rng(3)
    ds = ps.make_dataset(
        (rng.standard_normal((n_channels, size)) * 20).astype("f4"),
        sampling_frequency=frequency,
        units="uV",
        coords={
            "channel": [f"C{i}" for i in range(n_channels)],
            "channel_type": ("channel", ["eeg"] * n_channels),
        },
    )
    table = pd.DataFrame({"onset": [1.0, 2.5], "duration": [0.0, 0.0], "label": ["go", "stop"]})
    return ps.with_events(ds, table)


@pytest.fixture
def penstock(run_cli: Penstock) -> Penstock:
    """The command line in this process, in a folder with ``good.edf`` and ``p.yaml``."""
    ps.export(make(), "good.edf")
    Path("p.yaml").write_text(PIPELINE)

    return run_cli


# ---------------------------------------------------------------------- what works


def test_info_plan_run_and_run_again(penstock: Penstock) -> None:
    shown = penstock("info", "good.edf")
    assert shown.code == 0
    assert "4 channel × 2000 time, float32, 200 Hz, 10 s" in shown.out
    assert "C0, C1, C2, C3" in shown.out
    assert "'go'" in shown.out

    planned = penstock("plan", "p.yaml", "good.edf", "--memory", "2GiB")
    assert planned.code == 0
    assert "HighPassFilter → Resample" in planned.out
    assert re.search(r"predicted peak \d+ MiB of 2 GiB allowed", planned.out)
    assert not Path("out").exists()

    ran = penstock("run", "p.yaml", "good.edf", "--out", "out", "--memory", "2GiB")
    assert (ran.code, ran.err) == (0, "")
    assert "1 done, 0 there already, 0 failed" in ran.out
    assert sorted(os.listdir("out")) == [
        "good.zarr", "penstock-report.html", "penstock-report.json",
    ]  # fmt: skip
    report = json.loads(Path("out/penstock-report.json").read_text())
    assert report["failed"] == {}
    assert "<html" in Path("out/penstock-report.html").read_text()

    drawn = penstock("run", "p.yaml", "good.edf", "-o", "drawn", "-m", "2GiB", "--pictures")
    assert (drawn.code, drawn.err) == (0, "")
    assert "good: spectra before and after" in Path("drawn/penstock-report.html").read_text()
    assert "data:image/png" not in Path("out/penstock-report.html").read_text()

    before = digests(Path("out/good.zarr"))
    again = penstock("run", "p.yaml", "good.edf", "--out", "out", "--memory", "1GiB")
    assert again.code == 0
    assert "0 done, 1 there already" in again.out
    assert digests(Path("out/good.zarr")) == before
    assert "made by   HighPassFilter → Resample" in penstock("info", "out/good.zarr").out


@pytest.mark.parametrize(("format", "name"), [("edf", "good.edf"), ("fif", "good_raw.fif")])
def test_run_into_a_recording_format(penstock: Penstock, format: str, name: str) -> None:
    command = ("run", "p.yaml", "good.edf", "-o", "out", "--format", format, "-m", "2GiB")
    ran = penstock(*command)
    assert (ran.code, ran.err) == (0, "")
    made = ps.open_dataset(Path("out", name))  # (as MNE-Python asks for)
    expected = ps.Pipeline.from_yaml(PIPELINE)(ps.open_dataset("good.edf"))
    assert ps.sampling_frequency(made) == 100
    error = np.abs(made.signal.values - expected.signal.values).max()
    assert error < 1e-3 * np.abs(expected.signal.values).max()
    assert ps.events_table(made)["label"].tolist() == ["go", "stop"]
    assert "1 there already" in penstock(*command).out


def test_console_script_and_module_are_the_same() -> None:
    for command in ([str(SCRIPT)], [sys.executable, "-m", "penstock"]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"penstock {ps.__version__}\n"


def test_help_without_arguments(penstock: Penstock) -> None:
    shown = penstock()
    assert shown.code == 0
    assert "Commands:" in shown.out


def test_recordings_and_results_in_one_folder(penstock: Penstock) -> None:
    assert penstock("run", "p.yaml", ".", "-o", ".", "-m", "2GiB").code == 0
    again = penstock("run", "p.yaml", ".", "-o", ".", "-m", "2GiB")
    assert "0 done, 1 there already, 0 failed" in again.out


# ---------------------------------------------------------------------- wrong recordings


def broken(name: str) -> str:
    content = Path("good.edf").read_bytes()
    Path("empty.edf").touch()
    Path("text.edf").write_text("not a recording\n" * 100)
    Path("header.edf").write_bytes(content[:300])
    Path("nothing.zarr").mkdir(exist_ok=True)
    Path("nothing.zarr/zarr.json").write_text("{}")
    return name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.edf", "is empty"),
        ("text.edf", "named like EDF but does not hold it"),
        ("header.edf", "ends inside its header"),
        ("nothing.zarr", "signal"),
    ],
)
def test_a_broken_recording_is_named_and_the_others_are_done(
    penstock: Penstock, name: str, reason: str
) -> None:
    broken(name)
    ran = penstock("run", "p.yaml", name, "good.edf", "-o", "out", "-m", "2GiB")
    assert ran.code == 1
    assert reason in ran.sentence
    assert name in ran.sentence
    assert "1 done, 0 there already, 1 failed" in ran.out
    assert Path("out/good.zarr").is_dir()
    report = json.loads(Path("out/penstock-report.json").read_text())
    assert reason in report["failed"][Path(name).stem]
    shown = penstock("info", name, "good.edf")
    assert shown.code == 1
    assert reason in shown.sentence
    assert name in shown.sentence
    assert "good.edf" in shown.out
    planned = penstock("plan", "p.yaml", name)
    assert planned.code == 2
    assert reason in planned.sentence
    assert name in planned.sentence


def test_a_truncated_recording_is_used_as_far_as_it_goes(penstock: Penstock) -> None:
    content = Path("good.edf").read_bytes()
    Path("cut.edf").write_bytes(content[: len(content) * 2 // 3])
    ran = penstock("run", "p.yaml", "cut.edf", "-o", "out", "-m", "2GiB")
    assert ran.code == 0
    assert "warning" in ran.sentence
    assert "cut.edf is cut short (6 of 10 data records)" in ran.sentence
    assert ps.open_dataset("out/cut.zarr").sizes["time"] == 600


def test_values_that_are_not_finite(penstock: Penstock) -> None:
    ds = make()
    ds.signal.values[2, 777] = np.nan
    write_store(ds, Path("hole.zarr"))
    ran = penstock("run", "p.yaml", "hole.zarr", "-o", "out", "-m", "2GiB")
    assert ran.code == 1
    assert "hole: " in ran.sentence
    assert "channel 'C2' has 1 value that is not finite" in ran.sentence
    assert "3.885 s" in ran.sentence
    assert not Path("out/hole.zarr").exists()


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ("HighPassFilter: 150", "below the Nyquist frequency of this recording, 100 Hz"),
        ("TriggerDetector: zzz", "no event label matches regex 'zzz' (labels: 'go' 1×"),
        ("AASCorrection", "put TriggerDetector(regex) before"),
        ("PickChannels: C9", "the recording has no channel 'C9': did you mean"),
        ("Crop: {tmin: 99}", "beyond the recording"),
        ("MNE: {method: filter, l_freq: 1, h_freq: 40, foo: 1}", "'foo'"),
    ],
)
def test_a_pipeline_that_does_not_suit_the_recording(
    penstock: Penstock, steps: str, reason: str
) -> None:
    Path("x.yaml").write_text(f"pipeline:\n  - {steps}\n")
    ran = penstock("run", "x.yaml", "good.edf", "-o", "out", "-m", "2GiB")
    assert ran.code == 1
    assert ran.sentence.startswith("good: ")
    assert reason in ran.sentence
    assert not Path("out/good.zarr").exists()


def test_a_recording_shorter_than_the_filter_is_warned_of(penstock: Penstock) -> None:
    Path("x.yaml").write_text("pipeline:\n  - HighPassFilter: 0.05\n")
    ran = penstock("run", "x.yaml", "good.edf", "-o", "out", "-m", "2GiB")
    assert ran.code == 0
    assert "warning: HighPassFilter: the filter (13201 samples" in ran.sentence
    assert "longer than the recording (2000 samples)" in ran.sentence


# ---------------------------------------------------------------------- wrong files and options


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("run p.yaml missing.edf -o out", "missing.edf: no such file or folder"),
        ("run p.yaml no*.bdf -o out", "no*.bdf: no file matches this pattern"),
        ("run p.yaml nothing_here -o out", "nothing_here: no recordings in this folder"),
        ("run p.yaml good.edf other/good.edf -o out --name x", "would both become 'x'"),
        ("run p.yaml s3://bucket/good.edf -o out", "s3:// paths are not supported yet: copy"),
        ("run p.yaml good.edf -o https://host/out", "https:// paths are not supported yet"),
        ("run gs://bucket/p.yaml good.edf -o out", "gs:// paths are not supported yet"),
        ("run missing.yaml good.edf -o out", "missing.yaml: no such pipeline file"),
        ("run good.edf good.edf -o out", "not a text file"),
        ("run p.yaml good.edf -o p.yaml", "cannot write into"),
        ("run p.yaml good.edf -o /proc/out", "cannot write into /proc/out"),
        ("run p.yaml good.edf -o out -m 10MiB", "allow at least"),
        ("run p.yaml good.edf -o out -m many", "cannot read 'many' as an amount of memory"),
        ("run p.yaml good.edf -o out --memory=-1GiB", "cannot read '-1GiB'"),
        ("run p.yaml good.edf -o out -m 0", "memory must be a positive amount"),
        ("run p.yaml good.edf -o out -j 0", "workers must be at least 1"),
        ("run p.yaml good.edf -o out -j two", "--workers"),
        ("run p.yaml good.edf -o out --format bdf", "must be one of zarr, edf, fif"),
        ("plan p.yaml good.edf --format bdf", "must be one of zarr, edf, fif"),
        ("run p.yaml good.edf -o out --dtype int8", "dtype must be 'float32' or 'float64'"),
        ("run p.yaml good.edf -o out --executor fast", "must be 'threads' or 'processes'"),
        ("run p.yaml good.edf -o out --scheduler nonsense", "no Dask scheduler answers"),
        ("run p.yaml good.edf", "Missing option '--out'"),
        ("run p.yaml good.edf -o out --memry 1GiB", "--memory"),
        ("rn p.yaml good.edf -o out", "Did you mean 'run'?"),
        ("run", "Missing argument 'PIPELINE.yaml'"),
    ],
)
def test_wrong_usage_is_one_sentence(penstock: Penstock, arguments: str, reason: str) -> None:
    Path("nothing_here").mkdir()
    Path("other").mkdir()
    Path("other/good.edf").write_bytes(Path("good.edf").read_bytes())
    before = digests(Path())
    ran = penstock(*arguments.split())
    assert ran.code == 2
    assert reason in ran.sentence
    assert digests(Path()) == before
    assert ran.out == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("pipeline: [\n", "x.yaml, line 2"),
        ("", "a list under 'pipeline:'"),
        ("just text", "a list under 'pipeline:'"),
        ("pipelin:\n  - Resample: 100\n", "a list under 'pipeline:'"),
        ("pipeline:\n  - Resample: 100\nmemory: 3\n", "unknown key 'memory'"),
        ("pipeline:\n  - 3\n", "step 1: write 'Name'"),
        ("pipeline:\n  - {Crop: 1, Resample: 3}\n", "step 1: write 'Name'"),
        ("pipeline:\n  - Resample: 100\n  - HighPasFilter: 1\n", "step 2: unknown processor "
         "'HighPasFilter': did you mean 'HighPassFilter'?"),
        ("pipeline:\n  - HighPassFilter: {frq: 1.0}\n", "no parameter 'frq': did you mean 'freq'?"),
        ("pipeline:\n  - HighPassFilter: {freq: fast}\n", "freq='fast' must be a number"),
        ("pipeline:\n  - HighPassFilter\n", "needs the parameter 'freq'"),
        ("pipeline:\n  - Resample: [1, fft, [edge], 3]\n", "has 3 parameters (sfreq, method, "
         "skip_by_annotation), got 4"),
        ("pipeline:\n  - Crop: {tmin: 5, tmax: 2}\n", "tmax=2 s must not be before tmin=5 s"),
        ("pipeline:\n  - TriggerDetector: '('\n", "not a regular expression"),
        ("pipeline:\n  - MNE: resample\n", "needs sfreq"),
        ("pipeline:\n  - MNE: nothing\n", "has no method 'nothing'"),
        ("pipeline:\n  - MNE: plot\n", "use it on the result"),
        ("pipeline:\n  - MNE: {l_freq: 1}\n", "needs the parameter 'method'"),
        ("pipeline:\n  - Apply: {function: 'os:system'}\n", "--allow os"),
        ("pipeline:\n  - Apply: {function: 'numpy:nothing'}\n", "has no function 'nothing'"),
        ("pipeline:\n  - Apply: {function: 'numpy:abs', kwargs: 3}\n", "must be a mapping"),
        ("pipeline:\n  - !!python/object/apply:os.system ['touch hacked']\n", "x.yaml, line 2"),
    ],
)  # fmt: skip
def test_a_wrong_pipeline_file_is_one_sentence(
    penstock: Penstock, content: str, reason: str
) -> None:
    Path("x.yaml").write_text(content)
    ran = penstock("run", "x.yaml", "good.edf", "-o", "out", "-m", "2GiB")
    assert ran.code == 2
    assert reason in ran.sentence
    assert "x.yaml" in ran.sentence
    assert sorted(os.listdir()) == ["good.edf", "p.yaml", "x.yaml"]


def test_a_budget_below_one_block_says_what_would_do(penstock: Penstock) -> None:
    write_store(make(1, 1_500_000), Path("long.zarr"))
    Path("x.yaml").write_text("pipeline:\n  - MNE: {method: resample, sfreq: 100}\n")
    modules = ps.Pipeline.from_yaml("x.yaml").modules
    budget = process_base(modules) + PROCESS_ALLOWANCE + 48 * MIB
    ran = penstock("run", "x.yaml", "long.zarr", "-o", "out", "-m", budget)
    assert ran.code == 1
    assert ran.sentence.startswith("long: MNE needs ")
    assert "channel 0" in ran.sentence
    found = re.search(r"allow ([\d.]+ [MG]iB) or use", ran.sentence)
    assert found is not None
    assert penstock("plan", "x.yaml", "long.zarr", "-m", budget).code == 2
    # (the process itself may have grown by a few pages since)
    enough = float(found[1].split()[0]) * (1024 if "GiB" in found[1] else 1) + 16
    assert penstock("plan", "x.yaml", "long.zarr", "-m", f"{enough} MiB").code == 0


def test_results_of_another_pipeline_are_kept(penstock: Penstock) -> None:
    command = ("good.edf", "-o", "out", "-m", "2GiB")
    penstock("run", "p.yaml", *command)
    before = digests(Path("out/good.zarr"))
    Path("x.yaml").write_text("pipeline:\n  - HighPassFilter: 2.0\n")
    ran = penstock("run", "x.yaml", *command)
    assert ran.code == 1
    assert "exists already" in ran.sentence
    assert "--overwrite" in ran.sentence
    assert digests(Path("out/good.zarr")) == before
    assert penstock("run", "x.yaml", *command, "--overwrite").code == 0
    assert ps.open_dataset("out/good.zarr").sizes["time"] == 2000


@pytest.mark.parametrize("format", ["edf", "zarr"])
def test_a_result_never_replaces_its_own_recording(penstock: Penstock, format: str) -> None:
    write_store(make(), Path("good.zarr"))
    before = digests(Path())
    ran = penstock(
        "run",
        "p.yaml",
        f"good.{format}",
        "-o",
        ".",
        "--format",
        format,
        "--overwrite",
        "-m",
        "2GiB",
    )
    assert ran.code == 2
    assert "would replace the recording" in ran.sentence
    assert digests(Path()) == before


def test_a_scheduler_that_does_not_answer(
    penstock: Penstock, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = distributed.Client
    monkeypatch.setattr(
        distributed, "Client", lambda *args, **options: client(*args, **{**options, "timeout": 1})
    )
    ran = penstock("run", "p.yaml", "good.edf", "-o", "out", "--scheduler", "tcp://127.0.0.1:9")
    assert ran.code == 2
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in ran.sentence
    assert not Path("out").exists()


# ---------------------------------------------------------------------- Ctrl-C


def test_ctrl_c_keeps_what_is_finished(penstock: Penstock, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = Path("marks").absolute()
    marks.mkdir()
    write_store(make(16, 20_000), Path("long.zarr"))
    Path("slow.yaml").write_text(
        f"pipeline:\n  - generic.Slow: {{seconds: 0.5, marks: '{marks}'}}\n"
    )
    command = ["run", "slow.yaml", "long.zarr", "-o", "out", "-m", "1GiB", "-j", "1"]
    command += ["--allow", "generic"]
    # blocks as small as they can be, as a recording of many hours would have many of them
    script = (
        "import penstock.planning.blocks as blocks, penstock.commands.main as program; "
        "blocks.SMALL_BYTES = 1; program.main()"
    )
    paths = (str(TESTS), os.environ.get("PYTHONPATH"))
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    ledger = Ledger(partial_path(Path("out/long.zarr").absolute()) / "ledger")
    deadline = time.time() + 60
    while len(ledger.finished().get(0, ())) < 2:
        assert time.time() < deadline, "the run never got going"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1] == (
        "penstock: stopped; run the same command again to go on where it stopped"
    )
    finished, begun = len(ledger.finished()[0]), len(list(marks.iterdir()))
    assert finished == begun  # the block under way was let finish
    assert not Path("out/long.zarr").exists()
    assert json.loads(Path("out/penstock-report.json").read_text())["interrupted"]

    monkeypatch.setattr("penstock.planning.blocks.SMALL_BYTES", 1)
    again = penstock(*command)
    assert (again.code, again.err) == (0, "")
    total = int(re.search(rf"resumed: {finished} of (\d+) blocks", again.out)[1])  # type: ignore[index]
    assert len(list(marks.iterdir())) == total > finished
    made = ps.open_dataset("out/long.zarr").signal.values
    assert np.array_equal(made, 2 * ps.open_dataset("long.zarr").signal.values)
