"""A row that waits to be run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Ticket(Generic[T]):
    """One row in the queue, read-only for callers; times in seconds of the batcher's clock, priority 1 the highest."""

    payload: T
    priority: int
    deadline: float | None
    submitted: float
    number: int
    """Rows that the batcher had accepted before this one."""
