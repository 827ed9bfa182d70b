"""How long a batch is likely to take."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from impasto.errors import InvalidRequest

WINDOW = 15
MEMORY = 30.0


class _Measured(NamedTuple):
    typical: float
    least: float
    good_until: float


_UNKNOWN = _Measured(0.0, 0.0, math.inf)


class ExecutionEstimate:
    """Execution time of each bucket, in seconds, from its last WINDOW batches.

    A bucket that has not run for MEMORY seconds (or four times its own) is forgotten: else one slow batch could have
    every later request refused for its deadline, and nothing would run that could put the estimate right. A bucket
    without a record counts as the next smaller one that has one, and as 0 if there is none.
    """

    def __init__(self, buckets: Sequence[int]) -> None:
        self._recent: dict[int, deque[float]] = {bucket: deque(maxlen=WINDOW) for bucket in buckets}
        self._measured: dict[int, _Measured] = {}
        self._largest_first = sorted(buckets, reverse=True)

    def record(self, bucket: int, seconds: float, now: float) -> None:
        """A batch has run in that bucket for so long."""
        if bucket not in self._recent:
            raise InvalidRequest("bucket", bucket, f"one of {sorted(self._recent)}")
        if not 0 <= seconds < math.inf:
            raise InvalidRequest("seconds", seconds, "from 0, finite")
        recent = self._recent[bucket]
        if bucket in self._measured and now >= self._measured[bucket].good_until:
            recent.clear()
        recent.append(seconds)
        ordered = sorted(recent)
        typical = ordered[(len(ordered) - 1) // 2]
        self._measured[bucket] = _Measured(typical, ordered[0], now + max(MEMORY, 4 * typical))

    def typical(self, bucket: int, now: float) -> float:
        """Median of the last batches: one outlier does not move it."""
        return self._best_known(bucket, now).typical

    def least(self, bucket: int, now: float) -> float:
        """Shortest of the last batches: what has less time left than this is lost."""
        return self._best_known(bucket, now).least

    def _best_known(self, bucket: int, now: float) -> _Measured:
        for candidate in self._largest_first:
            if candidate <= bucket:
                measured = self._measured.get(candidate)
                if measured is not None and now < measured.good_until:
                    return measured
        return _UNKNOWN
