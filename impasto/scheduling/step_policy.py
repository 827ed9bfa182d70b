"""The settings of a step batcher."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from impasto.errors import InvalidRequest
from impasto.scheduling.policy import BatchPolicy


@dataclass(frozen=True)
class StepPolicy:
    """How many rows run together and who waits for whom. InvalidRequest names a setting that is off.

    buckets: batch sizes that the model runs, in model rows, increasing; the last is the most that a tick runs.
    slots: rows whose state is held. More than the last bucket lets a short row in before long ones, which pause.
    priority_levels: 1 is the highest, this the lowest.
    default_priority: for rows that name none.
    max_queue: rows that may wait for a slot at each priority.
    starvation_limit: seconds that a row waits in all, for its slot and between its calls, before it goes ahead of
    higher priorities and shorter rows, with half of each tick kept for such rows; inf: never.
    """

    buckets: tuple[int, ...]
    slots: int
    priority_levels: int = 3
    default_priority: int = 2
    max_queue: int = 256
    starvation_limit: float = 10.0

    def __post_init__(self) -> None:
        BatchPolicy(
            buckets=self.buckets,
            priority_levels=self.priority_levels,
            default_priority=self.default_priority,
            max_queue=self.max_queue,
            starvation_limit=self.starvation_limit,
        )
        if self.slots < 1:
            raise InvalidRequest("slots", self.slots, "at least 1")

    @property
    def max_batch(self) -> int:
        """Model rows that fill the largest bucket."""
        return self.buckets[-1]

    def bucket_for(self, rows: int) -> int:
        """The smallest bucket that holds that many model rows, the largest for more than fit."""
        return self.buckets[min(bisect_left(self.buckets, rows), len(self.buckets) - 1)]
