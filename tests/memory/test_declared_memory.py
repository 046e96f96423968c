"""What every processor declares of its memory holds, set of parameters by set, and is no excuse.

A block of each is computed in a fresh process a group, and the highest memory of that process is
held against the formula that plans are made of.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from declared_memory_case import GROUPS
from paths import TESTS

import penstock as ps
from penstock.memory.accounting import MIB, THREAD_ALLOWANCE, format_bytes
from penstock.processor import registered_processors

SLACK = THREAD_ALLOWANCE
"""What a plan adds for every thread: decoder state, thread stacks, what the heap keeps."""
LOOSE, LOOSE_BYTES = 1.5, 24 * MIB
"""How much more than it takes a block may be declared to take: a factor, and buffers of fixed size
(caches, tiles) that a small block does not fill."""
UNKNOWN = {"sort", "detrend", "detrend of one row"}
"""Functions of users, of which `Apply` knows only what it is told, or assumes much."""
LONG_TRANSFORMS = {"high-pass, minimum phase", "clean one", "clean long"} | {
    "fit long",
    "fit voigt to long",
    "fit oscillator to long",
}
"""What is taken once where a filter is designed (which is warmed up here), or only by options
that these do not use; and fits of one spectrum that is larger than a tile."""


def processors_of(steps: Any) -> set[str]:
    """Qualified names of all processors in a description, those inside others too."""
    found: set[str] = set()
    for processor in ps.Pipeline.from_dict({"pipeline": steps}, allow=["numpy", "scipy"]):
        found.add(processor.qualified_name())
        for part in getattr(processor, "parts", ()):
            found |= {one.qualified_name() for one in part}
    return found


def test_every_processor_has_parameters_to_be_checked_with(tmp_path: Path) -> None:
    for name in dir(ps.fmri):
        getattr(ps.fmri, name)
    import penstock.spectra

    for name in dir(penstock.spectra):
        getattr(penstock.spectra, name)
    text = json.dumps([steps for group in GROUPS.values() for _, steps in group.values()])
    checked = set().union(*map(processors_of, json.loads(text)))
    own = {name for name in registered_processors() if name.startswith("penstock.")}
    assert own - checked == set()


@pytest.mark.parametrize("group", GROUPS)
def test_a_block_takes_what_is_declared_and_not_far_less(group: str) -> None:
    for module in {"mne": ["mne"], "fmri": ["nibabel"], "spectra": ["sklearn"]}.get(group, []):
        pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, str(TESTS / "declared_memory_case.py"), group],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path[:1], *_paths()])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    wrong = []
    for name, use in json.loads(done.stdout.splitlines()[-1]).items():
        declared, took = use["declared"], use["took"]
        text = f"{name}: took {format_bytes(took)}, declared {format_bytes(declared)}"
        if took > declared + SLACK:
            wrong.append(f"{text}: more than declared")
        known = name not in UNKNOWN | LONG_TRANSFORMS
        if known and declared > LOOSE * took + LOOSE_BYTES:
            wrong.append(f"{text}: far more than it takes")
    assert not wrong, "\n".join(wrong)


def _paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
