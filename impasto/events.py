"""What a generation tells while it runs: the same events in-process and over gRPC."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from impasto.images import Picture


@dataclasses.dataclass(frozen=True, slots=True)
class Queued:
    """Accepted: `position` pictures wait before the first one of this generation."""

    position: int
    estimated_wait_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """Picture `index` has done `step` of its `steps` model calls, which some samplers have more of; diffusion only."""

    index: int
    step: int
    steps: int


@dataclasses.dataclass(frozen=True, slots=True)
class Preview:
    """How picture `index` looks so far; iterative models only."""

    index: int
    picture: Picture


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """Picture `index`, counted from 0 in the order asked for, is done."""

    index: int
    picture: Picture


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """All pictures are done: how long the slowest took in each stage, and how many rows each one's batch had."""

    queue_ms: float
    execute_ms: float
    encode_ms: float
    batch_sizes: tuple[int, ...]


Event = Queued | Step | Preview | Finished | Done
OnProgress = Callable[[Event], object]
