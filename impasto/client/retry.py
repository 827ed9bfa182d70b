"""When a failed call is tried again. Making a picture twice gives the same picture, so every call may be."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable

from impasto.errors import ImpastoError, QueueFull, Unavailable


@dataclasses.dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most `attempts` tries. Waits the delay that the server names, else `first_delay`·2^k, up to `max_delay`.

    Every wait is longer by a random part of up to `jitter` of it, so that clients turned away together do not come
    back together. Seconds.
    """

    attempts: int = 5
    first_delay: float = 0.1
    max_delay: float = 5.0
    jitter: float = 0.25


DEFAULT_RETRIES = RetryPolicy()


class Retries:
    """The tries of one call, within `timeout` seconds from now (None: no limit)."""

    def __init__(
        self,
        policy: RetryPolicy,
        timeout: float | None,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._deadline = None if timeout is None else clock() + timeout
        self._clock = clock
        self._uniform = uniform
        self._failures = 0

    def remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None: no limit."""
        return None if self._deadline is None else max(self._deadline - self._clock(), 0.0)

    def delay_after(self, error: ImpastoError) -> float:
        """Seconds to wait before the next try; raises the error if there is none, or not before the deadline."""
        self._failures += 1
        if not isinstance(error, Unavailable | QueueFull) or self._failures >= self._policy.attempts:
            raise error
        backoff = min(self._policy.first_delay * 2.0 ** (self._failures - 1), self._policy.max_delay)
        delay = error.retry_after or backoff
        delay += self._uniform(0.0, self._policy.jitter * delay)
        remaining = self.remaining()
        if remaining is not None and delay >= remaining:
            raise error
        return delay
