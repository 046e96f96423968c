from __future__ import annotations

import threading

import numpy as np
import pytest

import penstock as ps
from penstock.testing.readers import check_reader

mne = pytest.importorskip("mne")


@pytest.mark.parametrize("name", ["brainvision/test.vhdr", "yasa_resting_EO_200Hz_raw.fif"])
def test_same_as_mne(recordings, name):
    ds = check_reader(recordings / name, dtype="float64")
    raw = mne.io.read_raw(recordings / name, verbose="error")
    factor = np.where(ds.channel_unit.values == "uV", 1e6, 1.0)[:, None]
    assert np.array_equal(ds.signal.values, raw.get_data() * factor)
    assert ds.channel.values.tolist() == raw.ch_names
    assert ds.channel_type.values.tolist() == raw.get_channel_types()
    assert ps.sampling_frequency(ds) == raw.info["sfreq"]
    events = ps.events_table(ds)
    assert events.label.tolist() == raw.annotations.description.tolist()
    assert np.allclose(events.onset, raw.annotations.onset - raw.first_time, rtol=0, atol=1e-9)


@pytest.fixture
def fif(tmp_path):
    """A recording whose first sample is number 500, with a bad channel and events."""
    rng = np.random.default_rng(0)
    info = mne.create_info(["Cz", "Oz", "EOG"], 250.0, ["eeg", "eeg", "eog"])
    raw = mne.io.RawArray(rng.normal(0, 1e-5, (3, 5000)), info, first_samp=500, verbose="error")
    raw.info["bads"] = ["Oz"]
    raw.set_meas_date(1_500_000_000)
    raw.set_annotations(mne.Annotations([2.0, 4.5], [0.0, 1.0], ["a", "b"]))
    path = tmp_path / "late_raw.fif"
    raw.save(path, verbose="error")
    return path, raw.get_data() * 1e6


def test_events_count_from_the_first_sample(fif):
    path, values = fif
    ds = check_reader(path)
    raw = mne.io.read_raw(path, verbose="error")
    assert raw.first_samp == 500
    events = ps.events_table(ds)
    assert np.allclose(events.onset, [2.0, 4.5], rtol=0, atol=1e-6)
    assert ds.attrs["measurement_date"] == "2017-07-14T02:40:02+00:00"
    assert ds.bad.values.tolist() == [False, True, False]
    assert np.allclose(ds.signal.values, values, rtol=1e-6, atol=1e-6)


def test_many_threads_read_one_recording(fif):
    path, values = fif
    ds = ps.open_dataset(path)
    failures = []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(20):
            start = int(rng.integers(0, 4000))
            found = ds.variables["signal"].isel(time=slice(start, start + 500)).values
            if not np.allclose(found, values[:, start : start + 500], rtol=1e-6, atol=1e-6):
                failures.append(start)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_damaged_file_gives_one_sentence(tmp_path):
    path = tmp_path / "broken.vhdr"
    path.write_text("Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\n")
    with pytest.raises(ValueError, match=r"MNE-Python cannot open .*broken\.vhdr") as error:
        ps.open_dataset(path)
    assert "\n" not in str(error.value)
