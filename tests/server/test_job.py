"""What a job keeps for a caller that reads slowly."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from impasto.engine.picture import PictureRequest, Pixels
from impasto.server.job import UNREAD_STEPS, Job, Made, Previewed, StepDone


def made(value: int) -> Made:
    return Made(Pixels(hwc=np.full((1, 1, 3), value, np.uint8)), {}, 0.0, 0.0, 1)


def shown(value: int) -> Previewed:
    return Previewed(made(value))


def value_of(item: Made | StepDone | Previewed) -> int:
    if isinstance(item, StepDone):
        return item.step
    picture = item.made if isinstance(item, Previewed) else item
    return int(picture.pixels.array[0, 0, 0])


@pytest.fixture
def job() -> Job:
    return Job([PictureRequest(seed=1), PictureRequest(seed=2)], None, lambda job: None, progress=True)


async def taken(job: Job) -> list[tuple[int, str, int]]:
    return [(index, type(item).__name__, value_of(item)) async for index, item in job]


async def test_of_a_thousand_steps_and_previews_not_taken_the_last_of_each_picture_are_kept(job: Job) -> None:
    with job:
        for step in range(1, 1001):
            for index in (0, 1):
                job.tell(index, StepDone(step, 1000))
                job.tell(index, shown(step % 200))
        job.deliver(1, made(201))
        job.deliver(0, made(202))
        told = await taken(job)
        for index in (0, 1):
            steps = [value for number, kind, value in told if number == index and kind == "StepDone"]
            assert steps == list(range(1001 - UNREAD_STEPS, 1001))
        assert [item for item in told if item[1] != "StepDone"] == [
            (0, "Previewed", 0),
            (1, "Previewed", 0),
            (1, "Made", 201),
            (0, "Made", 202),
        ]


async def test_a_caller_that_keeps_up_misses_nothing(job: Job) -> None:
    with job:
        for step in range(1, 6):
            job.tell(0, StepDone(step, 5))
            job.tell(0, shown(step))
            assert [value_of((await anext(job))[1]) for _ in range(2)] == [step, step]


async def test_what_is_told_anew_comes_after_what_was_told_before_it(job: Job) -> None:
    with job:
        job.tell(0, shown(1))
        job.tell(1, shown(2))
        job.tell(0, shown(3))
        assert [(index, value_of(item)) for index, item in [await anext(job) for _ in range(2)]] == [(1, 2), (0, 3)]


async def test_a_closed_job_keeps_no_picture_though_a_row_of_it_is_kept() -> None:
    job = Job([PictureRequest(seed=1), PictureRequest(seed=2)], None, lambda job: None)
    kept, pictures = job.rows[0], [made(1), made(2)]
    references = [weakref.ref(picture.pixels.array) for picture in pictures]
    with job:
        for index, picture in enumerate(pictures):
            job.deliver(index, picture)
        assert len(await job.all()) == 2
    kept.job.deliver(0, pictures[0])
    kept.job.tell(1, Previewed(pictures[1]))
    del pictures, picture
    assert all(reference() is None for reference in references)
