"""Previews that a server's reader takes, each of them: of those that wait the newest alone is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from impasto.engine.diffusion import DiffusionEngine
from impasto.engine.picture import Floats
from impasto.engine.stepwise import StepRow
from impasto.server.job import Job, Made, Previewed, Progress
from tests.support.waiting import GUARD


@contextmanager
def each_preview_taken() -> Iterator[None]:
    """Until the end of the block, no diffusion model steps on before all its previews so far have gone to their reader.

    Of models in servers of this process alone: nobody else takes previews.
    """
    changed = threading.Condition()
    shown = taken = 0
    step, following = DiffusionEngine.step, Job.__anext__

    def stepping(engine: DiffusionEngine, rows: Sequence[StepRow]) -> dict[int, Floats]:
        nonlocal shown
        with changed:
            assert changed.wait_for(lambda: taken == shown, GUARD)
        latents = step(engine, rows)
        shown += len(latents)
        return latents

    async def taking(job: Job) -> tuple[int, Made | Progress]:
        nonlocal taken
        index, item = await following(job)
        if isinstance(item, Previewed):
            with changed:
                taken += 1
                changed.notify()
        return index, item

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusionEngine, "step", stepping)
        patch.setattr(Job, "__anext__", taking)
        yield
