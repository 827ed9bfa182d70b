"""When to look at a deadline again."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

from impasto.scheduling.step_ticket import StepTicket

T = TypeVar("T")
_SLACK = 64


class DeadlineChecks(Generic[T]):
    """Rows with a deadline, each with the time at which it is to be looked at. The others are never touched.

    A row that leaves stays in the heap until its time comes, or until more than half of the heap is such rows.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, StepTicket[T]]] = []

    def __len__(self) -> int:
        """Size of the heap, rows that have left among them."""
        return len(self._heap)

    def add(self, ticket: StepTicket[T], at: float) -> None:
        """Look at that row at that time."""
        heapq.heappush(self._heap, (at, ticket.number, ticket))

    def shrink(self, rows: int) -> None:
        """Forget those that have left, if the heap is much larger than the rows that are there."""
        if len(self._heap) > _SLACK + 2 * rows:
            self._heap = [entry for entry in self._heap if not entry[2].left]
            heapq.heapify(self._heap)

    def due(self, now: float) -> list[StepTicket[T]]:
        """Remove and return the rows whose time has come."""
        rows, heap = [], self._heap
        while heap and heap[0][0] <= now:
            ticket = heapq.heappop(heap)[2]
            if not ticket.left:
                rows.append(ticket)
        return rows
