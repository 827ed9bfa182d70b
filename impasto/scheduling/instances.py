"""When each instance of an engine is likely to be free."""

from __future__ import annotations


class Instances:
    """Expects the next end among engines that run one batch each, by the estimates made when they started.

    An end that nobody reports does no harm: the instance counts as free once its estimate is over.
    """

    def __init__(self, count: int, now: float) -> None:
        self._free_at = [now] * count

    def started(self, now: float, seconds: float) -> None:
        """One has begun a batch that is likely to take so long."""
        self._free_at[0] = now + seconds
        self._free_at.sort()

    def finished(self, now: float) -> None:
        """One has ended a batch: the one that was expected to end first."""
        for index, free_at in enumerate(self._free_at):
            if free_at > now:
                self._free_at[index] = now
                break

    def wait(self, batches: int, now: float, seconds: float) -> float:
        """Seconds until a batch with so many before it starts, each of which takes so long."""
        rounds, instance = divmod(batches, len(self._free_at))
        return max(0.0, self._free_at[instance] - now) + rounds * seconds
