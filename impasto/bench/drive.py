"""Send orders to a target and write down when each was due, sent and answered.

An open loop has a clock of its own: a request leaves when it is due, whatever the server does, and its latency counts
from then. A server that stalls keeps nobody from arriving, and all who waited show in the percentiles. A closed loop
has so many requests under way, each due the moment the one before it is answered: it finds throughput, not latency.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import SimpleQueue

from impasto.bench.target import Answer, Reply, Target
from impasto.bench.traffic import Order
from impasto.errors import DeadlineExceeded, QueueFull, Unavailable

ANSWER_WITHIN = 120.0
"""Seconds after the last request in which all answers must be there."""
Progress = Callable[[float], None]


@dataclass(slots=True)
class Call:
    """One request's times in seconds of `time.perf_counter`, and what came of it; None: no answer in time."""

    order: Order
    due: float
    sent: float = 0.0
    answered: float = 0.0
    answer: Answer | None = None

    @property
    def completed(self) -> bool:
        """Whether its pictures came."""
        return isinstance(self.answer, Reply)

    @property
    def rejected(self) -> bool:
        """Whether the server turned it away: its queue was full, or the deadline could not be met."""
        return isinstance(self.answer, QueueFull | DeadlineExceeded | Unavailable)

    @property
    def latency_ms(self) -> float:
        """From when it was due."""
        return (self.answered - self.due) * 1e3

    @property
    def lateness_ms(self) -> float:
        """How late the client sent it."""
        return (self.sent - self.due) * 1e3


class _Answers:
    """Takes answers from the target's threads, and waits until all have come."""

    def __init__(self) -> None:
        self._open = 0
        self._changed = threading.Condition()

    def send(self, target: Target, call: Call, then: Callable[[], None] = lambda: None) -> None:
        def done(answer: Answer) -> None:
            call.answered = time.perf_counter()
            call.answer = answer
            then()
            with self._changed:
                self._open -= 1
                if not self._open:
                    self._changed.notify()

        with self._changed:
            self._open += 1
        call.sent = time.perf_counter()
        target.send(call.order, done)

    def wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._open, seconds)


def open_loop(target: Target, wanted: Iterable[Order], progress: Progress = lambda _: None) -> list[Call]:
    """Send each order when it is due, and return all calls once they are answered. `progress` gets each due time."""
    answers = _Answers()
    calls: list[Call] = []
    start = time.perf_counter()
    for order in wanted:
        call = Call(order, start + order.due)
        if (early := call.due - time.perf_counter()) > 0:
            time.sleep(early)
        calls.append(call)
        answers.send(target, call)
        progress(order.due)
    answers.wait(ANSWER_WITHIN)
    return calls


def closed_loop(
    target: Target,
    wanted: Iterable[Order],
    concurrency: int,
    seconds: float | None,
    progress: Progress = lambda _: None,
) -> list[Call]:
    """Keep `concurrency` requests under way until the orders, or the seconds, are over. `progress` gets seconds."""
    answers = _Answers()
    calls: list[Call] = []
    freed: SimpleQueue[float | None] = SimpleQueue()
    for _ in range(concurrency):
        freed.put(None)
    start = time.perf_counter()
    for order in wanted:
        moment = freed.get()
        now = time.perf_counter()
        if seconds is not None and now - start >= seconds:
            break
        # The first ones are due when their turn comes; each later one when the answer before it came.
        call = Call(order, now if moment is None else moment)
        calls.append(call)
        answers.send(target, call, lambda: freed.put(time.perf_counter()))
        progress(now - start)
    answers.wait(ANSWER_WITHIN)
    return calls
