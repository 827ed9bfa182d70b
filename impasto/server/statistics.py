"""What a loaded model has done since it was loaded, as the Open Inference Protocol counts it."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """How often something happened, and the sum of how long it took."""

    count: int = 0
    seconds: float = 0.0

    @property
    def ns(self) -> int:
        """The sum in nanoseconds."""
        return round(self.seconds * 1e9)

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class Statistics:
    """Counters of one model over all services. Not thread-safe: the event loop's.

    `success`, `fail`, `queue` and `compute_infer` count requests, the last two only those that succeeded;
    `batches` counts executions by their number of rows.
    """

    last_inference: float = 0.0
    pictures: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    batches: defaultdict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))

    @property
    def executions(self) -> int:
        return sum(batch.count for batch in self.batches.values())

    def executed(self, rows: int, seconds: float) -> None:
        """A batch of so many rows, padding not counted, has run."""
        self.batches[rows].add(seconds)
        self.last_inference = time.time()

    def succeeded(self, pictures: int, *, total: float, queue: float, execute: float) -> None:
        """A request has its pictures: seconds in all, and of its slowest picture in the queue and in the engine."""
        self.pictures += pictures
        self.success.add(total)
        self.queue.add(queue)
        self.compute_infer.add(execute)

    def failed(self, total: float) -> None:
        """A request that the model had accepted got no pictures."""
        self.fail.add(total)
