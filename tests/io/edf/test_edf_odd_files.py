"""EDF as recorders write it: pauses, odd scalings, several annotation signals, many rates."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from edf_files import Annotations, Signal, stamps, write

import penstock as ps
from penstock.io.labels import says_eeg, split_label

mne = pytest.importorskip("mne")


def counting(n=1000):
    return Signal("Cz", np.arange(n), "uV", ("-32768", "32767"))


def stamped(path, onsets, *events, reserved="EDF+C", rate=100, **more):
    n = len(onsets)
    return write(
        path,
        [counting(n * rate), stamps(onsets, *events)],
        n_records=n,
        reserved=reserved,
        **more,
    )


# ------------------------------------------------------------------ pauses


@pytest.mark.parametrize("reserved", ["EDF+C", "EDF+D"])
@pytest.mark.parametrize(
    ("onsets", "seams"),
    [
        ([0, 1, 2, 7, 8], [3.0]),
        ([0, 1, "2.3", "3.3", "4.3"], [2.0]),
        ([0, 1, "2.02", "3.02", "4.02"], [2.0]),
        ([0, "1.5", "2.5", 4, 5], [1.0, 3.0]),
        ([0, 1, 2, 1, 2], [3.0]),
        ([0, 5], [1.0]),
        (["0.25", "1.25", "9.25"], [2.0]),
    ],
)
def test_jumping_time_stamps_are_refused_or_joined(reserved, onsets, seams, tmp_path):
    path = stamped(tmp_path / "a.edf", onsets, reserved=reserved)
    words = "is interrupted" if reserved == "EDF+D" else "says that it is continuous"
    with pytest.raises(ValueError, match=rf"{words}.*{len(seams)} time\(s\).*gaps='join'") as error:
        ps.open_dataset(path)
    assert "\n" not in str(error.value)
    assert "--gaps join" in str(error.value)
    ds = ps.open_dataset(path, gaps="join")
    events = ps.events_table(ds)
    assert events.label.tolist() == ["BAD_ACQ_SKIP"] * len(seams)
    assert events.onset.tolist() == seams
    assert np.array_equal(ds.signal.values[0], np.arange(len(onsets) * 100))


@pytest.mark.parametrize(
    ("onsets", "duration"),
    [
        (["0", "1", "2", "3"], 1),
        (["0.5", "1.5", "2.5", "3.5"], 1),
        (["0", "0.333", "0.667", "1"], "0.333333"),
        (["0", "1.0004", "1.9997", "3"], 1),
        (["0", "0", "0", "0"], 1),
    ],
)
def test_regular_time_stamps_are_no_pauses(onsets, duration, tmp_path):
    path = stamped(tmp_path / "a.edf", onsets, duration=duration)
    assert not len(ps.events_table(ps.open_dataset(path)))


def test_records_without_a_stamp_follow_the_one_before(tmp_path):
    records = [b"+0\x14\x14\x00", b"", b"+2\x14\x14\x00", b"", b"+14\x14\x14\x00"]
    path = write(
        tmp_path / "a.edf", [counting(500), Annotations(records)], n_records=5, reserved="EDF+C"
    )
    with pytest.raises(ValueError, match=r"first after 4 s by 10 s"):
        ps.open_dataset(path)
    assert ps.events_table(ps.open_dataset(path, gaps="join")).onset.tolist() == [4.0]


def test_stamps_of_any_signal_and_from_any_record_on(tmp_path):
    silent = Annotations([b"+0.25\x14x\x14\x00", b"", b""])
    late = Annotations([b"", b"+1.5\x14\x14\x00", b"+2.5\x14\x14\x00"])
    path = write(
        tmp_path / "a.edf",
        [counting(300), silent, late],
        n_records=3,
        date="02.03.04",
        recording="Startdate 02-MAR-2004 X X X",
    )
    ds = ps.open_dataset(path)
    assert ds.attrs["measurement_date"] == "2004-03-02T00:00:00.500000"
    assert ps.events_table(ds).onset.tolist() == [-0.25]


def test_bdf_is_joined_as_well(tmp_path):
    records = [f"+{onset}\x14\x14\x00".encode() for onset in (0, 1, 5)]
    path = write(
        tmp_path / "a.bdf",
        [
            Signal("Cz", np.arange(300), "uV", *[(str(-(2**23)), str(2**23 - 1))] * 2),
            Annotations(records, "BDF Annotations"),
        ],
        n_records=3,
        reserved="BDF+D",
        bdf=True,
    )
    with pytest.raises(ValueError, match=r"interrupted 1 time\(s\), first after 2 s for 3 s"):
        ps.open_dataset(path)
    ds = ps.open_dataset(path, gaps="join")
    assert np.array_equal(ds.signal.values[0], np.arange(300))
    assert ps.events_table(ds).onset.tolist() == [2.0]


def test_events_move_with_the_records_they_belong_to(tmp_path):
    events = [
        (1, b"+1.5\x14before\x14"),
        (2, b"+2.5\x155.25\x14across\x14"),
        (2, b"+4\x151\x14inside\x14"),
        (3, b"+7.5\x150.5\x14after\x14"),
        (0, b"-1\x14early\x14"),
        (4, b"+10\x14late\x14"),
    ]
    path = stamped(tmp_path / "a.edf", [0, 1, 2, 7, 8], *events, reserved="EDF+D")
    table = ps.events_table(ps.open_dataset(path, gaps="join")).set_index("label")
    assert table.onset.to_dict() == {
        "early": -1.0, "before": 1.5, "across": 2.5, "inside": 3.0, "BAD_ACQ_SKIP": 3.0,
        "after": 3.5, "late": 6.0,
    }  # fmt: skip
    # of what spans the pause only the part inside the recording is left
    assert table.duration["across"] == 1.25
    assert table.duration["inside"] == 0.0
    assert table.duration["after"] == 0.5


def test_events_of_clocks_that_went_back_stay_in_their_records(tmp_path):
    events = [(1, b"+1.5\x151.5\x14first\x14"), (4, b"+1.5\x14second\x14")]
    path = stamped(tmp_path / "a.edf", [0, 1, 2, 0, 1], *events)
    table = ps.events_table(ps.open_dataset(path, gaps="join")).set_index("label")
    assert table.onset["first"] == 1.5
    assert table.duration["first"] == 1.5
    assert table.onset["second"] == 4.5


# ------------------------------------------------------------------ which rate is the recording


def rates(tmp_path, *signals):
    made = [
        Signal(label, np.arange(10 * rate), unit, ("-500", "500")) for label, unit, rate in signals
    ]
    return write(tmp_path / "psg.edf", made, n_records=10, reserved="")


@pytest.mark.parametrize(
    ("fast", "unit"),
    [("Snore", "mV"), ("Mic", "uV"), ("ECG", "mV"), ("EMG chin", "uV"), ("Unknown", "uV"),
     ("Sound", ""), ("Flow", "L/min"), ("DC01", "mV")],
)  # fmt: skip
@pytest.mark.parametrize("eeg", [["EEG C3", "EEG C4"], ["C3-A2"], ["Fpz", "O2"], ["EEG(sec)"]])
def test_a_faster_channel_does_not_become_the_recording(fast, unit, eeg, tmp_path):
    path = rates(tmp_path, (fast, unit, 500), *((label, "uV", 100) for label in eeg))
    ds = ps.open_dataset(path)
    assert ps.sampling_frequency(ds) == 100
    assert ds["label" if "label" in ds.coords else "channel"].values.tolist() == eeg
    assert ds["signal_500Hz"].sizes["channel_500Hz"] == 1
    assert ps.sampling_frequency(ds, "time_500Hz") == 500
    assert np.array_equal(ps.open_dataset(path, rate=500).signal.values, ds["signal_500Hz"].values)


def test_without_eeg_the_rate_with_most_samples_is_the_recording(tmp_path):
    path = rates(tmp_path, ("ECG", "mV", 250), ("Resp", "", 25), ("Thor", "", 25))
    assert ps.sampling_frequency(ps.open_dataset(path)) == 250
    path = rates(tmp_path, *((f"LA{i}", "uV", 500) for i in range(8)), ("Cz", "uV", 100))
    assert ps.sampling_frequency(ps.open_dataset(path)) == 500


def test_given_types_say_which_rate_is_the_recording(tmp_path):
    path = rates(tmp_path, ("Q", "uV", 500), ("R", "uV", 100), ("S", "uV", 100))
    assert ps.sampling_frequency(ps.open_dataset(path)) == 100
    types = {"R": "emg", "S": "emg"}
    assert ps.sampling_frequency(ps.open_dataset(path, channel_types=types)) == 500


@pytest.mark.parametrize(
    ("label", "unit", "kind"),
    [
        ("Snore", "mV", "misc"), ("Flow", "uV", "resp"), ("Airflow", "", "resp"),
        ("Nasal Pressure", "mV", "resp"), ("THOR RES", "", "resp"), ("Abdomen", "mV", "resp"),
        ("Chin1-Chin2", "uV", "emg"), ("LLEG", "uV", "emg"), ("LOC-A2", "uV", "eog"),
        ("LOC3", "uV", "eeg"), ("Pleth", "", "bio"), ("Position", "", "misc"),
        ("T3", "uV", "eeg"), ("TP9", "uV", "eeg"), ("Mic", "uV", "misc"), ("Chest", "mV", "resp"),
    ],
)  # fmt: skip
def test_labels_of_sleep_recordings(label, unit, kind):
    assert split_label(label, unit) == (label, kind)


def test_labels_that_say_eeg():
    for label in ("EEG", "EEG 1", "EEG(sec)", "Fp1", "C4-A1", "F3M2", "FCC3h", "Oz", "T10", "Iz.."):
        assert says_eeg(label), label
    for label in ("Snore", "X1", "A1", "LA1", "Chin", "EEGLAB", "Temp", "F", "P300"):
        assert not says_eeg(label), label


# ------------------------------------------------------------------ headers


def test_a_header_without_scaling_is_told(tmp_path):
    signals = [
        Signal("Cz", np.arange(100), "uV", ("0", "0")),
        Signal("Pz", np.arange(100), "uV", ("-1", "1"), ("5", "5")),
        Signal("Oz", np.arange(100), "uV", ("-1", "1")),
    ]
    path = write(tmp_path / "a.edf", signals, n_records=1, reserved="")
    with pytest.warns(UserWarning, match="gives no scaling for Cz, Pz"):
        ds = ps.open_dataset(path, dtype="float64")
    assert np.isfinite(ds.signal.values).all()
    report = ps.export(ds, tmp_path / "b.edf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = ps.open_dataset(tmp_path / "b.edf", dtype="float64")
    for name, before, after in zip(
        ds.channel.values, ds.signal.values, again.signal.values, strict=True
    ):
        assert np.abs(before - after).max() <= report.quantisation_step[str(name)]


@pytest.mark.parametrize("digital", [("-2048", "2047"), ("2047", "-2048")])
@pytest.mark.parametrize("physical", [("-100,5", "204.75"), ("204.75", "-100.5"), ("1e-3", "2E+2")])
def test_reversed_and_odd_scalings_are_those_of_mne(digital, physical, tmp_path):
    values = np.random.default_rng(0).integers(-2048, 2047, 300)
    path = write(
        tmp_path / "a.edf",
        [Signal("Cz", values, "uV", physical, digital)],
        n_records=3,
        reserved="",
    )
    found = ps.open_dataset(path, dtype="float64").signal.values
    assert np.allclose(
        found, mne.io.read_raw_edf(path, verbose="error").get_data() * 1e6, rtol=1e-12, atol=1e-9
    )


def test_annotations_in_several_signals_and_not_at_the_end(tmp_path):
    path = write(
        tmp_path / "a.edf",
        [
            stamps(["0.5", "1.5"], (1, b"+1.75\x14one\x14")),
            counting(200),
            Annotations([b"+0.75\x150.25\x14two\x14three\x14\x00", b"\x00"]),
            Signal("Pz", np.arange(200)[::-1], "uV", ("-32768", "32767")),
        ],
        n_records=2,
        stated_records=-1,
        date="02.03.04",
        time="05.06.07",
        recording="",
    )
    ds = ps.open_dataset(path)
    assert np.array_equal(ds.signal.values, [np.arange(200), np.arange(200)[::-1]])
    table = ps.events_table(ds)
    assert table.label.tolist() == ["two", "three", "one"]
    assert table.onset.tolist() == [0.25, 0.25, 1.25]
    assert ds.attrs["measurement_date"] == "2004-03-02T05:06:07.500000"


@pytest.mark.parametrize(
    ("recording", "date", "expected"),
    [
        ("Startdate 02-MAR-1951 X X X", "02.03.51", "1951-03-02T05:06:07"),
        ("Startdate 02-mar-2090 X X X", "02.03.yy", "2090-03-02T05:06:07"),
        ("Startdate X X X X", "01.01.85", None),
        ("Startdate X X X X", "02.03.99", "1999-03-02T05:06:07"),
        ("Startdate X X X X measured 02-MAR-1924", "01.01.85", "1924-03-02T05:06:07"),
        ("ward 3", "01.01.85", "1985-01-01T05:06:07"),
        ("ward 3", "31.02.99", None),
        ("", "2-3-99", "1999-03-02T05:06:07"),
        ("Startdate 31-FEB-1999 X X X", "28.02.99", "1999-02-28T05:06:07"),
    ],
)
def test_dates_of_headers(recording, date, expected, tmp_path):
    path = write(
        tmp_path / "a.edf",
        [counting(100)],
        n_records=1,
        reserved="",
        recording=recording,
        date=date,
        time="05.06.07",
    )
    assert ps.open_dataset(path).attrs.get("measurement_date") == expected


def test_a_run_says_which_rates_it_leaves_as_they_are(tmp_path):
    from penstock.eeg import Crop, HighPassFilter

    path = rates(tmp_path, ("C3", "uV", 100), ("C4", "uV", 100), ("Snore", "mV", 500))
    report = ps.Pipeline([HighPassFilter(1.0)]).run(path, tmp_path / "out", progress=False)
    assert "passed on as they are (signal_500Hz" in report.notes["psg"]
    report = ps.Pipeline([Crop(1, 5)]).run(path, tmp_path / "cropped", progress=False)
    assert not report.notes
