"""Sessions of both clients: frames while their parameters change."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import impasto
from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.client import Frame, Session
from impasto.client.frames import Frames
from impasto.errors import (
    Cancelled,
    DeadlineExceeded,
    ImpastoError,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    Unavailable,
)
from impasto.server.explore import NewestRequest
from tests.client.conftest import running
from tests.client.scripted import Failure, Scripted, pixels, serving
from tests.support.diffusion import SIDE, write_tiny_diffusion
from tests.support.engines import until
from tests.support.gate import HELD, Gate
from tests.support.pictures import random_pixels

SOON = 30.0
"""Seconds within which what must come has come."""


class OnThreads:
    """The synchronous session, whose waiting other threads do."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.send = session.send
        self.finish = session.finish

    async def latest(self, timeout: float | None = SOON) -> Frame | None:  # noqa: ASYNC109
        return await asyncio.to_thread(self.session.latest, timeout)

    async def close(self) -> None:
        await asyncio.to_thread(self.session.close)


@asynccontextmanager
async def explore_sync(target: str, model: str, **options: Any) -> AsyncIterator[Any]:
    with impasto.Client(target) as client, client.explore(model, **options) as session:
        yield OnThreads(session)


@asynccontextmanager
async def explore_async(target: str, model: str, **options: Any) -> AsyncIterator[Any]:
    async with impasto.AsyncClient(target) as client, client.explore(model, **options) as session:
        yield session


Explore = Callable[..., AbstractAsyncContextManager[Any]]
both = pytest.mark.parametrize("explore", [explore_sync, explore_async])


@pytest.fixture
def service() -> Scripted:
    return Scripted()


@pytest.fixture
def target(service: Scripted) -> Iterator[str]:
    with serving(service) as address:
        yield address


@both
async def test_a_frame_is_the_picture_that_generate_makes(explore: Explore, server: str) -> None:
    with impasto.Client(server) as client:
        async with explore(server, "tiny") as session:
            for number, psi in enumerate((0.2, 0.7, 1.0), start=1):
                assert session.send(seeds=7, psi=psi, label=1) == number
                frame = await session.latest(SOON)
                (wanted,) = client.generate("tiny", seeds=7, psi=psi, label=1)
                assert np.array_equal(frame.picture.array, wanted.array)
                assert frame.picture.metadata == wanted.metadata
                assert (frame.id, frame.skipped, frame.error) == (number, 0, None)
                assert frame.latency_ms > 0


@both
async def test_a_frame_of_a_diffusion_model_is_the_picture_that_generate_makes(
    explore: Explore, tmp_path: Path
) -> None:
    write_tiny_diffusion(tmp_path)
    parameters: dict[str, Any] = {"seeds": 7, "steps": 4, "image": random_pixels(SIDE, SIDE), "format": "png"}
    with running(tmp_path, load=("ddpm",)) as address, impasto.Client(address) as client:
        async with explore(address, "ddpm") as session:
            for strength in (0.3, 0.9):
                session.send(strength=strength, **parameters)
                frame = await session.latest(SOON)
                assert frame.picture.encoded == client.generate("ddpm", strength=strength, **parameters)[0].encoded


@both
async def test_of_requests_sent_while_a_frame_is_made_the_newest_gets_the_next(
    explore: Explore, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, put = list[int](), NewestRequest.put

    def listing(newest: NewestRequest, message: pb.ExploreRequest) -> None:
        put(newest, message)
        arrived.append(message.id)

    monkeypatch.setattr(NewestRequest, "put", listing)
    gate = Gate(monkeypatch)
    try:
        async with explore(server, "null") as session:
            session.send(seeds=HELD)
            await gate.reached()
            for seed in range(5):
                session.send(seeds=seed)
            await until(lambda: 6 in arrived)
            gate.open()
            frames = [await session.latest(SOON)]
            if frames[0].id == 1:  # else the newer has come before it was taken
                frames.append(await session.latest(SOON))
    finally:
        gate.open()
    assert frames[-1].id == 6
    assert frames[-1].picture.seed == 4
    assert sum(frame.skipped for frame in frames) + len(frames) == 6


@both
async def test_a_reader_who_comes_late_finds_the_newest_frame_alone(
    explore: Explore, service: Scripted, target: str
) -> None:
    async with explore(target, "scripted") as session:
        for number in (1, 2, 3):
            session.send(seeds=number)
            await until(lambda number=number: service.answered == number)  # type: ignore[misc]
        newest = await session.latest(SOON)
        while newest.id < 3:  # the reply has left the server, and may not be here yet
            newest = await session.latest(SOON)
        assert np.array_equal(newest.picture.array, pixels(3))
        assert await session.latest(0) is None
        assert await session.latest(0.05) is None


@both
async def test_everything_sent_at_full_speed_is_a_frame_or_counted_as_skipped(explore: Explore, server: str) -> None:
    frames: list[Frame] = []
    async with explore(server, "null") as session:

        async def send() -> None:
            for seed in range(300):
                session.send(seeds=seed)
                if seed % 3 == 0:
                    await asyncio.sleep(0)

        async def read() -> None:
            while (frame := await session.latest(SOON)) is not None:
                frames.append(frame)

        reading = asyncio.create_task(read())
        await send()
        session.finish()
        await reading
    assert [frame.id for frame in frames] == sorted({frame.id for frame in frames})
    assert frames[-1].picture.seed == 299
    assert sum(frame.skipped for frame in frames) + len(frames) == 300


def test_one_thread_sends_while_another_iterates_to_the_end(server: str) -> None:
    with impasto.Client(server) as client, client.explore("tiny") as session:

        def send() -> None:
            for seed in range(100):
                session.send(seeds=seed)
            session.finish()

        sender = threading.Thread(target=send)
        sender.start()
        frames = list(session)
        sender.join()
    assert frames[-1].picture.seed == 99
    assert sum(frame.skipped for frame in frames) + len(frames) == 100


async def test_an_asynchronous_session_is_iterated_to_its_end(server: str) -> None:
    async with impasto.AsyncClient(server) as client, client.explore("tiny") as session:
        session.send(seeds=3)
        session.finish()
        assert [frame.picture.seed async for frame in session] == [3]


@both
async def test_a_refused_request_has_its_error_in_its_frame_and_the_session_goes_on(
    explore: Explore, server: str
) -> None:
    async with explore(server, "tiny") as session:
        session.send(seeds=1, psi=float("nan"))
        frame = await session.latest(SOON)
        assert frame.id == 1
        assert isinstance(frame.error, InvalidRequest)
        assert frame.error.field == "psi"
        with pytest.raises(InvalidRequest, match="psi: found nan"):
            _ = frame.picture
        with pytest.raises(InvalidRequest, match="seeds, z, ws: found '2 pictures'; allowed is exactly one"):
            session.send(seeds=[1, 2])
        assert session.send(seeds=1) == 2
        assert (await session.latest(SOON)).picture.seed == 1


@both
async def test_a_model_that_is_not_there_is_the_error_of_a_frame(explore: Explore, server: str) -> None:
    async with explore(server, "tinny") as session:
        session.send(seeds=1)
        frame = await session.latest(SOON)
        with pytest.raises(ModelNotFound, match=r"found no 'tinny'; there are: .*tiny"):
            _ = frame.picture


@both
async def test_closing_ends_the_call_at_once(explore: Explore, service: Scripted, target: str) -> None:
    async with explore(target, "scripted") as session:
        session.send(seeds=1)
        assert (await session.latest(SOON)).id == 1
        await session.close()
        assert await asyncio.to_thread(service.left.wait, SOON)
        with pytest.raises(Cancelled):
            session.send(seeds=2)
        with pytest.raises(Cancelled):
            await session.latest()


@both
async def test_nothing_is_sent_after_the_finish(explore: Explore, target: str) -> None:
    async with explore(target, "scripted") as session:
        session.send(seeds=1)
        session.finish()
        with pytest.raises(Cancelled, match="takes no more requests"):
            session.send(seeds=2)
        assert (await session.latest(SOON)).id == 1
        assert await session.latest(SOON) is None


@both
async def test_what_ends_a_call_is_raised(explore: Explore, service: Scripted, target: str) -> None:
    service.failures = [Failure(grpc.StatusCode.UNAVAILABLE, "the server is shutting down", retry_after_ms=500)]
    async with explore(target, "scripted") as session:
        session.send(seeds=1)
        for _ in range(2):
            with pytest.raises(Unavailable, match="the server is shutting down") as ended:
                await session.latest(SOON)
            assert ended.value.retry_after == 0.5
        with pytest.raises(Unavailable):
            session.send(seeds=2)


@both
async def test_a_server_out_of_reach_is_unavailable(explore: Explore) -> None:
    async with explore("127.0.0.1:1", "tiny") as session:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
            await session.latest(SOON)


@both
async def test_the_timeout_bounds_the_session(explore: Explore, target: str) -> None:
    async with explore(target, "scripted", timeout=0.2) as session:
        with pytest.raises(DeadlineExceeded):
            await session.latest(SOON)


@both
async def test_a_reply_that_answers_nothing_is_an_error_of_the_servers(
    explore: Explore, service: Scripted, target: str
) -> None:
    service.first_id = 5
    async with explore(target, "scripted") as session:
        session.send(seeds=1)
        with pytest.raises(InternalError, match="explore: found a reply to 5; next is one of 1 to 1"):
            await session.latest(SOON)


@both
async def test_version_and_priority_go_with_every_request(explore: Explore, service: Scripted, target: str) -> None:
    async with explore(target, "scripted", version="3", priority=1) as session:
        for seed in (1, 2):
            session.send(seeds=seed, psi=0.5)
            await session.latest(SOON)
    raw = pb.IMAGE_FORMAT_RAW_UINT8
    assert service.requests == [
        pb.GenerateRequest(model="scripted", version="3", priority=1, seeds=[seed], psi=0.5, format=raw)
        for seed in (1, 2)
    ]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (3, InvalidRequest),
        (4, DeadlineExceeded),
        (5, ModelNotFound),
        (8, QueueFull),
        (13, InternalError),
        (14, Unavailable),
        (99, ImpastoError),
    ],
)
def test_the_error_of_a_frame_is_of_its_own_class(code: int, kind: type[ImpastoError]) -> None:
    frames = Frames("tiny", "", 0, "host:1")
    frames.request(seeds=1)
    error = pb.ExploreError(code=code, message="not now", retry_after_ms=20)
    shown = frames.frame(pb.ExploreReply(id=1, error=error)).error
    assert type(shown) is kind
    assert "not now" in str(shown)
    if isinstance(shown, QueueFull | Unavailable):
        assert shown.retry_after == 0.02
