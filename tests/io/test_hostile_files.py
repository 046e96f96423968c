"""Damaged files of every format are read, or refused in one sentence, in bounded memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import hostile
import pytest

SEEDS = range(50)
MOST_MIB = 200
"""Rise of memory while a file of some kilobytes is opened, what is imported for it included."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    pytest.importorskip("mne")
    pytest.importorskip("nibabel")
    return hostile.write_samples(tmp_path_factory.mktemp("samples"))


def test_damaged_files_are_one_sentence(samples, tmp_path):
    damaged = []
    for sample in samples:
        for seed in SEEDS:
            folder = tmp_path / f"{sample.name}-{seed}"
            folder.mkdir()
            if sample.suffix == ".vhdr":
                for part in ("brain.eeg", "brain.vmrk"):
                    shutil.copy(sample.with_name(part), folder / part)
            hostile.damage(sample, folder / sample.name, seed)
            damaged.append(folder / sample.name)
    said = hostile.outcomes(damaged)
    assert len(said) == len(damaged)
    wrong = [one for one in said if not _is_well_told(one)]
    assert not wrong, wrong[:3]
    assert max(one["rise_mib"] for one in said) < MOST_MIB
    kinds = {one["kind"] for one in said}
    assert "read" in kinds
    assert kinds - {"read"}


def _is_well_told(one):
    if one["kind"] == "read":
        return True
    sentence = one["text"]
    return (
        one["sentence"] == "True"
        and "/penstock/" in one["raised"]
        and Path(one["path"]).name in sentence
        and all(c.isprintable() for c in sentence)
    )
