"""Previews and pictures through the encoding threads, to the job that asked for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from impasto.engine.picture import PictureRequest, Pixels
from impasto.errors import InternalError
from impasto.server.delivery import Delivery
from impasto.server.encoding import Data
from impasto.server.job import Job, Made, Previewed
from impasto.server.metrics import ModelMetrics

GUARD_SECONDS = 30.0


class Encoder:
    """Gives the picture's first value as data; the value 0 waits to be let through, and 255 cannot be encoded."""

    def __init__(self) -> None:
        self.encoded: list[int] = []
        self._gate = threading.Semaphore(0)

    def let_through(self, pictures: int) -> None:
        self._gate.release(pictures)

    def ready(self, pixels: Pixels) -> Data | None:
        return None

    def encode(self, pixels: Pixels, metadata: Mapping[str, Any]) -> Data:
        value = int(pixels.array[0, 0, 0])
        if value == 255:
            raise RuntimeError("too bright")
        if value == 0:
            assert self._gate.acquire(timeout=GUARD_SECONDS)
        self.encoded.append(value)
        return bytes([value])


def made(value: int, data: Data | None = None) -> Made:
    return Made(Pixels(hwc=np.full((1, 1, 3), value, np.uint8)), {}, 0.0, 0.0, 1, data)


@pytest.fixture
def job() -> Job:
    return Job([PictureRequest(seed=1)], Encoder(), lambda job: None, progress=True)


async def _some(job: Job, count: int) -> AsyncIterator[tuple[int, Any]]:
    """The next items of the job."""
    for _ in range(count):
        yield await anext(job)


async def delivered(job: Job) -> list[tuple[str, Data | None]]:
    """What the job tells, and the data of each."""
    return [
        ("preview", item.made.data) if isinstance(item, Previewed) else ("picture", item.data)
        async for _, item in job
        if isinstance(item, Previewed | Made)
    ]


async def test_of_previews_that_wait_only_the_newest_is_encoded(job: Job) -> None:
    encoder = job.encoder
    assert isinstance(encoder, Encoder)
    with ThreadPoolExecutor(3) as threads, job:
        delivery = Delivery(threads, ModelMetrics(), "painter", on_encoded=lambda: None)
        (row,) = job.rows
        for value in (0, 1, 2, 3):  # the first is held until the test lets it through
            delivery.preview(row, made(value))
        assert delivery.encoding == 0
        encoder.let_through(2)
        previews = [item.made.data async for _, item in _some(job, 2) if isinstance(item, Previewed)]
        assert previews == [b"\0", b"\3"]
        assert encoder.encoded == [0, 3]


@pytest.mark.parametrize("last", [made(2), made(2, b"\2")], ids=["encoded", "ready without work"])
async def test_no_preview_comes_after_its_picture(job: Job, last: Made) -> None:
    encoder = job.encoder
    assert isinstance(encoder, Encoder)
    with ThreadPoolExecutor(3) as threads, job:
        delivery = Delivery(threads, ModelMetrics(), "painter", on_encoded=lambda: None)
        (row,) = job.rows
        delivery.preview(row, made(0))
        delivery.preview(row, made(1))
        delivery.deliver(row, last)
        assert await delivered(job) == [("picture", b"\2")]
        encoder.let_through(2)
        await asyncio.to_thread(threads.shutdown)
        await asyncio.sleep(0)
        assert delivery.encoding == 0
        assert not job._ready
        assert 1 not in encoder.encoded


async def test_a_picture_that_cannot_be_encoded_fails_its_job(job: Job) -> None:
    with ThreadPoolExecutor(3) as threads, job:
        delivery = Delivery(threads, ModelMetrics(), "painter", on_encoded=lambda: None)
        delivery.deliver(job.rows[0], made(255))
        with pytest.raises(InternalError, match="encoding a picture of model painter failed"):
            await delivered(job)
        assert delivery.encoding == 0
