"""Methods of `mne.io.Raw` as steps: everything that they change changes, or they are refused."""

import copy
import datetime
import functools
import json
import pickle
from pathlib import Path

import mne
import numpy as np
import pytest

import penstock as ps
from penstock.eeg import MNE, PickChannels
from penstock.eeg.mne_methods.table import ACCEPTED, REFUSED
from penstock.io.bids.electrodes import POSITION
from penstock.planning.chain import Chain
from penstock.testing import check_processor, raise_if_computes

mne.set_log_level("ERROR")

DATE = datetime.datetime(2021, 5, 4, 10, 30, tzinfo=datetime.UTC)
SECRETS = ("Doe", "Jane", "Quentin", "XK-77", "19630", "1963", "2021", "Ward", "PATIENT", "DR. WHO")


def recording(*, projections: bool = True) -> mne.io.BaseRaw:
    raw = described_recording().copy()
    with raw.info._unlock():  # (copies of a Raw share what projections hold)
        raw.info["projs"] = [mne.Projection(**copy.deepcopy(dict(p))) for p in raw.info["projs"]]
    return raw if projections else raw.del_proj()


@functools.cache
def described_recording() -> mne.io.BaseRaw:
    """A recording that has something of everything an `mne.Info` can hold."""
    rng = np.random.default_rng(3)
    names = ["Fp1", "Fp2", "C3", "C4", "Pz", "O1", "O2", "HEOG", "STI", "RESP"]
    types = ["eeg"] * 7 + ["eog", "stim", "misc"]
    info = mne.create_info(names, 200.0, types)
    data = rng.standard_normal((10, 3000)).cumsum(axis=1) * 1e-6
    data[8] = 0
    data[8, 300::400] = 3
    raw = mne.io.RawArray(data, info, first_samp=600)
    raw.set_montage("standard_1020", on_missing="ignore")
    raw.set_meas_date(DATE)
    raw.info["subject_info"] = {
        "id": 77,
        "his_id": "XK-77",
        "last_name": "Doe",
        "first_name": "Jane",
        "middle_name": "Quentin",
        "birthday": datetime.date(1963, 2, 1),
        "sex": 2,
        "hand": 1,
        "weight": 61.0,
        "height": 1.7,
    }
    raw.info["experimenter"] = "DR. WHO"
    raw.info["description"] = "PATIENT of Ward 9"
    raw.info["line_freq"] = 50.0
    raw.info["device_info"] = {"type": "amplifier", "serial": "XK-77", "site": "Ward 9"}
    raw.info["bads"] = ["C4"]
    annotations = mne.Annotations(
        [4.0, 6.0, 9.0],
        [0.0, 0.0, 1.0],
        ["go", "EDGE boundary", "BAD_ACQ_SKIP"],
        orig_time=DATE,
        ch_names=[("C3",), (), ()],
    )
    raw.set_annotations(annotations)
    raw.add_proj(mne.compute_proj_raw(raw, n_eeg=1, n_mag=0, n_grad=0))
    return raw


def centred(row: np.ndarray) -> np.ndarray:
    return row - row.mean()


PROJECTION = recording().info["projs"][0]
MONTAGE = mne.channels.make_dig_montage(
    {"Fp1": [0.01, 0.08, 0.03], "C3": [-0.05, 0.0, 0.08]}, nasion=[0.0, 0.1, 0.0]
)
ANNOTATIONS = mne.Annotations([1.0, 2.5], [0.5, 0.0], ["a", "b"])

EXAMPLES: list[tuple[str, dict]] = [
    ("add_proj", {"projs": [PROJECTION], "remove_existing": True}),
    ("add_proj", {"projs": PROJECTION}),
    ("add_reference_channels", {"ref_channels": "Cz"}),
    ("add_reference_channels", {"ref_channels": ["Cz", "TP9"]}),
    ("anonymize", {}),
    ("anonymize", {"daysback": 1234}),
    ("anonymize", {"keep_his": True}),
    ("apply_function", {"fun": np.abs}),
    ("apply_function", {"fun": centred, "picks": ["C3", "HEOG"]}),
    ("apply_hilbert", {"envelope": True}),
    ("apply_proj", {}),
    ("crop", {"tmin": 2.0, "tmax": 11.0}),
    ("crop", {"tmin": 1.5}),
    ("del_proj", {}),
    ("del_proj", {"idx": 0}),
    ("drop_channels", {"ch_names": ["C3", "STI"]}),
    ("filter", {"l_freq": 1.0, "h_freq": 40.0}),
    ("filter", {"l_freq": 1.0, "h_freq": 40.0, "picks": ["C3"]}),
    ("filter", {"l_freq": None, "h_freq": 30.0, "method": "iir"}),
    ("filter", {"l_freq": 70.0, "h_freq": 30.0}),
    ("interpolate_bads", {}),
    ("interpolate_bads", {"reset_bads": False}),
    ("notch_filter", {"freqs": [50.0]}),
    ("pick", {"picks": "eeg"}),
    ("pick", {"picks": ["O1", "C3", "STI"]}),
    ("pick", {"picks": "eeg", "exclude": "bads"}),
    ("pick_channels", {"ch_names": ["O1", "C3"]}),
    ("pick_types", {"eeg": True}),
    ("pick_types", {"eeg": True, "eog": True, "exclude": []}),
    ("rename_channels", {"mapping": {"C3": "C5", "STI": "TRIGGER"}}),
    ("rename_channels", {"mapping": {"C3": "O1", "O1": "C3"}}),
    ("reorder_channels", {"ch_names": ["STI", "O2", "C4", "Fp1"]}),
    ("resample", {"sfreq": 100.0}),
    ("resample", {"sfreq": 160.0}),
    ("rescale", {"scalings": {"eeg": 2.0}}),
    ("savgol_filter", {"h_freq": 30.0}),
    ("set_annotations", {"annotations": ANNOTATIONS}),
    ("set_annotations", {"annotations": None}),
    ("set_channel_types", {"mapping": {"HEOG": "ecg", "Fp1": "seeg"}}),
    ("set_channel_types", {"mapping": {"RESP": "stim", "C3": "temperature", "STI": "misc"}}),
    ("set_eeg_reference", {"ref_channels": "average"}),
    ("set_eeg_reference", {"ref_channels": ["C3", "O1"]}),
    ("set_eeg_reference", {"ref_channels": "average", "projection": True}),
    ("set_meas_date", {"meas_date": datetime.datetime(2000, 1, 1, 5, tzinfo=datetime.UTC)}),
    ("set_meas_date", {"meas_date": None}),
    ("set_montage", {"montage": "biosemi64", "on_missing": "ignore"}),
    ("set_montage", {"montage": MONTAGE, "on_missing": "ignore"}),
    ("set_montage", {"montage": None}),
]


def label(value: object) -> str:
    return repr(value)[:60]


def differences(found: mne.Info, expected: mne.Info) -> str:
    """What two descriptions do not have in common, calibration factors aside."""
    pair = [copy.deepcopy(found), copy.deepcopy(expected)]
    for info in pair:
        for channel in info["chs"]:
            channel["cal"] = channel["range"] = 1.0
        if info["lowpass"] is not None:
            info._unlocked = True
            info["lowpass"] = min(info["lowpass"], info["sfreq"] / 2)
            info._unlocked = False
    return mne.utils.object_diff(*pair)


def test_every_method_is_accepted_or_refused() -> None:
    """None is left over when MNE-Python grows; those that older versions lack do no harm."""
    public = {
        name
        for name in dir(mne.io.BaseRaw)
        if not name.startswith("_") and callable(getattr(mne.io.BaseRaw, name))
    }
    assert public <= set(ACCEPTED) | set(REFUSED)
    assert not set(ACCEPTED) & set(REFUSED)
    assert {method for method, _ in EXAMPLES} == set(ACCEPTED)


@pytest.mark.parametrize(("method", "arguments"), EXAMPLES, ids=label)
def test_a_method_changes_all_that_it_changes_in_mne(method: str, arguments: dict) -> None:
    # (beside projections that are not applied MNE-Python makes no reference and changes no types)
    hindered = ("reference" in method and "projection" not in arguments) or "types" in method
    raw = recording(projections=not hindered)
    before = recording(projections=not hindered)
    with raise_if_computes():
        lazy = ps.Pipeline([MNE(method, **arguments)])(ps.from_mne(raw))
    found = ps.to_mne(lazy, preload=True)
    expected = recording(projections=not hindered)
    called = getattr(expected, method)(**copy.deepcopy(arguments))
    expected = called if isinstance(called, mne.io.BaseRaw) else expected
    assert found.ch_names == expected.ch_names
    assert found.get_channel_types() == expected.get_channel_types()
    assert differences(found.info, expected.info) == ""
    assert found.first_samp == expected.first_samp
    assert found.n_times == expected.n_times
    assert np.allclose(found.annotations.onset, expected.annotations.onset, atol=1e-9, rtol=0)
    assert np.allclose(found.annotations.duration, expected.annotations.duration)
    assert list(found.annotations.description) == list(expected.annotations.description)
    assert [tuple(n) for n in found.annotations.ch_names] == [
        tuple(n) for n in expected.annotations.ch_names
    ]
    assert found.annotations.orig_time == expected.annotations.orig_time
    scale = np.abs(expected.get_data()).max(axis=1, keepdims=True) + 1e-30
    assert (np.abs(found.get_data() - expected.get_data()) / scale).max() < 1e-9
    # and the input is what it was
    assert differences(raw.info, before.info) == ""


@pytest.mark.parametrize("dtype", ["f8", "f4"])
@pytest.mark.parametrize(
    "step",
    [
        MNE("set_channel_types", {"RESP": "stim", "C3": "temperature"}),
        MNE("interpolate_bads"),
        MNE("apply_proj"),
        MNE("add_reference_channels", "Cz"),
        MNE("rescale", {"eeg": 2.0}),
        MNE("anonymize"),
        MNE("pick", ["O1", "C3"]),
        MNE("crop", 1.0, 9.0),
        MNE("set_montage", MONTAGE, on_missing="ignore"),
        MNE("set_annotations", ANNOTATIONS),
        MNE("add_proj", [PROJECTION]),
        MNE("set_meas_date", DATE),
    ],
    ids=label,
)
def test_contract(step: MNE, dtype: str) -> None:
    ds = ps.from_mne(
        recording(projections=step.method not in ("add_reference_channels", "set_channel_types"))
    )
    ds = ds.assign(signal=ds.signal.load().astype(dtype))
    check_processor(step, ds)
    assert pickle.loads(pickle.dumps(step)) == step


def test_steps_after_a_method_see_what_it_changed() -> None:
    ds = ps.from_mne(recording(projections=False))
    steps = [
        MNE("rename_channels", {"C3": "left"}),
        MNE("add_reference_channels", "Cz"),
        MNE("set_channel_types", {"HEOG": "misc"}),
        PickChannels(("Cz", "left", "O1")),
        MNE("set_eeg_reference", ["Cz"]),
    ]
    made = ps.Pipeline(steps)(ds)
    assert made.channel.values.tolist() == ["Cz", "left", "O1"]
    assert made.channel_type.values.tolist() == ["eeg"] * 3
    assert np.allclose(made.signal.values[1:], ds.sel(channel=["C3", "O1"]).signal.values)
    assert not made.signal.values[0].any()


def test_a_montage_comes_before_positions_that_a_dataset_had() -> None:
    ds = ps.from_mne(recording(projections=False))
    places = np.full(10, 0.05)
    ds = ds.assign_coords({name: ("channel", places) for name in POSITION})
    made = ps.Pipeline([MNE("set_montage", "standard_1020", on_missing="ignore")])(ds)
    found = ps.to_mne(made).get_montage().get_positions()["ch_pos"]["O1"]
    expected = recording().get_montage().get_positions()["ch_pos"]["O1"]
    assert np.allclose(found, expected)


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_a_refused_method_says_what_to_do_instead(method: str) -> None:
    with pytest.raises(ValueError, match=rf"MNE\('{method}'\) is no step of a pipeline: \w+"):
        MNE(method)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MNE("fliter"), r"no method 'fliter' .* did you mean 'filter'"),
        (lambda: MNE("_data"), r"name of a method"),
        (lambda: MNE("apply_hilbert"), r"complex"),
        (lambda: MNE("resample"), r"needs sfreq"),
        (lambda: MNE("resample", sfreq=100.0, events=[[1, 0, 1]]), r"no events as a step"),
        (lambda: MNE("crop", tmin=3.0, tmax=2.0), r"must not be before"),
        (lambda: MNE("crop", reset_first_samp=True), r"leave reset_first_samp out"),
    ],
)
def test_errors_when_made(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (MNE("rename_channels", {"nowhere": "x"}), ValueError, r"MNE\('rename_channels'\): .*"),
        (MNE("pick", "seeg"), ValueError, r"MNE\('pick'\): .*"),
        (MNE("set_montage", "no such cap"), ValueError, r"MNE\('set_montage'\): .*"),
        (MNE("filter", 1.0, 40.0, pick="eeg"), TypeError, r"MNE\('filter'\): .*pick"),
        (MNE("set_meas_date", "yesterday"), ValueError, r"'yesterday' is no date"),
    ],
    ids=label,
)
def test_errors_when_applied_are_one_sentence(step: MNE, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        Chain(ps.from_mne(recording())).then(step)
    assert "\n" not in str(caught.value)


OWN = [
    (ps.eeg.BandPassFilter(1.0, 40.0), lambda raw: raw.filter(1.0, 40.0)),
    (ps.eeg.HighPassFilter(1.0, picks=("C3",)), lambda raw: raw.filter(1.0, None, picks=["C3"])),
    (ps.eeg.LowPassFilter(30.0, method="iir"), lambda raw: raw.filter(None, 30.0, method="iir")),
    (ps.eeg.Filter(70.0, 30.0), lambda raw: raw.filter(70.0, 30.0)),
    (ps.eeg.NotchFilter(50.0), lambda raw: raw.notch_filter(50.0)),
    (ps.eeg.Rereference(), lambda raw: raw.set_eeg_reference()),
    (ps.eeg.Resample(100.0, "fft", ()), lambda raw: raw.resample(100.0)),
    (ps.eeg.Crop(2.0, 11.0), lambda raw: raw.crop(2.0, 11.0)),
    (ps.eeg.DropChannels("C3"), lambda raw: raw.drop_channels("C3")),
]


@pytest.mark.parametrize(("processor", "apply"), OWN, ids=lambda v: repr(v)[:60])
def test_own_processors_describe_what_they_did_as_mne_does(processor, apply) -> None:
    raw = recording(projections=False)
    if isinstance(processor, ps.eeg.Rereference):
        raw.set_eeg_reference(projection=True)
    found = ps.to_mne(ps.Pipeline([processor])(ps.from_mne(raw)), preload=True)
    expected = apply(raw)
    assert differences(found.info, expected.info) == ""
    assert found.first_samp == expected.first_samp
    assert np.allclose(found.annotations.onset, expected.annotations.onset, atol=1e-9, rtol=0)
    assert list(found.annotations.description) == list(expected.annotations.description)
    assert np.allclose(found.get_data(), expected.get_data(), rtol=0, atol=1e-12)


# ---------------------------------------------------------------------- privacy


@pytest.mark.parametrize("format", ["zarr", "fif", "edf"])
@pytest.mark.parametrize("source", ["fif", "edf"])
def test_nothing_of_an_anonymised_recording_says_who_it_was(
    tmp_path: Path, format: str, source: str
) -> None:
    raw = recording()
    raw.set_annotations(None)
    folder = tmp_path / "DR. WHO" / "Ward"
    folder.mkdir(parents=True)
    path = folder / f"Jane_Doe_XK-77_raw.{source}"
    if source == "fif":
        raw.save(path)
    else:
        ds = ps.from_mne(raw).drop_sel(channel="C4")
        ds.attrs["edf_patient"] = "XK-77 F 01-FEB-1963 Jane_Quentin_Doe"
        ds.attrs["edf_recording"] = "Startdate 04-MAY-2021 PATIENT DR._WHO Ward_9"
        ps.export(ds, path)
        ps.open_dataset(path)
    out = tmp_path / "out"
    steps = [MNE("anonymize", daysback=4321), MNE("filter", 1.0, 40.0)]
    report = ps.Pipeline(steps).run({"one": path}, out, format=format)
    assert not report.failed, report.failed
    texts = [file.read_bytes() for file in out.rglob("*") if file.is_file()]
    content = b"\n".join(texts)
    assert b"anonymize" in content
    for secret in (*SECRETS, "4321", str(path.parent)):
        assert secret.encode() not in content, secret
        assert secret.encode("utf-16-le") not in content, secret
    made = ps.open_dataset(next(out.glob("one*[rf]")))
    assert made.attrs["measurement_date"].startswith("2009-07-05T10:30:03")
    if format == "zarr":
        about = json.loads((out / "one.zarr" / "zarr.json").read_text())["attributes"]["penstock"]
        assert about["source"] == {"withheld": "anonymised"}
        again = ps.Pipeline(steps).run({"one": path}, out, format=format)
        assert again.skipped == ["one"]


def test_an_anonymised_dataset_keeps_no_attributes_of_its_source(tmp_path: Path) -> None:
    ds = ps.from_mne(recording()).assign_attrs(
        source="/home/doe/Jane.edf", edf_patient="Jane Doe", subject="Jane", note="Ward 9"
    )
    made = ps.Pipeline([MNE("anonymize")])(ds)
    text = repr(sorted(made.attrs.items())) + repr(made.signal.encoding)
    for secret in SECRETS:
        assert secret not in text
    assert ds.attrs["subject"] == "Jane"
    info = ps.to_mne(made).info
    assert info["subject_info"]["last_name"] == "mne_anonymize"


def test_the_page_for_users_says_what_the_code_says() -> None:
    from mne_page import PAGE, page_with_tables

    text = PAGE.read_text(encoding="utf-8")
    assert text == page_with_tables(text), "run python tests/eeg/mne_page.py"
