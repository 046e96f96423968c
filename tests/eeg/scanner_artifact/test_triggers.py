"""Triggers from events and stimulus channels, and what their distances say."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.dataset import lazy_variable
from penstock.eeg.scanner_artifact.triggers import (
    STRETCH,
    TriggerDetector,
    TriggerStatistics,
    trigger_positions,
    trigger_statistics,
    with_triggers,
)


def events(*rows: tuple[float, str]) -> pd.DataFrame:
    return pd.DataFrame(
        {"onset": [r[0] for r in rows], "duration": 0.0, "label": [r[1] for r in rows]}
    )


def recording(
    *rows: tuple[float, str], stimulus: np.ndarray | None = None, **kwargs: float
) -> xr.Dataset:
    """Two EEG channels, and a stimulus channel of float32 if its values are given."""
    size = 1000 if stimulus is None else len(stimulus)
    signal = np.zeros((2, size), np.float32)
    names, types = ["Fz", "Cz"], ["eeg", "eeg"]
    if stimulus is not None:
        signal = np.vstack([signal, stimulus.astype(np.float32)[None]])
        names, types = [*names, "STI"], [*types, "stim"]
    return ps.make_dataset(
        signal,
        sampling_frequency=100.0,
        coords={"channel": names, "channel_type": ("channel", types)},
        events=events(*rows) if rows else None,
        **kwargs,  # type: ignore[arg-type]
    )


def detect(detector: TriggerDetector, ds: xr.Dataset) -> xr.Dataset:
    return detector.outline(ds, pickle.loads(pickle.dumps(detector.prepare(ds))))


# ---------------------------------------------------------------------- events


def test_finds_the_events_whose_label_matches() -> None:
    ds = recording(
        (1.0, "Scan Start"), (2.0, "R128"), (4.01, "R128"), (3.0, "blink"), (6.0, "R128")
    )
    found = detect(TriggerDetector(r"^R\d+"), ds)
    assert found.trigger_time.dims == ("trigger",)
    assert found.trigger_time.dtype == np.float64
    np.testing.assert_array_equal(found.trigger_time, [2.0, 4.01, 6.0])
    assert found.trigger_time.attrs == {
        "units": "s",
        "artifact_length": pytest.approx(2.01),
        "volume_gaps": False,
    }
    xr.testing.assert_identical(found.drop_vars("trigger_time"), ds)


def test_the_outline_of_events_needs_neither_state_nor_data() -> None:
    def read(*_: object) -> np.ndarray:
        raise AssertionError("data were read")

    variable = lazy_variable(("channel", "time"), read, (2, 1000), np.float32)
    ds = ps.make_dataset(variable, sampling_frequency=100.0, events=events((1, "a"), (2, "a")))
    detector = TriggerDetector("a")
    planned = detector.outline(ds, None)
    xr.testing.assert_identical(planned.trigger_time, detect(detector, ds).trigger_time)


def test_times_are_sorted_unique_and_inside_the_recording() -> None:
    ds = recording((3.0, "a"), (2.0, "a"), (2.0, "a"), (11.0, "a"), (1.0, "a"), (-1.0, "a"))
    np.testing.assert_array_equal(detect(TriggerDetector("a"), ds).trigger_time, [1, 2, 3])


def test_times_are_on_the_axis_of_the_recording() -> None:
    ds = recording((21.0, "a"), (22.0, "a"), start_time=20.0)
    found = detect(TriggerDetector("a"), ds)
    np.testing.assert_array_equal(found.trigger_time, [21.0, 22.0])
    np.testing.assert_allclose(trigger_positions(found), [100.0, 200.0])


def test_one_trigger_has_no_length() -> None:
    found = detect(TriggerDetector("a"), recording((1.0, "a")))
    assert found.trigger_time.attrs == {"units": "s"}


def test_a_second_detection_replaces_the_first() -> None:
    ds = recording((1.0, "a"), (2.0, "b"), (3.0, "b"))
    found = detect(TriggerDetector("b"), detect(TriggerDetector("a"), ds))
    np.testing.assert_array_equal(found.trigger_time, [2.0, 3.0])


def test_no_match_says_which_labels_there_are() -> None:
    ds = recording((1.0, "Sync On"), (2.0, "Sync On"), (3.0, "blink"))
    with pytest.raises(ValueError, match=r"regex 'R128' .*'Sync On' 2×, 'blink' 1×.*channel="):
        TriggerDetector("R128").outline(ds, None)
    with pytest.raises(ValueError, match=r"labels: none"):
        TriggerDetector("R128").outline(recording(), None)
    with pytest.raises(ValueError, match=r"all 1 events .* outside the recording"):
        TriggerDetector("a").outline(recording((99.0, "a")), None)


def test_a_broken_regex_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"'\(' is not a regular expression"):
        TriggerDetector("(")


# ---------------------------------------------------------------------- stimulus channel


def codes(*rows: tuple[int, int], size: int = 1000, width: int = 5) -> np.ndarray:
    values = np.zeros(size)
    for position, code in rows:
        values[position : position + width] = code
    return values


def test_reads_the_stimulus_channel_where_no_event_matches() -> None:
    stimulus = codes((100, 1), (200, 11), (300, 1), (400, 2))
    ds = recording((5.0, "blink"), stimulus=stimulus)
    np.testing.assert_allclose(detect(TriggerDetector("^1$"), ds).trigger_time, [1.0, 3.0])
    np.testing.assert_allclose(detect(TriggerDetector("1"), ds).trigger_time, [1.0, 2.0, 3.0])
    assert "trigger_time" not in TriggerDetector("^1$").outline(ds, None).coords


def test_events_come_before_the_stimulus_channel_unless_it_is_named() -> None:
    ds = recording((5.0, "1"), (6.0, "1"), stimulus=codes((100, 1), (300, 1)))
    np.testing.assert_allclose(detect(TriggerDetector("1"), ds).trigger_time, [5.0, 6.0])
    named = detect(TriggerDetector("1", channel="STI"), ds)
    np.testing.assert_allclose(named.trigger_time, [1.0, 3.0])


@pytest.mark.parametrize("chunks", [None, -1, 100_000])
def test_codes_are_found_as_mne_finds_them_whatever_the_stretches(chunks: int | None) -> None:
    mne = pytest.importorskip("mne")
    rng = np.random.default_rng(0)
    size = STRETCH + 5000
    stimulus = np.repeat(rng.integers(0, 4, size // 50 + 1), 50)[:size].astype(float)
    stimulus[:10] = 3
    stimulus[STRETCH - 3 : STRETCH + 3] = [0, 0, 0, 2, 2, 2]
    ds = recording(stimulus=stimulus)
    if chunks is not None:
        ds = ds.assign(signal=(ds.signal.dims, da.from_array(ds.signal.values, (1, chunks))))
    raw = mne.io.RawArray(stimulus[None], mne.create_info(["STI"], 100.0, "stim"), verbose=False)
    expected = mne.find_events(raw, initial_event=True, verbose=False)
    expected = expected[expected[:, 2] == 2, 0]
    found = trigger_positions(detect(TriggerDetector("2"), ds))
    np.testing.assert_array_equal(np.rint(found), expected)


def test_stimulus_errors_say_what_exists() -> None:
    ds = recording(stimulus=codes((100, 1), (200, 1), (300, 7)))
    with pytest.raises(ValueError, match=r"'STI' matches regex '9' \(codes: '1' 2×, '7' 1×\)"):
        TriggerDetector("9").prepare(ds)
    with pytest.raises(ValueError, match=r"no channel 'Status': stimulus channels are STI"):
        TriggerDetector("9", channel="Status").prepare(ds)


# ---------------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([10000] * 20, TriggerStatistics(10000, False)),
        ([10000, 10001, 9999, 10000], TriggerStatistics(10001, False)),
        # slices with a pause after each volume
        ([333] * 9 + [400] + [333, 334] * 4 + [333] + [400] + [333] * 9, None),
        # one trigger too many does not make the others gaps
        ([10000] * 5 + [4000, 6000] + [10000] * 5, TriggerStatistics(10000, False)),
        # one marker sample of jitter at 5 kHz, seen at 50 kHz
        ([100000, 100010, 99990, 100000] * 5, TriggerStatistics(100010, False)),
        # a single gap
        ([333] * 9 + [400] + [333] * 9, TriggerStatistics(333, True, 10)),
    ],
)
def test_statistics(distances: list[int], expected: TriggerStatistics | None) -> None:
    expected = expected or TriggerStatistics(334, True, 10)
    assert trigger_statistics(np.cumsum([17, *distances])) == expected


@settings(max_examples=50, deadline=None)
@given(
    slices=st.integers(3, 40),
    volumes=st.integers(3, 8),
    length=st.integers(20, 5000),
    gap=st.integers(10, 2000),
)
def test_slices_with_gaps(slices: int, volumes: int, length: int, gap: int) -> None:
    volume = np.arange(slices) * length
    triggers = np.concatenate([volume + k * (slices * length + gap) for k in range(volumes)])
    expected = TriggerStatistics(length, True, slices)
    # a gap is at least a thousandth of the distance
    assert trigger_statistics(triggers) == expected


def test_statistics_of_one_trigger_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        trigger_statistics(np.array([5]))


def test_triggers_do_not_depend_on_the_sampling_frequency() -> None:
    times = 1 + 0.0667 * np.arange(60) + 0.02 * (np.arange(60) // 12)
    slow = ps.make_dataset(np.zeros((1, 40_000), "f4"), sampling_frequency=5000.0)
    fast = ps.make_dataset(np.zeros((1, 400_000), "f4"), sampling_frequency=50_000.0)
    a, b = with_triggers(slow, times), with_triggers(fast, times)
    np.testing.assert_array_equal(a.trigger_time, b.trigger_time)
    assert a.trigger_time.attrs["slices_per_volume"] == 12
    assert b.trigger_time.attrs["slices_per_volume"] == 12
    lengths = [d.trigger_time.attrs["artifact_length"] for d in (a, b)]
    assert lengths[0] == pytest.approx(lengths[1], abs=1 / 5000)


def test_real_scanner_markers() -> None:
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA is not set: no real markers")
    path = Path(os.environ["PENSTOCK_DATA"]) / "eeg/eegfmri_markers/sub-36_raw.vmrk"
    rows = re.findall(r"^Mk\d+=([^,]*),([^,]*),(\d+)", path.read_text(), re.MULTILINE)
    table = pd.DataFrame(
        {
            "onset": [(int(position) - 1) / 5000 for _, _, position in rows],
            "duration": 0.0,
            "label": [f"{kind}/{text}" for kind, text, _ in rows],
        }
    )
    size = 3_640_000
    variable = lazy_variable(("channel", "time"), lambda *_: np.zeros(0), (1, size), np.float32)
    ds = ps.make_dataset(variable, sampling_frequency=5000.0, events=table)
    found = TriggerDetector("Sync On").outline(ds, None)
    assert found.sizes["trigger"] == 363
    assert found.trigger_time.attrs["artifact_length"] == 2.0
    assert found.trigger_time.attrs["volume_gaps"] is False
    with pytest.raises(ValueError, match=r"'SyncStatus/Sync On' 363×, 'New Segment/' 1×"):
        TriggerDetector("R128").outline(ds, None)
