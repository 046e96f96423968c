import json
import os

import numpy as np
import pytest

import penstock as ps
from penstock.storage.ledger import discard, partial_path
from penstock.storage.store import write_store


@pytest.fixture
def precious(tmp_path):
    """What belongs to somebody and must stay as it is; a folder and a file in it."""
    folder = tmp_path / "precious"
    (folder / "c").mkdir(parents=True)
    (folder / "letter.txt").write_text("precious")
    (folder / "plan.json").write_text("precious")
    (folder / "zarr.json").write_text("precious")
    (folder / "c" / "0").write_text("precious")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    yield folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert all(p.read_text() == "precious" for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def source(tmp_path, small):
    return write_store(small, tmp_path / "in" / "rec.zarr")


def run(source, out, **options):
    pipeline = ps.Pipeline([ps.Apply(np.negative)])
    return pipeline.run(source, out, memory="2 GiB", workers=1, progress=False, **options)


PLACES = [
    ".rec.zarr.partial",
    ".rec.zarr.replaced",
    ".rec.zarr.input",
    ".penstock.lock",
    "penstock-report.html",
    "penstock-report.json",
    ".penstock-report.html.new",
    ".penstock-report.json.new",
    "rec.zarr",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("to", ["", "letter.txt", "not there"])
def test_links_beside_results_are_not_followed(tmp_path, precious, source, place, to):
    out = tmp_path / "out"
    out.mkdir()
    (out / place).symlink_to(precious / to)
    report = run(source, out, overwrite=True)
    assert report.ok, report
    assert not (out / "rec.zarr").is_symlink()
    assert ps.open_dataset(out / "rec.zarr").signal.shape == (8, 2000)
    assert json.loads((out / "penstock-report.json").read_text())["failed"] == {}
    assert not (out / "penstock-report.html").is_symlink()


@pytest.mark.parametrize("format", ["edf", "csv", "fif"])
def test_links_beside_results_of_other_formats_are_not_followed(tmp_path, precious, small, format):
    names = {"edf": "rec.edf", "csv": "rec.csv", "fif": "rec_raw.fif"}
    out = tmp_path / "out"
    out.mkdir()
    for name in (names[format], f"{names[format]}.penstock.json", f".{names[format]}.part"):
        (out / name).symlink_to(precious / "letter.txt")
    (out / f".{names[format]}.partial").symlink_to(precious)
    source = small if format != "csv" else small.isel(time=slice(0, 50))
    report = run(
        {"rec" if format != "fif" else "rec_raw": source}, out, format=format, overwrite=True
    )
    assert report.ok, report
    assert not (out / names[format]).is_symlink()


@pytest.mark.parametrize("inside", ["store", "scratch", "ledger", "exported", "store/signal"])
def test_links_inside_an_unfinished_result_are_not_followed(
    tmp_path, precious, source, inside, monkeypatch
):
    out = tmp_path / "out"
    monkeypatch.setattr("penstock.running.tasks.finish_recording", _stop)
    monkeypatch.setattr("penstock.running.engine.finish_recording", _stop)
    assert not run(source, out).ok
    monkeypatch.undo()
    building = partial_path(out / "rec.zarr")
    assert (building / "plan.json").exists()
    place = building / inside
    if place.exists():
        place.rename(tmp_path / "away")
    place.symlink_to(precious)
    report = run(source, out)
    assert report.ok, report
    assert "there was a link" in str(report.notes)


def _stop(*args):
    raise ValueError("stopped")


def test_an_unfinished_result_that_is_a_link_is_discarded_without_what_it_leads_to(
    tmp_path, precious
):
    (tmp_path / ".x.partial").symlink_to(precious)
    discard(tmp_path / ".x.partial")
    assert not os.path.lexists(tmp_path / ".x.partial")


def test_folders_of_results_that_lead_out_are_refused(tmp_path, precious, source):
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub").symlink_to(precious)
    with pytest.raises(ValueError, match=r"out/sub leads out of .*remove that link"):
        run(source, out, name="sub/{name}")
    with pytest.raises(ValueError, match="leads out of"):
        run({"sub/c/rec": source}, out)
    (out / "own").mkdir()
    (out / "inside").symlink_to(out / "own")
    assert run(source, out, name="inside/{name}").ok


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/../../x", "a//b", ".hidden", ".", "..", "", "a\0b", "a/.penstock.lock",
     "x" * 300, "a\nb", "a\x1b[2Jb", "~/x/../../../y", "a/./b"],
)  # fmt: skip
def test_names_stay_in_the_folder_of_results(tmp_path, source, name):
    before = set(tmp_path.rglob("*"))
    out = tmp_path / "out"
    for options in ({"source": {name: source}}, {"source": source, "name": name}):
        given = options.pop("source")
        if options and "/" in name and ".." not in name:
            continue  # (of a pattern, only the part that is a name is taken)
        with pytest.raises(ValueError, match=r"name of a result") as error:
            run(given, out, **options)
        assert str(error.value).isprintable()
    new = set(tmp_path.rglob("*")) - before
    assert all(path == out or out in path.parents for path in new)
