import math

import pytest

from impasto.errors import InvalidRequest
from impasto.scheduling import BatchPolicy


@pytest.mark.parametrize(("rows", "bucket"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 8)])
def test_rows_run_in_the_smallest_bucket_that_holds_them(rows: int, bucket: int) -> None:
    assert BatchPolicy(buckets=(1, 2, 4, 8)).bucket_for(rows) == bucket


def test_largest_bucket_is_the_largest_batch() -> None:
    assert BatchPolicy(buckets=(2, 6)).max_batch == 6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("buckets", ()),
        ("buckets", (0, 1)),
        ("buckets", (2, 2)),
        ("buckets", (4, 2)),
        ("max_queue_delay", -0.001),
        ("max_queue_delay", math.nan),
        ("max_queue_delay", math.inf),
        ("priority_levels", 0),
        ("default_priority", 0),
        ("default_priority", 4),
        ("max_queue", 0),
        ("starvation_limit", -1.0),
        ("starvation_limit", math.nan),
        ("instances", 0),
    ],
)
def test_a_setting_that_is_off_is_named(field: str, value: object) -> None:
    settings = {"buckets": (1, 2), field: value}
    with pytest.raises(InvalidRequest) as caught:
        BatchPolicy(**settings)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert repr(value) in str(caught.value)


def test_the_defaults_are_the_documented_ones() -> None:
    policy = BatchPolicy(buckets=(1,))
    assert (policy.max_queue_delay, policy.priority_levels, policy.default_priority) == (0.005, 3, 2)
    assert (policy.max_queue, policy.starvation_limit, policy.instances) == (256, 2.0, 1)
