"""Raw and Epochs objects of MNE-Python as datasets, and datasets as such objects."""

from __future__ import annotations

import datetime
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock as ps
from penstock.dataset import lazy_variable
from penstock.eeg import (
    BandPassFilter,
    Crop,
    DropChannels,
    HighPassFilter,
    LowPassFilter,
    NotchFilter,
    PickChannels,
    Rereference,
    Resample,
)
from penstock.io.mne.text import as_text, from_text

mne = pytest.importorskip("mne")
object_diff = pytest.importorskip("mne.utils").object_diff

EEG = ["Fz", "Cz", "Pz", "Oz", "C3", "C4"]
FULL_DATE = datetime.datetime(2017, 7, 14, 2, 40, 0, 123456, datetime.UTC)


@pytest.fixture
def raw() -> Any:
    """A recording that says about everything a recording can say."""
    info = mne.create_info([*EEG, "EOG", "STI 014"], 250.0, ["eeg"] * 6 + ["eog", "stim"])
    values = np.random.default_rng(0).normal(0, 1e-5, (8, 10_000))
    values[7] = 0
    values[7, 1000:1100] = 255
    raw = mne.io.RawArray(values, info, first_samp=700, verbose="error")
    raw.set_montage(mne.channels.make_standard_montage("easycap-M1"), verbose="error")
    raw.set_meas_date(FULL_DATE)
    raw.set_eeg_reference(projection=True, verbose="error")
    info = raw.info
    info["bads"] = ["Oz"]
    info["line_freq"], info["description"], info["experimenter"] = 50.0, "At rest", "Ö. Müller"
    info["subject_info"] = {
        "id": 7, "his_id": "s07", "first_name": "Ada", "sex": 2, "hand": 1, "weight": 61.5,
        "birthday": datetime.date(1990, 2, 28),
    }  # fmt: skip
    info["device_info"] = {"type": "amp", "model": "A1", "serial": "17", "site": "lab"}
    info["helium_info"] = {
        "he_level_raw": 12.5, "helium_level": 60.0, "orig_file_guid": "g", "meas_date": FULL_DATE
    }  # fmt: skip
    with info._unlock():
        info["highpass"], info["lowpass"] = 0.1, 100.0
        info["proj_id"], info["proj_name"] = 3, "a project"
        info["dev_head_t"] = mne.transforms.Transform("meg", "head", np.eye(4) * [1, 1, 1, 1])
        info["gantry_angle"], info["utc_offset"] = 60, "+01:00"
    annotations = mne.Annotations(
        [1.0, 5.0, 30.0], [0.0, 2.0, 1.0], ["a", "BAD_x", "c"], ch_names=[[], ["Cz", "C3"], []]
    )
    return raw.set_annotations(annotations, verbose="error")


def same(found: Any, wanted: Any, tolerance: float = 1e-19) -> None:
    assert object_diff(found.info, wanted.info) == ""
    assert (found.first_samp, found.n_times) == (wanted.first_samp, wanted.n_times)
    one, other = found.annotations, wanted.annotations
    assert one.orig_time == other.orig_time
    assert one.description.tolist() == other.description.tolist()
    assert one.ch_names.tolist() == other.ch_names.tolist()
    assert np.allclose(one.onset, other.onset, rtol=0, atol=1e-9)
    assert np.allclose(one.duration, other.duration, rtol=0, atol=1e-9)
    assert np.allclose(found.get_data(), wanted.get_data(), rtol=0, atol=tolerance)


def test_all_of_info_survives_what_a_dataset_goes_through(raw, tmp_path):
    ds = ps.from_mne(raw)
    assert ds.signal.dtype == np.float64
    ps.export(ds, tmp_path / "a.zarr")
    same(ps.to_mne(ds), raw)
    same(ps.to_mne(ps.open_dataset(tmp_path / "a.zarr")), raw)
    same(ps.to_mne(pickle.loads(pickle.dumps(ds))), raw)
    same(ps.to_mne(ps.Pipeline([])(ds)), raw)
    same(ps.to_mne(ds.copy(deep=True) + 0), raw)
    same(ps.to_mne(ds.isel(channel=slice(None, None, -1)).isel(channel=slice(None, None, -1))), raw)
    assert "Müller" in ds.attrs["mne_info"]  # text that can be read
    assert ps.to_mne(ds).info["subject_info"]["birthday"] == datetime.date(1990, 2, 28)


STEPS: dict[str, tuple[list[Any], Callable[[Any], Any]]] = {
    "high pass": ([HighPassFilter(1.0)], lambda r: r.filter(1.0, None)),
    "low pass": ([LowPassFilter(40.0)], lambda r: r.filter(None, 40.0)),
    "weaker low pass": ([LowPassFilter(110.0)], lambda r: r.filter(None, 110.0)),
    "band pass": ([BandPassFilter(1.0, 40.0)], lambda r: r.filter(1.0, 40.0)),
    "notch": ([NotchFilter(50.0)], lambda r: r.notch_filter(50.0)),
    "one channel": ([HighPassFilter(1.0, picks="Fz")], lambda r: r.filter(1.0, None, picks="Fz")),
    "resampled": (
        [Resample(100.0, method="fft")],
        lambda r: r.resample(100.0, method="fft"),
    ),
    "cropped": ([Crop(2.0, 30.0)], lambda r: r.crop(2.0, 30.0)),
    "twice cropped": ([Crop(2.0, 30.0), Crop(1.0, 9.0)], lambda r: r.crop(2, 30).crop(1, 9)),
    "picked": ([PickChannels(["C4", "Oz"])], lambda r: r.reorder_channels(["C4", "Oz"])),
    "dropped": ([DropChannels(["Oz"])], lambda r: r.drop_channels(["Oz"])),
    "average reference": ([Rereference()], lambda r: r.set_eeg_reference("average")),
    "one reference": ([Rereference(["Cz"])], lambda r: r.set_eeg_reference(["Cz"])),
}


@pytest.mark.parametrize("name", STEPS)
def test_processors_change_what_mne_changes(raw, name):
    pipeline, method = STEPS[name]
    found = ps.to_mne(ps.Pipeline(pipeline)(raw))
    with mne.utils.use_log_level("error"):
        same(found, method(raw.copy()))


def test_a_selected_stretch_is_a_cropped_recording(raw):
    same(ps.to_mne(ps.from_mne(raw).sel(time=slice(2, 30))), raw.copy().crop(2, 30))


def test_channels_keep_their_places_under_other_names(raw):
    ds = ps.from_mne(raw).isel(channel=[4, 1, 6])
    ds = ds.assign_coords(channel=["left", "top", "eye"])
    found = ps.to_mne(ds)
    wanted = raw.copy().reorder_channels(["C3", "Cz", "EOG"])
    for one, other in zip(found.info["chs"], wanted.info["chs"], strict=True):
        assert np.array_equal(one["loc"], other["loc"], equal_nan=True)
    assert set(found.info["projs"][0]["data"]["col_names"]) >= {"left", "top"}
    as_eog = ps.to_mne(ds.assign_coords(channel_type=("channel", ["eeg", "eog", "eog"])))
    assert as_eog.get_channel_types() == ["eeg", "eog", "eog"]
    places = [one.info["chs"][1]["loc"][:3] for one in (as_eog, wanted)]
    assert np.array_equal(*places)


def test_recordings_without_a_date_keep_their_first_sample(raw):
    raw.set_meas_date(None)
    same(ps.to_mne(ps.from_mne(raw)), raw)
    assert "measurement_date" not in ps.from_mne(raw).attrs


def test_projections_and_compensation_are_applied_as_in_mne(raw, data):
    lazy, loaded = ps.to_mne(ps.from_mne(raw)), raw.copy().apply_proj()
    lazy.apply_proj()
    assert np.allclose(lazy.get_data(), loaded.get_data(), rtol=0, atol=1e-18)
    some = lazy.get_data(["Cz", "STI 014"], 10, 400)
    assert np.allclose(some, loaded.get_data(["Cz", "STI 014"], 10, 400), rtol=0, atol=1e-18)
    assert np.allclose(ps.from_mne(lazy).signal[1] * 1e-6, loaded.get_data("Cz"), atol=1e-18)
    path = data / "next/eeg/ctf_comp_raw.fif"
    if path.exists():
        ctf = mne.io.read_raw(path, verbose="error")
        ours = ps.to_mne(ps.open_dataset(path))
        for one in (ctf, ours):
            one.apply_gradient_compensation(0, verbose="error")
        values = ctf.get_data()
        assert np.allclose(ours.get_data(), values, rtol=1e-5, atol=1e-6 * np.abs(values).max())


class Counting:
    """Channels of ramps that notes which regions are read."""

    def __init__(self) -> None:
        self.regions: list[tuple[int, int]] = []

    def __call__(self, channels: Any, times: Any) -> np.ndarray:
        rows, columns = np.arange(64)[channels], np.arange(400_000)[times]
        self.regions.append((len(rows), len(columns)))
        return (rows[:, None] + columns[None] * 1e-3).astype("f4")


def test_a_raw_reads_what_is_asked_for_and_loads_by_region():
    read = Counting()
    variable = lazy_variable(("channel", "time"), read, (64, 400_000), "f4", {"units": "uV"})
    ds = ps.make_dataset(
        variable, sampling_frequency=1000.0, coords={"channel": [f"c{i}" for i in range(64)]}
    )
    raw = ps.to_mne(ds)
    assert not read.regions
    part = raw.get_data(["c3", "c4"], 100, 200)
    assert read.regions == [(2, 100)]
    assert np.allclose(part[0], (3 + np.arange(100, 200) * 1e-3) * 1e-6, rtol=1e-6)
    tracemalloc.start()
    raw.load_data(verbose="error")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    whole = 8 * 64 * 400_000
    assert peak < whole + 48 * 2**20
    assert max(rows * columns * 4 for rows, columns in read.regions[1:]) <= 4 * 2**20
    assert raw.get_data()[63, -1] == pytest.approx(462.999e-6, rel=1e-6)


def test_lazy_results_are_computed_once_a_block(raw):
    calls: list[int] = []

    def count(block: np.ndarray) -> np.ndarray:
        calls.append(block.shape[0])
        return block

    lazy = ps.Pipeline([count])(raw, block_bytes=8 * 10_000 * 4)
    loaded = ps.to_mne(lazy, preload=True)
    assert sum(calls) == 8
    assert np.allclose(loaded.get_data(), raw.get_data(), rtol=0, atol=1e-19)


def test_everything_takes_raw_objects(raw, tmp_path):
    assert ps.open_dataset(raw).identical(ps.from_mne(raw))
    pipeline = ps.Pipeline([HighPassFilter(1.0)])
    wanted = raw.copy().filter(1.0, None, verbose="error").get_data(EEG) * 1e6
    assert np.allclose(pipeline.compute(raw).signal[:6], wanted, atol=1e-9)
    assert pipeline.plan(raw).n_blocks >= 1
    ps.export(raw, tmp_path / "b_raw.fif")
    assert mne.io.read_raw(tmp_path / "b_raw.fif", verbose="error").first_samp == 700
    for executor in ("threads", "processes"):
        report = pipeline.run(
            {"mine": raw}, tmp_path / executor, executor=executor, workers=2, progress=False
        )
        assert report.ok, report
        made = ps.open_dataset(tmp_path / executor / "mine.zarr")
        assert np.allclose(made.signal[:6], wanted, atol=1e-4)
        assert ps.to_mne(made).info["highpass"] == 1.0
    assert pipeline.run({"mine": raw}, tmp_path / "threads", progress=False).skipped == ["mine"]
    raw._data[0] += 1e-6  # another recording now: what was made of the first must not stand for it
    report = pipeline.run({"mine": raw}, tmp_path / "threads", progress=False)
    assert "mine" in report.failed
    with pytest.raises(ValueError, match="takes no options of files"):
        ps.open_dataset(raw, engine="fif")


def test_a_raw_that_is_not_loaded_is_read_by_region(raw, tmp_path):
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    lazy = mne.io.read_raw(tmp_path / "a_raw.fif", verbose="error").crop(2, 20)
    ds = ps.from_mne(lazy)
    lazy.load_data(verbose="error").filter(1.0, None, verbose="error")  # (changes it in place)
    assert ds.signal.dtype == np.float32
    same(ps.to_mne(ds), mne.io.read_raw(tmp_path / "a_raw.fif", verbose="error").crop(2, 20), 1e-11)
    with pytest.raises(ValueError, match="would replace the recording"):
        ps.Pipeline([np.abs]).run(ds, tmp_path, format="fif", progress=False)


def test_on_a_cluster(raw, tmp_path):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        report = ps.Pipeline([HighPassFilter(1.0)]).run(
            raw, tmp_path, client=client, format="fif", progress=False
        )
        assert report.ok, report
    assert ps.open_dataset(tmp_path / "dataset_raw.fif").attrs["highpass"] == 1.0


# ---------------------------------------------------------------------- FIF


def test_fif_filter_fif_keeps_info_and_is_named_as_mne_asks(raw, tmp_path):
    raw.save(tmp_path / "sub-01_raw.fif", verbose="error")
    raw.save(tmp_path / "sub-01_task-rest_eeg.fif", verbose="error")
    raw.save(tmp_path / "plain.fif", verbose="error")
    pipeline = ps.Pipeline([HighPassFilter(1.0), Resample(100.0, method="fft")])
    report = pipeline.run(tmp_path / "*.fif", tmp_path / "out", format="fif", progress=False)
    assert report.ok, report
    names = {path.name for path in (tmp_path / "out").glob("*.fif")}
    assert names == {"sub-01_raw.fif", "sub-01_task-rest_eeg.fif", "plain_raw.fif"}
    wanted = mne.io.read_raw(tmp_path / "sub-01_raw.fif", verbose="error", preload=True)
    wanted.filter(1.0, None, verbose="error").resample(100.0, method="fft", verbose="error")
    wanted.save(tmp_path / "wanted_raw.fif", verbose="error")
    wanted = mne.io.read_raw(tmp_path / "wanted_raw.fif", verbose="error")
    for name in names:
        found = mne.io.read_raw(tmp_path / "out" / name, verbose="error")
        for one in (found, wanted):
            with one.info._unlock():
                one.info["file_id"] = one.info["meas_id"] = None
        same(found, wanted, 2e-11)


def test_results_under_earlier_names_are_found_again(raw, tmp_path):
    raw.save(tmp_path / "night.fif", verbose="error")
    pipeline = ps.Pipeline([np.abs])
    given = {"night": tmp_path / "night.fif"}
    assert pipeline.run(given, tmp_path / "out", format="fif", progress=False).ok
    assert (tmp_path / "out" / "night.fif").exists()  # a name that the user gave
    report = pipeline.run(tmp_path / "night.fif", tmp_path / "out", format="fif", progress=False)
    assert report.skipped == ["night"]
    assert not (tmp_path / "out" / "night_raw.fif").exists()


def test_all_parts_of_a_large_fif_result_are_kept(tmp_path, monkeypatch):
    ds = ps.make_dataset(
        np.random.default_rng(0).normal(0, 10, (8, 400_000)).astype("f4"),
        sampling_frequency=250.0,
        units="uV",
    )
    out, pipeline = tmp_path / "out", ps.Pipeline([np.abs])
    monkeypatch.setattr("penstock.io.mne.write.SPLIT_SIZE", "6MB")
    assert pipeline.run({"a_raw": ds}, out, format="fif", progress=False).ok
    first = sorted(path.name for path in out.glob("*.fif"))
    assert len(first) > 2
    found = mne.io.read_raw(out / "a_raw.fif", verbose="error").get_data()
    assert np.allclose(found, np.abs(ds.signal) * 1e-6, rtol=1e-6, atol=0)
    monkeypatch.setattr("penstock.io.mne.write.SPLIT_SIZE", "2GB")
    assert pipeline.run({"a_raw": ds}, out, format="fif", overwrite=True, progress=False).ok
    assert sorted(path.name for path in out.glob("*.fif")) == ["a_raw.fif"]


def test_text_in_any_script_through_fif(tmp_path):
    names = ["Ü1", "U1", "電極1", "電極2", "a" * 40]
    ds = ps.make_dataset(
        np.ones((5, 500), "f4"),
        sampling_frequency=100.0,
        units="uV",
        coords={"channel": names, "bad": ("channel", [True, False, True, False, False])},
        events=pd.DataFrame(
            {"onset": [0.5, 1.0], "duration": [0.0, 0.0], "label": ["閉眼 & <b>", "Schlöss"]}
        ),
        attrs={"measurement_date": "2150-01-01T00:00:00"},
    )
    report = ps.export(ds, tmp_path / "a_raw.fif")
    assert report.renamed == {"Ü1": "U1-0", "電極1": "??1", "電極2": "??2"}
    raw = mne.io.read_raw(tmp_path / "a_raw.fif", verbose="error")
    assert raw.ch_names == ["U1-0", "U1", "??1", "??2", "a" * 40]
    assert raw.info["bads"] == ["U1-0", "??1"]
    assert any("Latin-1" in note for note in report.notes)
    assert any("2150" in note for note in report.notes)
    again = ps.open_dataset(tmp_path / "a_raw.fif")
    assert ps.events_table(again).label.tolist() == ["閉眼 & <b>", "Schlöss"]
    assert ps.to_mne(ds).ch_names == names  # in memory nothing needs to change


# ---------------------------------------------------------------------- epochs


@pytest.fixture
def epochs(raw: Any) -> Any:
    events = mne.make_fixed_length_events(raw, duration=2.0)
    events[1::2, 2] = 2
    numbers = np.arange(len(events))
    words = np.array(["a", "b"], dtype=object)[numbers % 2]
    metadata = pd.DataFrame({"rt": numbers * 0.1, "word": words, "ok": numbers % 3 == 0})
    return mne.Epochs(
        raw, events, {"left": 1, "right": 2}, -0.2, 0.5, baseline=(None, 0), metadata=metadata,
        reject={"eeg": 62e-6}, preload=True, proj=False, verbose="error",
    )  # fmt: skip


def same_epochs(found: Any, wanted: Any) -> None:
    assert object_diff(found.info, wanted.info) == ""
    assert np.array_equal(found.events, wanted.events)
    assert found.event_id == wanted.event_id
    assert np.array_equal(found.selection, wanted.selection)
    assert found.drop_log == wanted.drop_log
    assert found.baseline == wanted.baseline
    assert np.allclose(found.times, wanted.times, rtol=0, atol=1e-12)
    pd.testing.assert_frame_equal(
        found.metadata.reset_index(drop=True), wanted.metadata.reset_index(drop=True)
    )
    assert np.allclose(found.get_data(), wanted.get_data(), rtol=0, atol=1e-19)
    assert found.annotations.description.tolist() == wanted.annotations.description.tolist()
    assert np.allclose(found.annotations.onset, wanted.annotations.onset)


def test_epochs_are_epochs_channels_and_times(epochs, tmp_path):
    ds = ps.from_mne(epochs)
    assert ds.signal.dims == ("epoch", "channel", "time")
    assert np.allclose(ds.signal[..., :7, :], epochs.get_data()[:, :7] * 1e6, rtol=1e-15)
    assert np.allclose(ds.time.values, epochs.times, rtol=0, atol=1e-12)
    assert ds.epoch_label.values[:2].tolist() == ["left", "right"]
    assert ds.metadata_rt.values.tolist() == epochs.metadata["rt"].tolist()
    same_epochs(ps.to_mne(ds), epochs)
    ps.export(ds, tmp_path / "e.zarr")
    stored = ps.open_dataset(tmp_path / "e.zarr")
    same_epochs(ps.to_mne(stored), epochs)
    left = ps.to_mne(stored.isel(epoch=stored.epoch_label == "left"))
    assert np.array_equal(left.events, epochs["left"].events)
    assert np.array_equal(left.selection, epochs["left"].selection)
    filtered = ps.to_mne(ps.Pipeline([LowPassFilter(60.0)])(epochs))
    assert filtered.info["lowpass"] == 60.0
    wanted = epochs.copy().filter(None, 60.0, pad="reflect_limited", verbose="error")
    assert np.allclose(filtered.get_data("eeg"), wanted.get_data("eeg"), atol=1e-15)


def test_files_of_epochs_are_told_apart(epochs, tmp_path):
    epochs.save(tmp_path / "a-epo.fif", verbose="error")
    with pytest.raises(ValueError, match=r"from_mne\(mne.read_epochs\(path\)\)"):
        ps.open_dataset(tmp_path / "a-epo.fif")
    read = mne.read_epochs(tmp_path / "a-epo.fif", preload=False, proj=False, verbose="error")
    same = np.allclose(ps.from_mne(read).signal, ps.from_mne(epochs).signal, atol=1e-5)
    assert same


def test_epochs_that_are_not_loaded(raw):
    events = mne.make_fixed_length_events(raw, duration=2.0)
    lazy = mne.Epochs(raw, events, tmin=0, tmax=1, baseline=None, reject={"eeg": 62e-6},
                      proj=False, verbose="error")  # fmt: skip
    ds = ps.from_mne(lazy)
    wanted = lazy.copy().load_data()
    assert ds.sizes["epoch"] == len(wanted)
    assert np.allclose(ds.signal[-3:, 1, 5:9], wanted.get_data()[-3:, 1, 5:9] * 1e6, rtol=1e-15)


def test_arrays_of_epochs_without_a_history():
    ds = ps.make_dataset(
        np.ones((5, 2, 100)), ("epoch", "channel", "time"), sampling_frequency=50.0,
        start_time=-0.5, units="uV", coords={"channel": ["Cz", "Pz"]},
    )  # fmt: skip
    epochs = ps.to_mne(ds)
    assert (len(epochs), epochs.tmin, epochs.ch_names) == (5, -0.5, ["Cz", "Pz"])
    assert epochs.get_data().max() == 1e-6


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("dims", "dtype", "message"),
    [
        (("y", "x"), "f4", "not of"),
        (("channel", "frequency"), "f4", "not of"),
        (("channel", "time"), "c8", "real values"),
    ],
)
def test_what_mne_cannot_hold_is_refused(dims, dtype, message):
    ds = ps.make_dataset(np.ones((3, 4), dtype), dims)
    with pytest.raises(ValueError, match=message):
        ps.to_mne(ds)


def test_what_does_not_go_with_a_raw_is_said(raw, tmp_path):
    ds = ps.from_mne(raw).assign_coords(trigger_time=("trigger", [1.0, 2.0]))
    ds = ds.assign_attrs(reference="left ear")
    ds["signal_1Hz"] = (("channel_1Hz", "time_1Hz"), np.zeros((1, 40), "f4"))
    ds = ds.assign_coords(bad_1Hz=("channel_1Hz", [False]))
    notes: list[str] = []
    ps.to_mne(ds, notes=notes)
    assert len(notes) == 3
    assert "signal_1Hz" in notes[0]
    assert "trigger_time" in notes[1]
    assert "bad_1Hz" not in notes[1]
    assert "reference" in notes[2]
    with pytest.warns(UserWarning, match="trigger_time"):
        ps.to_mne(ds)
    with pytest.warns(UserWarning, match="signal_1Hz"):
        report = ps.export(ds, tmp_path / "a_raw.fif")
    assert [any(name in note for note in report.notes) for name in
            ("signal_1Hz", "trigger_time", "reference")] == [True] * 3  # fmt: skip


def test_points_of_head_position_coils_keep_their_class(raw):
    points = list(raw.info["dig"][:3])
    place = mne.transforms.Transform("meg", "head", np.eye(4))
    history = [{"creator": "x", "date": (1, 2), "max_info": {"sss_ctc": {"decoupler": None}}}]
    with raw.info._unlock():
        raw.info["hpi_results"] = [
            {"dig_points": points, "coord_trans": place, "used": np.arange(3)}
        ]
        raw.info["proc_history"] = history
    same(ps.to_mne(ps.from_mne(raw)), raw)


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="expected a Raw or Epochs"):
        ps.from_mne(np.zeros(3))


moments = st.datetimes(timezones=st.just(datetime.UTC)).map(lambda when: when.replace(fold=0))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.dates() | moments,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple)
    | st.dictionaries(st.text(alphabet="abc_ ü", min_size=1), inner),
    max_leaves=20,
)  # fmt: skip


@given(values)
def test_text_gives_values_back_as_they_were(value):
    again = from_text(as_text(value))
    assert again == value
    assert repr(again) == repr(value)


@given(st.sampled_from(["f8", "f4", ">i4", "c16", "?", "U3", "S2"]), st.integers(0, 90))
def test_text_gives_arrays_back_as_they_were(code, size):
    array = np.arange(2 * size).reshape(size, 2).astype(code)
    again = from_text(as_text({"a": array}))["a"]
    assert again.dtype == array.dtype
    assert np.array_equal(again, array)


def test_text_holds_sparse_matrices_and_refuses_objects():
    from scipy import sparse

    matrix = sparse.random_array((20, 30), density=0.1, format="csc", rng=np.random.default_rng(0))
    again = from_text(as_text(matrix))
    assert again.format == "csc"
    assert np.array_equal(again.toarray(), matrix.toarray())
    with pytest.raises(ValueError, match="not part of a description"):
        from_text('{"~array": ["O", [1], "AAAAAAAAAAA="]}')
    with pytest.raises(ValueError, match="is not as it was written"):
        from_text('{"~tuple": 3}')


# ---------------------------------------------------------------------- what others do with it


def test_braindecode_takes_what_comes_out(raw):
    """Its preprocessing and windows, as on the Raw object itself."""
    preprocessing = pytest.importorskip("braindecode.preprocessing", exc_type=ImportError)
    from braindecode.datasets import BaseConcatDataset, RawDataset

    def windows(one: Any) -> tuple[np.ndarray, list[int]]:
        made = BaseConcatDataset([RawDataset(one, description={"subject": 1})])
        step = preprocessing.Preprocessor
        steps = [
            step("pick", picks="eeg"),
            step("filter", l_freq=4.0, h_freq=38.0),
            step("resample", sfreq=100),
            step(preprocessing.exponential_moving_standardize, factor_new=1e-3),
        ]
        preprocessing.preprocess(made, steps)
        cut = preprocessing.create_windows_from_events(
            made, mapping={"a": 0, "c": 1}, trial_stop_offset_samples=50, preload=True
        )
        return np.stack([cut[i][0] for i in range(len(cut))]), [cut[i][1] for i in range(len(cut))]

    raw.info["bads"] = []
    wanted = windows(raw.copy())
    found = windows(ps.to_mne(ps.from_mne(raw)))
    assert np.allclose(found[0], wanted[0], atol=1e-5)
    assert found[1] == wanted[1]


@pytest.mark.filterwarnings("ignore:FastICA did not converge", "ignore:nperseg")
def test_what_mne_offers_works_on_a_dataset(raw, tmp_path: Path):
    found = ps.to_mne(ps.Pipeline([HighPassFilter(1.0)])(raw), preload=True)
    wanted = raw.copy().filter(1.0, None, verbose="error")
    results = []
    for one in (found, wanted):
        ica = mne.preprocessing.ICA(3, random_state=0, max_iter=50, verbose="error")
        ica.fit(one, verbose="error")
        spectrum = one.compute_psd(fmax=60, verbose="error").get_data()
        events = mne.find_events(one, verbose="error")
        montage = one.get_montage().get_positions()["ch_pos"]
        cleaned = ica.apply(one.copy(), exclude=[0], verbose="error").get_data("eeg")
        interpolated = one.copy().interpolate_bads(verbose="error")
        epochs = mne.Epochs(one, events, tmin=0, tmax=0.5, baseline=None, verbose="error")
        results.append((
            spectrum, events, cleaned, interpolated.get_data(), epochs.get_data(),
            one.copy().pick("eeg").get_data(), np.stack(list(montage.values())),
        ))  # fmt: skip
    for one, other in zip(*results, strict=True):
        assert np.allclose(one, other, rtol=1e-6, atol=1e-14)
    lazy = ps.to_mne(ps.from_mne(raw))
    assert lazy.copy().pick(["Cz", "C3"]).load_data(verbose="error").ch_names == ["Cz", "C3"]
    assert lazy.copy().drop_channels(["Cz"]).crop(1, 2).get_data().shape == (7, 251)
    both = mne.concatenate_raws([lazy.copy(), lazy.copy()], verbose="error")
    assert np.allclose(both.get_data()[:, 10_000:], raw.get_data(), rtol=0, atol=1e-19)
    assert np.array_equal(pickle.loads(pickle.dumps(lazy)).get_data(), lazy.get_data())
    lazy.save(tmp_path / "again_raw.fif", fmt="double", verbose="error")
    again = mne.io.read_raw(tmp_path / "again_raw.fif", verbose="error")
    assert np.allclose(again.get_data(), raw.get_data(), rtol=0, atol=1e-19)
