"""What the attribute ``measurement_date`` may be, in everything that reads or moves it."""

import datetime

import numpy as np
import pytest

import penstock as ps
from penstock.dates import moved_date
from penstock.eeg import MNE, Crop

mne = pytest.importorskip("mne")
UTC = datetime.UTC


def dataset(date):
    values = np.random.default_rng(0).standard_normal((2, 400))
    attrs = {"measurement_date": date}
    return ps.make_dataset(values, sampling_frequency=100.0, units="uV").assign_attrs(attrs)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2020-01-01T23:30:00-05:00", datetime.datetime(2020, 1, 2, 4, 30, tzinfo=UTC)),
        ("2020-01-01T00:30:00+05:45", datetime.datetime(2019, 12, 31, 18, 45, tzinfo=UTC)),
        ("2020-01-01T23:30:00", datetime.datetime(2020, 1, 1, 23, 30, tzinfo=UTC)),
        ("2020-01-01T23:30:00Z", datetime.datetime(2020, 1, 1, 23, 30, tzinfo=UTC)),
        ("2020-01-01", datetime.datetime(2020, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_date_with_any_offset_is_the_same_moment_for_mne_python(text, moment, tmp_path):
    ds = dataset(text)
    assert ps.to_mne(ds).info["meas_date"] == moment
    ps.export(ds, tmp_path / "a_raw.fif")
    again = ps.open_dataset(tmp_path / "a_raw.fif").attrs["measurement_date"]
    assert datetime.datetime.fromisoformat(again) == moment
    # cropping keeps the offset as it was written
    later = ps.Pipeline([Crop(1.5)])(ds)
    expected = datetime.datetime.fromisoformat(text) + datetime.timedelta(seconds=1.5)
    assert later.attrs["measurement_date"] == expected.isoformat()
    raw = ps.to_mne(later)
    assert raw.info["meas_date"] == moment + datetime.timedelta(seconds=1.5)
    # a step of MNE-Python that does not touch the date leaves its text alone
    renamed = ps.Pipeline([MNE("set_channel_types", {"1": "eog"})])(ds)
    assert renamed.attrs["measurement_date"] == text
    set_so = ps.Pipeline([MNE("set_meas_date", text)])(dataset("2001-01-01T00:00:00"))
    assert datetime.datetime.fromisoformat(set_so.attrs["measurement_date"]) == moment


@pytest.mark.parametrize("date", ["yesterday", "2020-13-01T00:00:00", "1.4.2020", 7])
def test_what_is_no_date_is_told_in_one_sentence(date, tmp_path):
    ds = dataset(date)
    sentence = rf"^the attribute measurement_date is '{date}', no date and time as .* delete it$"
    with pytest.raises(ValueError, match=sentence):
        ps.to_mne(ds)
    with pytest.raises(ValueError, match=sentence):
        ps.export(ds, tmp_path / "a_raw.fif")
    with pytest.raises(ValueError, match="no date and time as"):
        ps.Pipeline([Crop(1.0)])(ds)
    for part in (ds, ds.sel(time=slice(1.0, 3.0))):
        with pytest.raises(ValueError, match=sentence):
            ps.export(part, tmp_path / "a.edf")
    assert not list(tmp_path.iterdir())


def test_dates_beyond_the_calendar():
    with pytest.raises(ValueError, match="no calendar has a date"):
        moved_date(datetime.datetime(9999, 12, 31, 23, 59), 3600.0)
    with pytest.raises(ValueError, match="which has no date in UTC"):
        ps.to_mne(dataset("0001-01-01T00:30:00+05:00"))
