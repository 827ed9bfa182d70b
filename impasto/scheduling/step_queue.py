"""The rows of a step batcher that wait for a slot."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from itertools import islice, takewhile
from typing import Generic, TypeVar

from impasto.scheduling.step_ticket import BY_RANK, Rank, StepTicket

T = TypeVar("T")


class StepQueue(Generic[T]):
    """Rows in order of rank, and beside it in order of arrival. Adding and removing are a search and a memmove."""

    def __init__(self) -> None:
        self._ranked: list[StepTicket[T]] = []
        self._arrived: OrderedDict[StepTicket[T], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ranked)

    def add(self, ticket: StepTicket[T]) -> None:
        """Queue a row that arrived after all others."""
        insort(self._ranked, ticket, key=BY_RANK)
        self._arrived[ticket] = None

    def remove(self, ticket: StepTicket[T]) -> None:
        """Take a waiting row out; KeyError if it does not wait."""
        del self._arrived[ticket]
        del self._ranked[self.ahead_of(ticket.rank)]

    def rerank(self, ticket: StepTicket[T], rank: Rank) -> None:
        """Move a waiting row to another rank."""
        del self._ranked[self.ahead_of(ticket.rank)]
        ticket.rank = rank
        insort(self._ranked, ticket, key=BY_RANK)

    def first(self, rows: int) -> list[StepTicket[T]]:
        """The rows of the least ranks, at most so many, in order."""
        return self._ranked[:rows]

    def ahead_of(self, rank: Rank) -> int:
        """Rows of a lesser rank."""
        return bisect_left(self._ranked, rank, key=BY_RANK)

    def oldest(self, aged: float, rows: int) -> list[StepTicket[T]]:
        """The rows that were submitted at that time or before, at most so many, the oldest first."""
        return list(takewhile(lambda ticket: ticket.submitted <= aged, islice(self._arrived, rows)))
