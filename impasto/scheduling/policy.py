"""The settings of a dynamic batcher."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from impasto.errors import InvalidRequest


@dataclass(frozen=True)
class BatchPolicy:
    """How batches form and who waits for whom; all times in seconds. InvalidRequest names a setting that is off.

    buckets: batch sizes that the engine runs, increasing; the last is the largest batch.
    max_queue_delay: longest that a row waits for batch-mates; 0: never.
    priority_levels: 1 is the highest, this the lowest.
    default_priority: for rows that name none.
    max_queue: rows that may wait at each priority.
    starvation_limit: a row that has waited this long goes before higher priorities; inf: never.
    instances: engines that run batches at the same time; only the estimates use it.
    """

    buckets: tuple[int, ...]
    max_queue_delay: float = 0.005
    priority_levels: int = 3
    default_priority: int = 2
    max_queue: int = 256
    starvation_limit: float = 2.0
    instances: int = 1

    def __post_init__(self) -> None:
        increasing = all(a < b for a, b in zip((0, *self.buckets), self.buckets, strict=False))
        if not self.buckets or not increasing:
            raise InvalidRequest("buckets", self.buckets, "one or more batch sizes, each larger than the one before")
        if not 0 <= self.max_queue_delay < math.inf:
            raise InvalidRequest("max_queue_delay", self.max_queue_delay, "seconds from 0, finite")
        if self.priority_levels < 1:
            raise InvalidRequest("priority_levels", self.priority_levels, "at least 1")
        if not 1 <= self.default_priority <= self.priority_levels:
            raise InvalidRequest("default_priority", self.default_priority, f"1 to {self.priority_levels}")
        if self.max_queue < 1:
            raise InvalidRequest("max_queue", self.max_queue, "at least 1")
        if not self.starvation_limit >= 0:
            raise InvalidRequest("starvation_limit", self.starvation_limit, "seconds from 0")
        if self.instances < 1:
            raise InvalidRequest("instances", self.instances, "at least 1")

    @property
    def max_batch(self) -> int:
        """Rows that fill the largest bucket."""
        return self.buckets[-1]

    def bucket_for(self, rows: int) -> int:
        """The smallest bucket that holds that many rows, the largest for more than fit."""
        return self.buckets[min(bisect_left(self.buckets, rows), len(self.buckets) - 1)]
