"""A few draws of the promise's fuzz (`benchmarks/promise.py`): measured <= predicted <= budget.

Whatever the data, the pipeline, the format and the place; and two settings give the same result.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from paths import ROOT

BENCHMARKS = ROOT / "benchmarks"
CASES = {"seed": 11, "numbers": range(6), "largest": 24}


@pytest.fixture(scope="module")
def promise():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("promise")
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("number", CASES["numbers"])
def test_measured_is_below_predicted_is_below_the_budget(number: int, promise, tmp_path: Path):
    case = promise.draw(number, CASES["seed"], largest=CASES["largest"])
    for row in promise.run_case(case, tmp_path):
        assert not promise.faults(row), row


def test_every_domain_place_and_kind_of_data_is_drawn(promise):
    cases = [promise.draw(number, 1) for number in range(300)]
    assert {case["domain"] for case in cases} == {
        "recordings", "correction", "positions", "volumes"
    }  # fmt: skip
    places = {setting["place"] for case in cases for setting in case["settings"]}
    assert places == {"threads", "processes", "client", "cluster"}
    kinds = {case["data"]["kind"] for case in cases}
    assert {"edf", "fif", "npy", "h5", "zarr", "nii", "nii.gz", "memory", "dask"} <= kinds
    assert promise.draw(7, 1) == cases[7]
