"""Pipelines as Python, YAML and JSON: nothing is lost on the way, and a file can do no harm."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import xarray as xr
from generic import Demean, MovingAverage
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock import eeg
from penstock.eeg import (
    MNE,
    AASCorrection,
    BandPassFilter,
    Crop,
    DownSample,
    DropChannels,
    Filter,
    HighPassFilter,
    LowPassFilter,
    NotchFilter,
    PickChannels,
    Rereference,
    Resample,
    Scale,
    TriggerDetector,
    UpSample,
)
from penstock.processor import Processor, registered_processors

PROCESSORS = {name for name in eeg.__all__ if isinstance(getattr(eeg, name), type)}
EXAMPLES: list[Processor] = [
    Filter(1.0, 40.0, picks=("Cz", "eog"), filter_length="10s", fir_window="hann"),
    Filter(None, 0.1 + 0.2, method="iir", iir_order=6, phase="forward"),
    HighPassFilter(0.3, picks="all", trans_bandwidth=0.25, phase="minimum"),
    LowPassFilter(1e-3, filter_length=33001),
    BandPassFilter(8.0, 12.0, l_trans_bandwidth=1.5, h_trans_bandwidth="auto"),
    NotchFilter((50.0, 100.0), notch_widths=(0.5, 1.0), trans_bandwidth=0.75),
    NotchFilter(60.0),
    Resample(256 / 3, method="fft"),
    UpSample(7, method="fft"),
    DownSample(3),
    Crop(1.25, 1e9, include_tmax=False),
    PickChannels(("Fp1", "Größe µ", "yes", "12", "null"), on_missing="ignore"),
    DropChannels("~"),
    Rereference(("TP9", "TP10"), picks="eeg", exclude_bads=False),
    Scale(picks=("eeg", "mag"), with_mean=False, with_std=False),
    TriggerDetector(r"^S\s+(1|2): 'x' # no \"comment\"$", channel="STI 014"),
    AASCorrection(
        12, 0.9, "integer", "block", 0.25, -0.01, 1.95, 0.003, ("Cz", "Pz"), picks=("eeg",)
    ),
    MNE("filter", l_freq=1.0, h_freq=None, picks=["Cz"], method="iir", iir_params={"order": 2}),
    MNE("resample", sfreq=100.0),
]


def round_trips(pipeline: ps.Pipeline) -> list[ps.Pipeline]:
    return [
        ps.Pipeline.from_yaml(pipeline.to_yaml()),
        ps.Pipeline.from_json(pipeline.to_json()),
        ps.Pipeline.from_dict(pipeline.to_dict()),
        ps.Pipeline.from_dict(json.loads(json.dumps(pipeline.to_dict()))),
        pickle.loads(pickle.dumps(pipeline)),
    ]


def same(pipeline: ps.Pipeline, other: ps.Pipeline) -> None:
    assert other == pipeline
    assert other.canonical() == pipeline.canonical()
    assert hash(other) == hash(pipeline)
    assert repr(other) == repr(pipeline)


def test_every_processor_has_an_example() -> None:
    assert {type(processor).__name__ for processor in EXAMPLES} == PROCESSORS
    known = {name for name in registered_processors() if name.startswith("penstock.eeg.")}
    assert known == {f"penstock.eeg.{name}" for name in PROCESSORS}


@pytest.mark.parametrize("processor", EXAMPLES, ids=repr)
def test_round_trip(processor: Processor) -> None:
    for again in round_trips(ps.Pipeline([processor])):
        same(ps.Pipeline([processor]), again)


def test_round_trip_of_all_at_once_through_a_file(tmp_path: Path) -> None:
    pipeline = ps.Pipeline(EXAMPLES)
    path = tmp_path / "all.yaml"
    pipeline.to_yaml(path)
    same(pipeline, ps.Pipeline.from_yaml(path))
    same(pipeline, ps.Pipeline.from_yaml(str(path)))
    assert "!!" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("processor", EXAMPLES, ids=repr)
def test_python_form_can_be_pasted(processor: Processor) -> None:
    assert eval(repr(processor), vars(eeg)) == processor


# ---------------------------------------------------------------------- any parameters


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values_of(arguments[0]), min_size=1, max_size=3).map(tuple)
    if arguments:  # a union
        return st.one_of(*(values_of(argument) for argument in arguments))
    names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
    return {
        bool: st.booleans(),
        int: st.integers(1, 10**9),
        float: st.floats(1e-9, 1e9),
        str: names,
        type(None): st.none(),
    }[hint]


@st.composite
def processors(draw: st.DrawFn) -> Processor:
    """A processor with any parameters that it accepts."""
    cls = draw(st.sampled_from([getattr(eeg, name) for name in sorted(PROCESSORS - {"MNE"})]))
    hints = typing.get_type_hints(cls)
    given = {
        field.name: draw(values_of(hints[field.name]))
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING or draw(st.booleans())
    }
    try:
        return cls(**given)
    except ValueError:
        from hypothesis import reject

        reject()


@settings(max_examples=150, deadline=None)
@given(st.lists(processors(), max_size=3))
def test_round_trip_of_any_parameters(items: list[Processor]) -> None:
    pipeline = ps.Pipeline(items)
    for again in round_trips(pipeline):
        same(pipeline, again)


# ---------------------------------------------------------------------- ways to write it


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- HighPassFilter: 1.0", HighPassFilter(1.0)),
        ("- HighPassFilter: 1", HighPassFilter(1.0)),
        ("- HighPassFilter: [1.0, all]", HighPassFilter(1.0, picks="all")),
        ("- HighPassFilter: {freq: 1.0, picks: [Cz, eog]}", HighPassFilter(1.0, ("Cz", "eog"))),
        ("- Rereference", Rereference()),
        ("- Rereference:", Rereference()),
        ("- Scale: {}", Scale()),
        ("- penstock.eeg.Scale: {with_std: false}", Scale(with_std=False)),
        ("- NotchFilter: {freqs: [50, 100]}", NotchFilter((50.0, 100.0))),
        ("- TriggerDetector: '^1$'", TriggerDetector("^1$")),
        ("- MNE: {method: filter, l_freq: 1, h_freq: null}", MNE("filter", l_freq=1, h_freq=None)),
        ("- MNE: {method: filter, kwargs: {l_freq: 1, h_freq: 4, method: iir}}",
         MNE("filter", l_freq=1, h_freq=4, method="iir")),
        ("- Apply: {function: 'numpy:abs', core_dims: []}", ps.Apply(np.abs, core_dims=())),
        ("- Apply: numpy:abs", ps.Apply(np.abs)),
        ("- Apply: [numpy:round, {decimals: 2}]", ps.Apply(np.round, {"decimals": 2})),
        ("- Apply: {function: 'scipy.signal:detrend', kwargs: {type: constant}}",
         ps.Apply(scipy.signal.detrend, {"type": "constant"})),
    ],
)  # fmt: skip
@pytest.mark.parametrize("head", ["pipeline:\n", "", "penstock: 1\npipeline:\n"])
def test_short_forms(text: str, expected: Processor, head: str) -> None:
    made = ps.Pipeline.from_yaml(f"{head}{text}\n")
    same(ps.Pipeline([expected]), made)


def test_composition() -> None:
    high, low, pick = HighPassFilter(1.0), LowPassFilter(40.0), PickChannels("eeg")
    whole = ps.Pipeline([high, low, pick])
    assert high | low | pick == whole
    assert high | (low | pick) == whole
    assert ps.Pipeline([high]) | ps.Pipeline([low, pick]) == whole
    assert (high | np.abs)[1] == ps.Apply(np.abs)
    assert len(whole) == 3
    assert whole[1] == low
    assert whole[:2] == high | low
    assert list(whole) == [high, low, pick]
    assert {whole: "a"}[high | low | pick] == "a"
    assert whole != high | pick
    with pytest.raises(TypeError, match=r"write HighPassFilter\(\.\.\.\)"):
        high | HighPassFilter
    with pytest.raises(TypeError, match="holds processors and functions"):
        high | 3


def test_equal_parameters_make_one_processor() -> None:
    assert HighPassFilter(1) == HighPassFilter(1.0) == HighPassFilter(np.float32(1.0))
    assert hash(HighPassFilter(1)) == hash(HighPassFilter(1.0))
    assert PickChannels(["a", "b"]) == PickChannels(("a", "b"))  # type: ignore[arg-type]
    assert Scale(with_std=True) != Scale(with_std=False)
    with pytest.raises(TypeError, match="true or false"):
        Scale(with_std=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a number"):
        HighPassFilter(True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        HighPassFilter(1.0).freq = 2.0  # type: ignore[misc]


def test_local_functions_cannot_go_into_a_file_and_say_so() -> None:
    pipeline = ps.Pipeline([lambda block: block + 1])
    with pytest.raises(ValueError, match="define the function in a module"):
        pipeline.to_yaml()
    # two of them are never taken for one operation by a resumed run
    other = ps.Pipeline([lambda block: block + 2])
    assert pipeline.canonical() != other.canonical()


# ---------------------------------------------------------------------- security


@pytest.mark.parametrize(
    "step",
    [
        "!!python/object/apply:os.system ['touch hacked']",
        "!!python/object/new:subprocess.Popen [['touch', 'hacked']]",
        "HighPassFilter: !!python/name:os.system",
        "HighPassFilter: !!python/object/apply:os.getcwd []",
    ],
)
def test_yaml_makes_no_objects(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="line 2: could not determine a constructor"):
        ps.Pipeline.from_yaml(f"pipeline:\n  - {step}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "function",
    [
        "os:system",
        "subprocess:run",
        "builtins:eval",
        "generic:Demean",
        "numpy:ndarray.tofile",  # writes the block to any path
        "numpy:ndarray.dump",
        "numpy.testing:runstring",  # runs what the data hold
        "scipy._lib.deprecation:deprecated",
        "numpy:memmap",
        "numpy:__dict__",
        "numpy:_core.multiarray",
        "numpy.f2py:os.system",
        "numpy.f2py:subprocess.run",
        "scipy:nothing",
        "numpy:save",
        "numpy:savez_compressed",
        "numpy:savetxt",
        "numpy:load",
        "numpy:loadtxt",
        "numpy:genfromtxt",
        "numpy:fromfile",
        "numpy:fromregex",
        "numpy:rec.fromfile",
        "numpy:lib.format.open_memmap",
        "numpy:lib.npyio.save",
        "numpy:lib.os.system",
        "numpy:testing.runstring",
        "numpy:ctypeslib.load_library",
        "numpy:add.at",
        "numpy:test",
        "numpy:seterrcall",
        "numpy:show_config",
        "numpy:setbufsize",
        "numpy:info",
        "scipy.fft:set_global_backend",
        "scipy.special:seterr",
        "scipy.signal:signaltools.np.save",
        "scipy.io:savemat",
        "pandas:read_pickle",
        "pathlib:Path",
        "\x1b[2Jnumpy:save",
        "numpy",
        "numpyx:abs",
        3,
        None,
    ],
)
@pytest.mark.parametrize("step", ["Apply", "PerPosition"])
def test_functions_that_a_file_may_not_name(function: Any, step: str) -> None:
    with pytest.raises(ValueError, match=r"^step 1: ") as error:
        ps.Pipeline.from_dict([{step: {"function": function}}])
    assert str(error.value).isprintable()


def test_a_module_that_is_allowed_does_not_lend_what_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lender_of_a_test.py").write_text(
        "import os\nimport numpy as np\nfrom os import system\nfrom shutil import rmtree\n"
        "from numpy import negative\n"
    )
    allow = ["lender_of_a_test"]
    for name in ("os.system", "os.path.join", "np.save", "np.lib.format.open_memmap", "system",
                 "rmtree", "np.ndarray.tofile"):  # fmt: skip
        with pytest.raises(ValueError, match=r"^step 1: "):
            ps.Pipeline.from_dict([{"Apply": f"lender_of_a_test:{name}"}], allow=allow)
    assert ps.Pipeline.from_dict([{"Apply": "lender_of_a_test:negative"}], allow=allow)


@pytest.mark.parametrize(
    "given",
    [
        {"method": "export", "fname": "x.edf", "overwrite": True},
        {"method": "save", "fname": "x_raw.fif", "overwrite": True},
        ["save", "x_raw.fif"],
        {"method": "plot"},
        {"method": "__init__"},
        {"method": "load_data"},
        {"method": "to_data_frame"},
        {"method": "add_events"},
        {"method": "info"},
        {"method": "_write_something"},
    ],
)
def test_methods_that_write_or_show_are_no_steps(given: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^step 1: "):
        ps.Pipeline.from_dict([{"MNE": given}])


@pytest.mark.parametrize("given", [{"function": "os:system"}, ["os:system"], "os:system", None])
def test_no_form_of_apply_names_a_forbidden_function(given: Any) -> None:
    with pytest.raises(ValueError, match=r"may not be named by a file|needs 'function:"):
        ps.Pipeline.from_dict([{"Apply": given}])


def test_modules_are_imported_only_when_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("mine_of_a_test.py").write_text(
        "import dataclasses, pathlib\n"
        "import penstock as ps\n"
        "pathlib.Path('imported').touch()\n"
        "def twice(block):\n    return 2 * block\n"
        "def _hidden(block):\n    return block\n"
        "@dataclasses.dataclass(frozen=True, repr=False)\n"
        "class Mine(ps.Processor):\n"
        "    factor: float = 2.0\n"
        "    def kernel(self, block, ctx):\n        return self.factor * block\n"
    )
    text = "pipeline:\n  - Apply: {function: 'mine_of_a_test:twice'}\n"
    with pytest.raises(ValueError, match="--allow mine_of_a_test"):
        ps.Pipeline.from_yaml(text)
    with pytest.raises(ValueError, match="unknown processor 'Mine'"):
        ps.Pipeline.from_yaml("pipeline:\n  - Mine: 3\n")
    assert not Path("imported").exists()

    allow = ["mine_of_a_test"]
    made = ps.Pipeline.from_yaml(text, allow=allow)
    assert Path("imported").exists()
    with pytest.raises(ValueError, match="private"):
        ps.Pipeline.from_yaml(text.replace("twice", "_hidden"), allow=allow)
    ds = ps.make_dataset(np.ones((2, 10), "f4"), sampling_frequency=10.0)
    assert float(made(ds).signal.max()) == 2
    own = ps.Pipeline.from_yaml("pipeline:\n  - Mine: 3\n", allow=allow)
    assert float(own(ds).signal.max()) == 3
    same(own, ps.Pipeline.from_yaml(own.to_yaml(), allow=allow))
    with pytest.raises(ValueError, match="cannot import 'no_such_module'"):
        ps.Pipeline.from_yaml(text, allow=["no_such_module"])


# ---------------------------------------------------------------------- provenance


def test_provenance_rebuilds_the_pipeline(small: xr.Dataset, tmp_path: Path) -> None:
    pipeline = ps.Pipeline(
        [HighPassFilter(2.0, method="iir"), Demean(), MovingAverage(5), np.abs,
         Resample(100.0), Rereference(("C1", "C2"))]
    )  # fmt: skip
    report = pipeline.run(small, tmp_path, memory="3 GiB", workers=1, progress=False)
    assert report.ok, report
    about = ps.provenance(ps.open_dataset(tmp_path / "dataset.zarr"))
    steps = [{step["processor"]: step["parameters"]} for step in about["pipeline"]]
    again = ps.Pipeline.from_dict({"pipeline": steps}, allow=["generic"])
    same(pipeline, again)
    assert again.run(small, tmp_path, memory="3 GiB", progress=False).skipped == ["dataset"]
    assert about["pipeline"] == pipeline.canonical()
    assert not math.isnan(about["pipeline"][0]["parameters"]["freq"])


@pytest.mark.parametrize(
    "step",
    [
        {"HighPassFilter": {"freq": 1e-308}},
        {"HighPassFilter": {"freq": 1.0, "filter_length": 10**18}},
        {"HighPassFilter": {"freq": 1.0, "filter_length": "1e300s"}},
        {"HighPassFilter": {"freq": 10**400}},
        {"HighPassFilter": {"freq": float("nan")}},
        {"Resample": {"sfreq": 1e308}},
        {"UpSample": {"factor": 10**18}},
        {"AASCorrection": {"window_size": 10**400}},
        {"SmoothVolumes": {"fwhm": 1e9}},
        {"ExtractSpheres": {"seeds": [[0, 0, 0]], "radius": 1e308}},
        {"FindPeaksCWT": {"widths": [1e308]}},
        {"Fit": {"model": "gaussian", "fixed": 3.0}},
        {"CleanSignals": {"t_r": 10**400}},
    ],
)
def test_enormous_numbers_are_one_sentence(step: Any, small: xr.Dataset) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        ps.Pipeline.from_dict([step]).plan(small, memory="2 GiB")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1500
