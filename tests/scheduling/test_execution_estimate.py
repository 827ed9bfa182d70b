import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impasto.errors import InvalidRequest
from impasto.scheduling.estimate import MEMORY, WINDOW, ExecutionEstimate

SECONDS = st.floats(min_value=0.0, max_value=100.0)


def estimate_of(*records: tuple[int, float]) -> ExecutionEstimate:
    estimate = ExecutionEstimate((1, 2, 4, 8))
    for bucket, seconds in records:
        estimate.record(bucket, seconds, now=0.0)
    return estimate


def test_nothing_measured_counts_as_nothing() -> None:
    assert estimate_of().typical(8, now=0.0) == 0.0
    assert estimate_of().least(8, now=0.0) == 0.0


def test_typical_is_the_median_and_least_the_minimum() -> None:
    estimate = estimate_of((4, 0.5), (4, 0.25), (4, 9.0))
    assert estimate.typical(4, now=1.0) == 0.5
    assert estimate.least(4, now=1.0) == 0.25


def test_one_outlier_does_not_move_the_typical_time() -> None:
    assert estimate_of((1, 0.25), (1, 60.0)).typical(1, now=1.0) == 0.25


def test_unmeasured_bucket_counts_as_the_next_smaller_measured_one() -> None:
    estimate = estimate_of((2, 0.25), (8, 1.0))
    assert [estimate.typical(bucket, now=1.0) for bucket in (1, 2, 4, 8)] == [0.0, 0.25, 0.25, 1.0]


def test_only_the_last_batches_count() -> None:
    estimate = estimate_of(*[(1, 5.0)] * WINDOW, *[(1, 1.0)] * WINDOW)
    assert estimate.typical(1, now=1.0) == 1.0
    slower = estimate_of(*[(1, 1.0)] * WINDOW, *[(1, 5.0)] * WINDOW)
    assert slower.least(1, now=1.0) == 5.0


def test_bucket_that_has_not_run_for_long_is_forgotten() -> None:
    estimate = estimate_of((1, 1.0))
    assert estimate.typical(1, now=MEMORY - 1) == 1.0
    assert estimate.typical(1, now=MEMORY) == 0.0
    estimate.record(1, 5.0, now=MEMORY)
    assert estimate.least(1, now=MEMORY) == 5.0


def test_slow_bucket_is_remembered_for_longer() -> None:
    assert estimate_of((1, 60.0)).typical(1, now=200.0) == 60.0
    assert estimate_of((1, 60.0)).typical(1, now=240.0) == 0.0


@pytest.mark.parametrize(("bucket", "seconds"), [(3, 1.0), (1, -1.0), (1, math.nan), (1, math.inf)])
def test_impossible_record_is_refused(bucket: int, seconds: float) -> None:
    with pytest.raises(InvalidRequest):
        estimate_of((bucket, seconds))


@given(st.lists(SECONDS, min_size=1, max_size=40))
def test_estimates_stay_within_what_was_measured(measured: list[float]) -> None:
    estimate = estimate_of(*[(2, seconds) for seconds in measured])
    recent = measured[-WINDOW:]
    assert estimate.least(2, now=0.0) == min(recent)
    assert min(recent) <= estimate.typical(2, now=0.0) <= max(recent)
    assert sum(seconds <= estimate.typical(2, now=0.0) for seconds in recent) * 2 >= len(recent)
    assert sum(seconds >= estimate.typical(2, now=0.0) for seconds in recent) * 2 >= len(recent)
