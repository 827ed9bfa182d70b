"""How batches run on an engine with lanes, which gets their rows one by one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from impasto.engine.picture import Engine, PictureRequest, Pixels
from impasto.scheduling import Batch
from impasto.scheduling.ticket import Ticket
from impasto.server.instances import SHORT_SECONDS, Instances, Run
from impasto.server.job import Job
from tests.support.engines import GUARD_SECONDS, until

LANES = 2


class Held:
    """An engine of which each row waits until the test lets it go. Seed 13 cannot be made."""

    buckets = (1, 2, 4, 8)
    manifest = SimpleNamespace(name="held", version="1")

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.begun: list[int] = []
        self._gates = {seed: threading.Event() for seed in range(20)}

    def let_go(self, *seeds: int) -> None:
        for seed in seeds:
            self._gates[seed].set()

    def run(self, requests: Sequence[PictureRequest]) -> list[Pixels]:
        (seed,) = (request.seed for request in requests)
        assert seed is not None
        self.begun.append(seed)
        assert self._gates[seed].wait(GUARD_SECONDS)
        time.sleep(2 * SHORT_SECONDS)
        if seed == 13:
            raise RuntimeError("unlucky")
        return [Pixels(hwc=np.full((1, 1, 3), seed, np.uint8))]

    def describe(self, request: PictureRequest) -> dict[str, Any]:
        return {"seed": request.seed}


@dataclass
class Scene:
    """Instances of a held engine; `told` has the seeds of each reply that left, `more` is what waits behind."""

    engine: Held
    told: list[list[int]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    more: bool = False
    instances: Any = None

    def start(self, *seeds: int) -> list[Job]:
        """Start a batch, a job a row."""
        jobs = [Job([PictureRequest(seed=seed)], None, lambda job: None) for seed in seeds]
        tickets = [Ticket(job.rows[0], 1, None, 0.0, seed) for job, seed in zip(jobs, seeds, strict=True)]
        self.instances.start(Batch(tickets, 8))
        return jobs

    async def begun(self, *seeds: int) -> None:
        await until(lambda: sorted(self.engine.begun) == sorted(seeds))

    def on_runs(self, runs: Sequence[Run]) -> None:
        self.runs += runs
        self.told.append([ticket.payload.request.seed or 0 for run in runs for ticket in run.tickets])


@asynccontextmanager
async def held(lanes: int = LANES) -> AsyncIterator[Scene]:
    scene = Scene(Held(lanes))
    scene.instances = Instances(cast(Engine, scene.engine), 1, more=lambda: scene.more, on_runs=scene.on_runs)
    try:
        yield scene
    finally:
        scene.engine.let_go(*range(20))
        await scene.instances.close()


async def test_a_row_is_told_when_it_is_made_whatever_its_batch_mates_do() -> None:
    async with held() as scene:
        scene.start(1, 2, 3)
        await scene.begun(1, 2)
        scene.engine.let_go(2)
        await until(lambda: scene.told == [[2]])
        assert scene.runs[0].batch_seconds is None
        scene.engine.let_go(1, 3)
        await until(lambda: len(scene.runs) == 3)
        assert [run.batch_seconds is not None for run in scene.runs] == [False, False, True]
        assert scene.instances.all_idle


async def test_the_next_batch_starts_on_the_lane_that_is_free() -> None:
    async with held() as scene:
        scene.start(1, 2)
        assert scene.instances.idle == 0
        await scene.begun(1, 2)
        scene.engine.let_go(2)
        await until(lambda: scene.instances.idle == 1)
        scene.start(3, 4)
        await scene.begun(1, 2, 3)
        assert scene.instances.idle == -1
        scene.engine.let_go(1, 3, 4)
        await until(lambda: scene.instances.all_idle)
        assert {run.batch_seconds is not None for run in scene.runs[-1:]} == {True}


async def test_while_others_wait_replies_leave_together_when_the_last_row_has_found_a_lane() -> None:
    async with held() as scene:
        scene.more = True
        scene.start(1, 2, 3, 4)
        assert not scene.instances.ready
        scene.engine.let_go(1)
        await scene.begun(1, 2, 3)
        await asyncio.sleep(0.01)
        assert scene.told == []
        scene.engine.let_go(3)
        await until(lambda: scene.told == [[1, 3]])
        assert scene.instances.ready
        scene.start(5, 6)
        assert not scene.instances.ready
        scene.engine.let_go(2)  # its lane goes on with the next batch
        await scene.begun(1, 2, 3, 4, 5)
        await asyncio.sleep(0.01)
        assert scene.told == [[1, 3]]
        scene.engine.let_go(4)
        await until(lambda: scene.told == [[1, 3], [2, 4]])
        assert [run.batch_seconds is not None for run in scene.runs] == [False, False, False, True]
        scene.more = False
        scene.engine.let_go(5)
        await until(lambda: scene.told[2:] == [[5]])


async def test_without_lanes_the_next_batch_starts_when_the_last_has_run() -> None:
    async with held(lanes=0) as scene:
        scene.more = True
        scene.start(1)
        await scene.begun(1)
        assert not scene.instances.ready
        scene.engine.let_go(1)
        await until(lambda: scene.told == [[1]])
        assert scene.instances.ready


async def test_a_row_that_nobody_waits_for_is_not_made() -> None:
    async with held() as scene:
        jobs = scene.start(1, 2, 3, 4)
        await scene.begun(1, 2)
        with jobs[2]:
            pass
        scene.engine.let_go(1, 2, 4)
        await until(lambda: scene.instances.all_idle)
        assert sorted(scene.engine.begun) == [1, 2, 4]
        assert sum(run.batch_seconds is not None for run in scene.runs) == 1


async def test_a_row_that_fails_harms_no_other() -> None:
    async with held() as scene:
        scene.start(12, 13)
        await scene.begun(12, 13)
        scene.engine.let_go(12, 13)
        await until(lambda: scene.instances.all_idle)
        failed = {run.tickets[0].payload.request.seed: isinstance(run.results, RuntimeError) for run in scene.runs}
        assert failed == {12: False, 13: True}


async def test_a_row_that_failed_at_once_says_nothing_of_how_long_one_takes() -> None:
    async with held() as scene:
        scene.engine.let_go(13)
        scene.start(13)
        await until(lambda: scene.instances.all_idle)
        scene.start(1)  # on the event loop it would wait here for what comes next
        scene.engine.let_go(1)
        await until(lambda: scene.told == [[13], [1]])
