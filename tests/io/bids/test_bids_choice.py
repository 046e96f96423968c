"""Folders that hold several images of one run: one must be chosen, and the choice is listed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Penstock

import penstock as ps
from penstock.fmri import ExtractLabels, NiftiLabelsMasker
from penstock.io.bids.choice import chosen_images
from penstock.running.sources import resolve_sources

nib = pytest.importorskip("nibabel")

STEM = "sub-01_task-rest"
SPACES = {
    "MNI152NLin2009cAsym": "_space-MNI152NLin2009cAsym_desc-preproc_bold",
    "T1w": "_space-T1w_desc-preproc_bold",
    "func": "_desc-preproc_bold",
}


def volumes(value: float) -> nib.Nifti1Image:
    image = nib.Nifti1Image(np.full((4, 3, 2, 5), value, "f4"), np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    return image


@pytest.fixture
def derivatives(tmp_path: Path) -> Path:
    """One run in three spaces; its values tell which."""
    folder = tmp_path / "derivatives" / "sub-01" / "func"
    folder.mkdir(parents=True)
    for number, ending in enumerate(SPACES.values()):
        nib.save(volumes(number), folder / f"{STEM}{ending}.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((4, 3, 2), "i2"), np.eye(4)), tmp_path / "atlas.nii")
    return tmp_path / "derivatives"


def add(derivatives: Path, *endings: str, stem: str = STEM) -> None:
    for ending in endings:
        nib.save(volumes(9), derivatives / "sub-01" / "func" / f"{stem}{ending}.nii.gz")


def test_the_command_line_asks_for_a_choice(derivatives: Path, run_cli: Penstock) -> None:
    command = ("extract", derivatives, "--labels", "atlas.nii", "--out", "out", "--quiet")
    refused = run_cli(*command, "--format", "csv")
    assert refused.code == 2
    assert "spaces MNI152NLin2009cAsym, T1w and func" in refused.sentence
    assert "--space" in refused.sentence
    assert not Path("out").exists()
    for number, space in enumerate(SPACES):
        done = run_cli(
            *command[:-2], f"out-{space}", "--quiet", "--format", "csv", "--space", space
        )
        assert done.code == 0, done.err
        (table,) = Path(f"out-{space}").glob("*.csv")
        assert np.genfromtxt(table, delimiter=",", skip_header=1)[:, -1].tolist() == [number] * 5
    done = run_cli(*command, "--format", "csv", "--space", "all")
    assert done.code == 0, done.err
    assert len(list(Path("out").glob("*.csv"))) == 3
    wrong = run_cli(*command, "--space", "MNI152")
    assert wrong.code == 2
    assert "none of 3 images is of space 'MNI152': there are MNI152NLin2009c" in wrong.sentence


def test_files_that_a_shell_lists_are_asked_for_as_well(
    derivatives: Path, run_cli: Penstock
) -> None:
    files = sorted(derivatives.rglob("*.nii.gz"))
    asked = run_cli("extract", *files, "--labels", "atlas.nii", "--out", "out", "--quiet")
    assert asked.code == 2
    assert "--space" in asked.sentence
    one = run_cli(
        "extract", files[1], "--labels", "atlas.nii", "--out", "out", "--format", "csv", "--quiet"
    )
    assert one.code == 0, one.err


def test_pipelines_ask_too(derivatives: Path, tmp_path: Path) -> None:
    steps = ps.Pipeline([ExtractLabels(str(tmp_path / "atlas.nii"))])
    with pytest.raises(ValueError, match=r"select=\{'space'"):
        steps.run(derivatives, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="--space"):
        steps.plan(derivatives)
    pattern = str(derivatives / "**" / "*_bold.nii.gz")
    with pytest.raises(ValueError, match="--space"):
        NiftiLabelsMasker(tmp_path / "atlas.nii").fit_transform(pattern)
    report = steps.run(
        pattern, tmp_path / "out", progress=False, select={"space": "T1w"}, format="csv"
    )
    assert len(report.outputs) == 1
    assert steps.plan(derivatives, select={"space": "T1w"}).predicted_memory
    # what is named one by one is meant
    files = sorted(derivatives.rglob("*.nii.gz"))
    assert len(resolve_sources(files)) == 3
    assert len(resolve_sources({"t1": derivatives}, select={"space": "T1w"})) == 1


def test_resolutions_echoes_and_steps(derivatives: Path) -> None:
    def left(**select: str) -> list[str]:
        items = resolve_sources(derivatives, select=select)
        return [item.path.name for item in items if item.path is not None]

    mni = "_space-MNI152NLin2009cAsym"
    add(derivatives, f"{mni}_res-2_desc-preproc_bold", f"{mni}_desc-smooth_bold")
    with pytest.raises(ValueError, match=r"resolutions 2 and none \(no res in the name\)"):
        left(space="MNI152NLin2009cAsym")
    assert left(space="MNI152NLin2009cAsym", res="2") == [
        f"{STEM}{mni}_res-2_desc-preproc_bold.nii.gz"
    ]
    assert left(res="02") == left(res="2")
    assert left(space="T1w") == [f"{STEM}_space-T1w_desc-preproc_bold.nii.gz"]
    assert left(desc="smooth") == [f"{STEM}{mni}_desc-smooth_bold.nii.gz"]
    for echo in (1, 2, 3):
        add(derivatives, f"_run-1_echo-{echo}_desc-preproc_bold")
    with pytest.raises(ValueError, match=r"run-1_bold, in the echo(es)? 1, 2 and 3"):
        left(space="func")
    assert len(left(space="func", echo="2")) == 1
    with pytest.raises(ValueError, match="none of the entities"):
        left(colour="red")


def test_several_runs_and_other_recordings_need_no_choice(tmp_path: Path) -> None:
    names = [f"sub-0{s}_task-{task}_space-T1w_bold.nii.gz" for s in (1, 2) for task in ("a", "b")]
    paths = [tmp_path / name for name in (*names, "sub-01_task-a_eeg.edf", "scan.nii", "run2.nii")]
    assert chosen_images(paths) == paths
    assert chosen_images(paths, {"space": "T1w"}) == paths
    mixed = [*paths, tmp_path / "sub-03_task-a_bold.nii.gz"]  # (one space a run: nothing to choose)
    assert chosen_images(mixed) == mixed
    assert chosen_images(mixed, {"space": "T1w"}) == paths
    surface = [tmp_path / "sub-01_task-a_space-T1w_bold.dtseries.nii", *paths]
    assert chosen_images(surface) == surface
