"""Pictures of recordings: what they show is compared with the numbers they are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import xarray as xr

import penstock as ps
from penstock.dataset import lazy_variable
from penstock.eeg import plot_psd, plot_traces, simulate
from penstock.eeg.plots import channels as drawn_channels

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

RATE = 200.0


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture
def recording() -> xr.Dataset:
    rng = np.random.default_rng(3)
    ds = ps.make_dataset(
        rng.standard_normal((5, 6000)) * 20 + np.arange(5)[:, np.newaxis] * 1000,
        sampling_frequency=RATE,
        start_time=2.0,
        units="uV",
        coords={
            "channel": ["Fz", "Cz", "Pz", "ECG", "STI"],
            "channel_type": ("channel", ["eeg", "eeg", "eeg", "ecg", "stim"]),
            "channel_unit": ("channel", ["uV", "uV", "uV", "mV", ""]),
            "bad": ("channel", [False, True, False, False, False]),
        },
    )
    table = {"onset": [3.0, 4.0, 20.0], "duration": [0.0, 1.0, 0.0], "label": ["go", "BAD_x", "no"]}
    return ps.with_events(ds, table)


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_traces_are_the_values_of_the_stretch(recording: xr.Dataset) -> None:
    ax = plot_traces(recording, start=3.0, duration=2.0, scaling=100.0)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Fz", "Cz (bad)", "Pz", "ECG"]
    assert ax.lines[1].get_color() != ax.lines[0].get_color()
    values = recording.signal.values[2, 200:600]
    shown = ax.lines[2]
    assert np.allclose(shown.get_xdata(), 3.0 + np.arange(400) / RATE)
    assert np.allclose(shown.get_ydata(), (values - np.median(values)) / 100 - 2)
    assert ax.get_title("right") == "a row: eeg 100 µV, ecg 100 mV"
    assert texts(ax) == ["go", "BAD_x"]
    assert texts(plot_traces(recording, start=3.0, events=False)) == []


def test_a_row_stands_for_a_round_number_by_channel_type(recording: xr.Dataset) -> None:
    # (99 of 100 normal values lie within 2.33 deviations around the mean: 93 uV of 20 uV each)
    told = plot_traces(recording, duration=20.0).get_title("right")
    assert told == "a row: eeg 100 µV, ecg 100 mV"
    chosen = plot_traces(recording, scaling={"eeg": 50.0}).get_title("right")
    assert chosen == "a row: eeg 50 µV, ecg 100 mV"
    with pytest.raises(ValueError, match=r"scaling=0\.0 must be above 0"):
        plot_traces(recording, scaling=0.0)


def test_no_peak_of_a_long_stretch_is_lost_and_little_is_read_at_once(monkeypatch) -> None:
    n = 300_000
    sizes = []

    def read(rows, times):
        block = np.zeros((4, n), np.float32)
        block[2, 123_456] = 7.0
        block[2, 5] = -3.0
        block[1] = np.nan
        part = block[rows, times]
        sizes.append(part.size)
        return part

    ds = ps.make_dataset(
        lazy_variable(("channel", "time"), read, (4, n), np.float32), sampling_frequency=RATE
    )
    monkeypatch.setattr(drawn_channels, "PIECE_BYTES", 1 << 18)
    monkeypatch.setattr("penstock.eeg.plots.traces.PIECE_BYTES", 1 << 18)
    ax = plot_traces(ds, duration=1e6, scaling=1.0)
    drawn = ax.lines[2].get_ydata() + 2
    assert drawn.max() == 7.0
    assert drawn.min() == -3.0
    assert len(drawn) < 5000
    assert max(sizes) <= 1 << 15
    assert sum(sizes) == 4 * n
    place = ax.lines[2].get_xdata()[np.argmax(drawn)]
    assert place == pytest.approx(123_456 / RATE, abs=n / RATE / 2000)


def test_the_first_of_many_channels_are_drawn() -> None:
    ds = ps.make_dataset(np.zeros((30, 100)), sampling_frequency=10.0)
    ax = plot_traces(ds)
    assert len(ax.lines) == 20
    assert ax.get_title("left") == "20 of 30 channels"
    assert len(plot_traces(ds, n_channels=None).lines) == 30
    one = plot_traces(ds, picks=["4"])
    assert [label.get_text() for label in one.get_yticklabels()] == ["4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 99.0}, "start=99 s lies outside of the recording, which goes from 2 to 31.995"),
        ({"start": 1.0}, "lies outside of the recording"),
        ({"duration": 0.0}, "duration=0.0 must be a length above 0 s"),
        ({"picks": ["Xz"]}, "no channel 'Xz'"),
    ],
)
@pytest.mark.parametrize("plot", [plot_traces, plot_psd])
def test_what_is_not_there_is_told(plot, options, message, recording: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=message):
        plot(recording, **options)


@pytest.mark.parametrize("plot", [plot_traces, plot_psd])
def test_other_data_are_refused(plot, recording: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="must have the dims channel and time"):
        plot(recording.isel(channel=0))
    with pytest.raises(ValueError, match="must hold real numbers"):
        plot(recording.assign(signal=recording.signal * 1j))


@pytest.mark.parametrize("piece", [1 << 14, 1 << 22])
@pytest.mark.parametrize("window", [1.0, 2.005, 500.0])
def test_spectra_are_those_of_scipy_however_they_are_read(
    window: float, piece: int, recording: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.eeg.plots.spectra.PIECE_BYTES", piece)
    ds = recording.drop_dims("event")
    ax = plot_psd(ds, window=window, duration=None, dB=False)
    length = min(6000, round(window * RATE))
    expected = scipy.signal.welch(ds.signal.values[:3], RATE, nperseg=length)
    for line, power in zip(ax.lines, expected[1], strict=True):
        assert np.allclose(line.get_xdata(), expected[0])
        assert np.allclose(line.get_ydata(), power, rtol=1e-9)
    assert ax.get_ylabel() == "power [µV²/Hz]"
    assert ax.get_yscale() == "log"


def test_spectra_leave_out_what_is_marked_bad_and_what_is_missing(recording: xr.Dataset) -> None:
    values = recording.signal.values.copy()
    values[:, 400:600] += 1e6  # (the event BAD_x)
    values[0, 1000] = np.nan
    ds = recording.assign(signal=recording.signal.copy(data=values))
    ax = plot_psd(ds, picks=["Fz", "Pz"], window=1.0, dB=False)
    clean = recording.signal.values[2]
    parts = [
        scipy.signal.spectrogram(part, RATE, "hann", 200, 100)[2]
        for part in (clean[:400], clean[600:])
    ]
    expected = np.concatenate(parts, axis=1).mean(axis=1)
    assert np.allclose(ax.lines[1].get_ydata(), expected)
    assert np.isfinite(ax.lines[0].get_ydata()).all()


def test_a_part_of_a_spectrum_in_decibels(recording: xr.Dataset) -> None:
    ax = plot_psd(recording, fmin=5.0, fmax=40.0, window=1.0)
    assert ax.get_xlim() == (5.0, 40.0)
    assert ax.get_ylabel() == "power [dB re 1 µV²/Hz]"
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["Fz", "bad: Cz", "Pz"]
    with pytest.raises(ValueError, match="no frequency lies between fmin=400 and fmax=100 Hz"):
        plot_psd(recording, fmin=400.0)
    with pytest.raises(ValueError, match=r"several units \(mV, uV\): pick those of one"):
        plot_psd(recording, picks=["Fz", "ECG"])
    with pytest.raises(ValueError, match="window=0"):
        plot_psd(recording, window=0)


def test_many_spectra_have_a_median() -> None:
    ds = simulate.recording(12, duration=20.0, sampling_frequency=100.0)
    ax = plot_psd(ds)
    assert len(ax.lines) == 13
    middle = np.median([line.get_ydata() for line in ax.lines[:-1]], axis=0)
    assert np.allclose(ax.lines[-1].get_ydata(), middle)


def test_lazy_results_are_drawn_into_axes_that_are_given(recording: xr.Dataset) -> None:
    import matplotlib.pyplot as plt

    _, (above, below) = plt.subplots(2)
    lazy = ps.Pipeline([ps.eeg.BandPassFilter(8.0, 12.0)])(recording)
    assert plot_traces(lazy, ax=above) is above
    assert plot_psd(lazy, picks="Fz", ax=below) is below
    line = below.lines[0]
    assert 8.0 <= line.get_xdata()[np.argmax(line.get_ydata())] <= 12.0


def test_before_and_after_are_medians_of_what_both_have(recording: xr.Dataset) -> None:
    after = ps.Pipeline([ps.eeg.PickChannels(("Pz", "Fz", "ECG")), ps.eeg.Resample(100.0)])(
        recording
    )
    ax = ps.eeg.plot_before_after(recording, after, picks="eeg", duration=None, window=1.0)
    assert ax.get_title("left") == "median of 2 channels"
    power = scipy.signal.welch(recording.signal.values[[0, 2], 1000:], RATE, nperseg=200)[1]
    before, later = ax.lines
    assert before.get_xdata().max() == 62.0
    assert later.get_xdata().max() == 50.0
    assert np.allclose(before.get_ydata(), 10 * np.log10(np.median(power, axis=0))[:63], atol=1.0)
    other = recording.assign_coords(channel=list("abcde"))
    with pytest.raises(ValueError, match="share no channel"):
        ps.eeg.plot_before_after(recording, other)
    with pytest.raises(ValueError, match="several units"):
        ps.eeg.plot_before_after(recording, after, picks=["Pz", "ECG"])


def test_pictures_stand_in_the_page_of_a_run(recording: xr.Dataset, tmp_path: Path) -> None:
    ps.export(recording.isel(channel=slice(0, 3)), tmp_path / "a.edf")
    pipeline = ps.Pipeline([ps.eeg.LowPassFilter(30.0)])
    sources = {"a": tmp_path / "a.edf", "memory": recording}
    report = pipeline.run(sources, tmp_path / "out", progress=False)
    assert "data:image/png" not in report.path.read_text()
    assert ps.eeg.add_pictures(report) is report
    assert list(report.figures) == ["a: spectra before and after"]
    assert report.path.read_text().count("data:image/png") == 1
    assert report.notes["memory"] == "no picture: it does not say what it was made of"


def test_the_plot_of_one_channel_names_it(recording: xr.Dataset, tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    ps.export(recording.isel(channel=slice(0, 3)), tmp_path / "a.edf")
    ps.Pipeline([np.abs]).run(recording, tmp_path, progress=False)
    for ds in (
        recording,
        ps.open_dataset(tmp_path / "a.edf"),
        ps.open_dataset(tmp_path / "dataset.zarr"),
        ps.Pipeline([ps.eeg.HighPassFilter(1.0)])(recording),
    ):
        plt.figure()
        ds.signal.sel(channel="Pz").plot()
        assert "channel = Pz" in plt.gca().get_title()
