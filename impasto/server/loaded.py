"""What the services need of a loaded model, however it makes its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from impasto.engine.picture import Engine, PictureRequest
from impasto.server.encoding import Encoder
from impasto.server.job import Job, Made
from impasto.server.statistics import Statistics


class LoadedModel(Protocol):
    """Takes requests for pictures and gives the pictures. For the event loop."""

    name: str
    version: str
    statistics: Statistics
    in_flight: int

    @property
    def engine(self) -> Engine:
        """What makes the pictures."""

    @property
    def queue_length(self) -> int:
        """Pictures that wait for a batch."""

    def submit(
        self,
        requests: Sequence[PictureRequest],
        *,
        priority: int = 0,
        deadline: float | None = None,
        encoder: Encoder | None = None,
        progress: bool = False,
        described: bool = True,
    ) -> Job:
        """Accept the pictures of a request, all or none; use the job in a `with` block at once.

        `priority` 1 is the most urgent, 0 the default; `deadline` is of time.monotonic(); with `progress` the job tells
        of steps and previews too; without `described` the pictures have no metadata. InvalidRequest, QueueFull,
        DeadlineExceeded (past, or cannot be met), or Unavailable while the model is being unloaded.
        """

    async def make(
        self, requests: Sequence[PictureRequest], *, priority: int = 0, deadline: float | None = None
    ) -> list[Made]:
        """The pictures of a request, in its order; errors as `submit`. Cancelling the task frees what still waits."""

    def position(self, job: Job) -> int:
        """Pictures that run before the job's first one."""

    def estimated_wait(self, job: Job) -> float:
        """Seconds until the job's first picture is likely to run."""

    async def finish(self) -> None:
        """Refuse new requests, make what was accepted, then free the engine. Call it once."""

    def abort(self) -> None:
        """Refuse new requests, and fail those that wait."""
