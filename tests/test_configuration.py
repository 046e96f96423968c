"""Budget and workers that are configured for all runs, as everything in Dask can be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

import penstock as ps
from penstock.errors import BudgetError

HALF = ps.Pipeline([ps.Apply(np.abs, core_dims=())])


def planned(ds: xr.Dataset, **options: object) -> ps.Plan:
    plan = HALF.plan(ds, **options)  # type: ignore[arg-type]
    assert isinstance(plan, ps.Plan)
    return plan


def test_settings_stand_in_for_what_is_not_named(small: xr.Dataset) -> None:
    with dask.config.set({"penstock.memory": "7 GiB", "penstock.workers": 3}):
        plan = planned(small)
        assert (plan.budget, plan.workers) == (7 << 30, 3)
        plan = planned(small, memory="8 GiB", workers=2)
        assert (plan.budget, plan.workers) == (8 << 30, 2)


def test_runs_and_results_in_memory_keep_to_them(small: xr.Dataset, tmp_path: Path) -> None:
    with dask.config.set({"penstock.memory": "2 GiB", "penstock.workers": 1}):
        report = HALF.run({"small": small}, tmp_path, progress=False)
    assert (report.limits.budget, report.limits.workers) == (2 << 30, 1)
    with dask.config.set({"penstock.memory": "1 MiB"}), pytest.raises(BudgetError):
        HALF.compute(small)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penstock.workers": "two"}, "penstock.workers in the configuration of Dask"),
        ({"penstock.workers": 0}, "workers must be at least 1"),
        ({"penstock.memory": "much"}, "cannot read 'much' as an amount of memory"),
    ],
)
def test_wrong_settings_are_told(
    small: xr.Dataset, settings: dict[str, object], message: str
) -> None:
    with dask.config.set(settings), pytest.raises(ValueError, match=message):
        HALF.plan(small)


def test_the_environment_is_heard() -> None:
    script = "from penstock.configuration import *; " + (
        "print(configured_memory(None), configured_workers(None))"
    )
    environment = {**os.environ, "DASK_PENSTOCK__MEMORY": "3GiB", "DASK_PENSTOCK__WORKERS": "4"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "3GiB 4\n"
