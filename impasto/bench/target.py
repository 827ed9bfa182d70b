"""What a load is sent to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from impasto.bench.result import Model
from impasto.bench.result import Protocol as WireProtocol
from impasto.bench.traffic import Order
from impasto.errors import ImpastoError
from impasto.images.pixels import Bytes


class Reply(NamedTuple):
    """A request's pictures are there: how many, and in ms what the server says of its stages, if it does."""

    images: int
    stages: Mapping[str, float] = {}


Answer = Reply | ImpastoError
Done = Callable[[Answer], None]


@dataclass(frozen=True)
class Counters:
    """What a system has counted since it started: executions by pictures in them, and seconds and requests by stage."""

    batch_sizes: Mapping[int, int] = field(default_factory=dict)
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    stage_counts: Mapping[str, int] = field(default_factory=dict)


class Target(Protocol):
    """A system under test. `send` may be called from any thread and returns at once."""

    @property
    def system(self) -> str:
        """What answers, as a result names it."""

    @property
    def protocol(self) -> WireProtocol: ...

    @property
    def settings(self) -> Mapping[str, str | int | float]:
        """What of the system a result should tell: backend, precision, device."""

    def model(self, name: str) -> Model:
        """What the system tells of a model. ImpastoError if it has none of that name."""

    def buckets(self, name: str) -> tuple[int, ...]:
        """The batch sizes that the model runs in; empty if the system does not tell."""

    def send(self, order: Order, done: Done) -> None:
        """Ask for the order's pictures; `done` is called once, from a thread of the target's, with the outcome."""

    def pictures(self, order: Order) -> list[Bytes]:
        """The order's pictures, uint8 [H, W, 3] each. ImpastoError."""

    def counters(self, name: str) -> Counters:
        """What the system has counted of a model so far."""

    def pids(self) -> list[int]:
        """The system's processes on this machine, each with its children; none if they cannot be found."""

    def model_cpu_seconds(self) -> float | None:
        """CPU time that the system has spent inside models' graphs so far; None where that is not counted."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
