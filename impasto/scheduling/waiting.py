"""The rows that wait, in the order in which they go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import takewhile
from typing import Generic, TypeVar

from impasto.scheduling.ticket import Ticket

T = TypeVar("T")


class WaitingRows(Generic[T]):
    """First in, first out at each priority; rows submitted at `aged` or before go first of all, the oldest first.

    `aged` is a time of the batcher's clock, passed in where the order matters because it moves with the clock.
    Adding, removing from anywhere and taking are O(1) a row.
    """

    def __init__(self, priority_levels: int) -> None:
        self._queues: list[OrderedDict[Ticket[T], None]] = [OrderedDict() for _ in range(priority_levels)]
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def __contains__(self, ticket: Ticket[T]) -> bool:
        return ticket in self._queues[ticket.priority - 1]

    def at(self, priority: int) -> int:
        """Rows that wait at that priority."""
        return len(self._queues[priority - 1])

    def add(self, tickets: Iterable[Ticket[T]]) -> None:
        """Queue them behind the others of their priority."""
        for ticket in tickets:
            self._queues[ticket.priority - 1][ticket] = None
            self._rows += 1

    def remove(self, ticket: Ticket[T]) -> None:
        """Take a waiting row out; KeyError if it does not wait."""
        del self._queues[ticket.priority - 1][ticket]
        self._rows -= 1

    def oldest(self) -> Ticket[T] | None:
        """The row that has waited longest."""
        heads = [next(iter(queue)) for queue in self._queues if queue]
        return min(heads, key=_number) if len(heads) > 1 else heads[0] if heads else None

    def pop(self, rows: int, aged: float) -> list[Ticket[T]]:
        """Remove the rows that go next, at most so many, and return them in order."""
        popped: list[Ticket[T]] = []
        queues = [queue for queue in self._queues if queue]
        if len(queues) > 1:
            while len(popped) < rows and (oldest := self.oldest()) is not None and oldest.submitted <= aged:
                self.remove(oldest)
                popped.append(oldest)
        for queue in queues:
            taken = [queue.popitem(last=False)[0] for _ in range(min(len(queue), rows - len(popped)))]
            self._rows -= len(taken)
            popped += taken
        return popped

    def ahead_of_new(self, priority: int, aged: float) -> int:
        """Rows that would go before a new one of that priority."""
        lower = (sum(1 for _ in takewhile(lambda t: t.submitted <= aged, queue)) for queue in self._queues[priority:])
        return sum(map(len, self._queues[:priority])) + sum(lower)

    def ahead_of(self, ticket: Ticket[T], aged: float) -> int:
        """Rows that go before this waiting one. Quickest for the newest; O(n) in the rows of its priority."""
        own = self._queues[ticket.priority - 1]
        from_here = 1 + sum(1 for _ in takewhile(lambda t: t is not ticket, reversed(own)))
        if ticket.submitted > aged:
            return self.ahead_of_new(ticket.priority, aged) - from_here
        others = (queue for queue in self._queues if queue is not own)
        older = (sum(1 for _ in takewhile(lambda t: t.number < ticket.number, queue)) for queue in others)
        return len(own) - from_here + sum(older)


def _number(ticket: Ticket[T]) -> int:
    return ticket.number
