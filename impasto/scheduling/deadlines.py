"""The deadlines of waiting rows."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

from impasto.scheduling.ticket import Ticket
from impasto.scheduling.waiting import WaitingRows

T = TypeVar("T")
_SLACK = 64


class Deadlines(Generic[T]):
    """Finds the waiting row with the earliest deadline. Rows without one are never touched.

    A row that leaves the queue stays in the heap until it comes to the top, or until more than half of the heap is
    such rows: so leaving costs nothing, and the heap stays within a constant of twice the queue.
    """

    def __init__(self, waiting: WaitingRows[T]) -> None:
        self._waiting = waiting
        self._heap: list[tuple[float, int, Ticket[T]]] = []

    def __len__(self) -> int:
        """Size of the heap, rows that have left among them."""
        return len(self._heap)

    def add(self, deadline: float, ticket: Ticket[T]) -> None:
        """Watch a row that waits from now on."""
        if len(self._heap) > _SLACK + 2 * len(self._waiting):
            self._heap = [entry for entry in self._heap if entry[2] in self._waiting]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (deadline, ticket.number, ticket))

    def earliest(self) -> tuple[float, Ticket[T]] | None:
        """The earliest deadline and its row, None if no waiting row has a deadline."""
        heap = self._heap
        while heap and heap[0][2] not in self._waiting:
            heapq.heappop(heap)
        return (heap[0][0], heap[0][2]) if heap else None
