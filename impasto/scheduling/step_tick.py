"""One call of the model: who takes part, and who has dropped out."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from impasto.errors import Cancelled, DeadlineExceeded
from impasto.scheduling.step_ticket import StepTicket

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ended(Generic[T]):
    """A row that was dropped before it was done, and why: Cancelled or DeadlineExceeded."""

    ticket: StepTicket[T]
    error: Cancelled | DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Tick(Generic[T]):
    """One call of the model of a group; without rows (nor group, in bucket 0) it only tells what has ended.

    rows: (ticket, slot, which of its calls this is, from 0), to run together in the bucket, which the engine pads to.
    admitted: those of them whose slot is theirs from this tick on.
    ended: rows dropped before this tick; a slot that they held is free, and may be another row's in this very tick.
    """

    group: Hashable
    rows: tuple[tuple[StepTicket[T], int, int], ...]
    bucket: int
    admitted: tuple[StepTicket[T], ...]
    ended: tuple[Ended[T], ...]
