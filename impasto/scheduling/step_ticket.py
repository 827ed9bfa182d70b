"""A row that takes many calls of a model."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, TypeVar

T = TypeVar("T")
Rank = tuple[int, int, float, int]
BY_RANK = attrgetter("rank")


@dataclass(frozen=True, slots=True)
class StepRow(Generic[T]):
    """What is asked for: so many calls of the model, each with `width` model rows (2 with guidance, 1 without).

    group: what must be equal for rows to share a call: the model, the resolution.
    """

    payload: T
    calls: int
    width: int = 1
    group: Hashable = None


@dataclass(eq=False, slots=True)
class StepTicket(Generic[T]):
    """A row in the step batcher, read-only for callers; times in seconds of its clock, priority 1 the highest."""

    payload: T
    calls: int
    width: int
    group: Hashable
    priority: int
    deadline: float | None
    submitted: float
    number: int
    """Rows that the batcher had accepted before this one."""
    rank: Rank = (0, 0, 0.0, 0)
    """Who goes first, the least one: by priority, a deadline that presses, calls, deadline and arrival."""
    slot: int | None = None
    """Where its state is held; None before it has run, and after it has left."""
    made: int = 0
    """Calls that have been made."""
    served: float = 0.0
    """Seconds of the ticks that it ran in."""
    left: bool = False
    """It has left the batcher."""

    def __post_init__(self) -> None:
        self.rank = self.rank_by_calls()

    @property
    def calls_left(self) -> int:
        """Calls that are still to be made."""
        return self.calls - self.made

    @property
    def presses(self) -> bool:
        """Its deadline has it go before the others of its priority."""
        return not self.rank[1]

    def rank_by_calls(self) -> Rank:
        """Its rank while no deadline presses: the fewest calls first."""
        deadline = math.inf if self.deadline is None else self.deadline
        return (self.priority, self.calls, deadline, self.number)

    def rank_by_deadline(self) -> Rank:
        """Its rank once its deadline presses; a row has one call at least, so that no rank by calls is less."""
        assert self.deadline is not None
        return (self.priority, 0, self.deadline, self.number)
