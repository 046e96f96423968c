"""NIST's certified fits: parameters and standard errors to four digits where arithmetic allows."""

import importlib.util
import sys

import pytest
from paths import ROOT

CONVERGED = 1
SOURCE = ROOT / "benchmarks" / "strd.py"


@pytest.fixture(scope="module")
def strd():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SOURCE.parent))
        spec = importlib.util.spec_from_file_location("strd", SOURCE)
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "strd", module)
        spec.loader.exec_module(module)
        yield module


def test_fits_have_the_certified_digits(strd, data):
    folder = data / "next" / "strd"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    sets = strd.certified_sets(folder)
    assert len(sets) == 27
    good, wrong = [], []
    for case in sets:
        for number, start in enumerate(case.starts, 1):
            parameters, errors, status = strd.by_penstock(case, start)
            digits = case.digits(parameters, errors)
            if digits >= 4:
                good.append(case.name)
            if status == CONVERGED and digits < 2:
                wrong.append(f"{case.name}, start {number}")
    assert len(good) >= 50
    assert wrong == []
