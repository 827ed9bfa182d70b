"""Previews and pictures through the encoding threads, to the job that asked for them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
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
    """Gives the picture's first value as data; the value 0 is done after all others, and 255 cannot be encoded."""

    def __init__(self, others: int) -> None:
        self._done = threading.Semaphore(0)
        self._others = others

    def ready(self, pixels: Pixels) -> Data | None:
        return None

    def encode(self, pixels: Pixels, metadata: Mapping[str, Any]) -> Data:
        value = int(pixels.array[0, 0, 0])
        if value == 255:
            raise RuntimeError("too bright")
        for _ in range(self._others if value == 0 else 0):
            assert self._done.acquire(timeout=GUARD_SECONDS)
        self._done.release()
        return bytes([value])


def made(value: int, data: Data | None = None) -> Made:
    return Made(Pixels(hwc=np.full((1, 1, 3), value, np.uint8)), {}, 0.0, 0.0, 1, data)


@pytest.fixture
def job() -> Job:
    return Job([PictureRequest(seed=1)], Encoder(others=2), lambda job: None, progress=True)


async def delivered(job: Job) -> list[tuple[str, Data | None]]:
    """What the job tells, and the data of each."""
    return [
        ("preview", item.made.data) if isinstance(item, Previewed) else ("picture", item.data)
        async for _, item in job
        if isinstance(item, Previewed | Made)
    ]


@pytest.mark.parametrize("last", [made(2), made(2, b"\2")], ids=["encoded", "ready without work"])
async def test_a_picture_comes_after_its_newest_preview(job: Job, last: Made) -> None:
    with ThreadPoolExecutor(3) as threads, job:
        delivery = Delivery(threads, ModelMetrics(), "painter", on_encoded=lambda: None)
        (row,) = job.rows
        delivery.preview(row, made(0))
        delivery.preview(row, made(1))
        delivery.deliver(row, last)
        assert await delivered(job) == [("preview", b"\1"), ("picture", b"\2")]
        assert delivery.encoding == 0


async def test_a_picture_that_cannot_be_encoded_fails_its_job(job: Job) -> None:
    with ThreadPoolExecutor(3) as threads, job:
        delivery = Delivery(threads, ModelMetrics(), "painter", on_encoded=lambda: None)
        delivery.deliver(job.rows[0], made(255))
        with pytest.raises(InternalError, match="encoding a picture of model painter failed"):
            await delivered(job)
        assert delivery.encoding == 0
