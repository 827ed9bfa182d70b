"""Times in buckets that grow by one per cent: small to keep, exact enough to merge and to draw."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

GROWTH = 1.01
SMALLEST_MS = 1e-4
"""What is shorter, 0 among it, is counted as this."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many times fell into each bucket: bucket `i` holds `growth`^i ≤ ms < `growth`^(i + 1).

    A time read back from it is off by at most half a bucket, 0.5 %. Histograms of several runs add up.
    """

    counts: dict[int, int] = field(default_factory=dict)
    growth: float = GROWTH

    @classmethod
    def of(cls, times_ms: Iterable[float]) -> Histogram:
        """The histogram of times in ms."""
        counts = Counter(math.floor(math.log(max(time, SMALLEST_MS)) / math.log(GROWTH)) for time in times_ms)
        return cls(dict(sorted(counts.items())))

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Histogram:
        """All counts of all parts."""
        total: Counter[int] = Counter()
        for part in parts:
            total.update(part.counts)
        return cls(dict(sorted(total.items())))

    @property
    def count(self) -> int:
        """How many times there are."""
        return sum(self.counts.values())

    def percentile(self, percent: float) -> float:
        """The time in ms that `percent` of all do not exceed, by the nearest rank; NaN of an empty histogram."""
        rank, seen = math.ceil(self.count * percent / 100), 0
        for index, count in sorted(self.counts.items()):
            seen += count
            if seen >= max(rank, 1):
                return self.middle(index)
        return math.nan

    def middle(self, index: int) -> float:
        """The geometric middle of a bucket in ms."""
        return float(self.growth ** (index + 0.5))

    def curve(self) -> Iterator[tuple[float, float]]:
        """Each bucket's upper end in ms with the share of all times below it, for a distribution's plot."""
        seen = 0
        for index, count in sorted(self.counts.items()):
            seen += count
            yield float(self.growth ** (index + 1)), seen / self.count
