"""Results in memory: the same values as lazily or in a store, within a budget, in order."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from generic import Demean, SortChannels

import penstock as ps
from penstock.dataset import SIGNAL
from penstock.errors import BudgetError
from penstock.running.in_memory import OrderedTasks
from penstock.running.progress import LateProgress
from penstock.testing import virtual_dataset


@pytest.mark.parametrize("workers", [1, 3])
def test_a_result_in_memory_is_the_lazy_one(workers, small):
    pipeline = ps.Pipeline([Demean()])
    made = pipeline.compute(small, workers=workers)
    assert isinstance(made[SIGNAL].variable._data, np.ndarray)
    np.testing.assert_array_equal(made.signal.values, pipeline(small).signal.values)
    assert made.signal.attrs == pipeline(small).signal.attrs
    assert list(made.channel.values) == list(small.channel.values)


def test_steps_that_need_other_dims_whole_follow_in_memory():
    ds = virtual_dataset((64, 400_000))
    pipeline = ps.Pipeline([Demean(), SortChannels()])
    made = pipeline.compute(ds, memory="3GiB", workers=2)
    expected = np.sort(ds.signal.values - ds.signal.values.mean(axis=-1, keepdims=True), axis=0)
    np.testing.assert_allclose(made.signal.values, expected, atol=1e-5)


def test_a_budget_that_does_not_hold_the_result_is_refused():
    ds = virtual_dataset((64, 4_000_000), readable=False)
    with pytest.raises(BudgetError, match=r"allow .* or run the pipeline into a store"):
        ps.Pipeline([Demean()]).compute(ds, memory="700MiB")


def test_tasks_begin_and_end_in_order():
    begun: list[int] = []
    before = threading.active_count()

    def job(number: int) -> int:
        begun.append(number)
        time.sleep(0.002 * (number % 3))
        return number

    with OrderedTasks(4, LateProgress(False, 4, 0)) as tasks:
        assert list(tasks.run(50, job)) == list(range(50))
        assert list(tasks.run(3, job)) == [0, 1, 2]
    assert threading.active_count() <= before
    assert sorted(begun[:50]) == list(range(50))
    # (at most the threads' number apart from the order)
    assert all(abs(number - place) <= 4 for place, number in enumerate(begun[:50]))
