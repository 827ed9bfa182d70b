"""The end of a server: it finishes what it accepted, within the grace time, and refuses the rest."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub as Stub
from impasto.engine.null import write_null_bundle
from impasto.server import server as module
from impasto.server.config import ServerConfig
from impasto.server.server import Server
from tests.support.gate import HELD, Gate
from tests.support.inference import connected
from tests.support.waiting import GUARD

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
LARGE = 2048
"""Width and height of pictures of which two, raw, are more than a connection takes before the caller reads."""
RAW = pb.IMAGE_FORMAT_RAW_UINT8


def request(*seeds: int, model: str = "null", **fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(model=model, seeds=seeds, **fields)


async def queued(call: grpc.aio.UnaryStreamCall[Any, Any]) -> None:
    """Return when the server has accepted the request of a stream."""
    event = await call.read()
    assert isinstance(event, pb.GenerateEvent)
    assert event.WhichOneof("event") == "queued"


async def rest_of(call: grpc.aio.UnaryStreamCall[Any, Any]) -> list[str | None]:
    """The kinds of the events that a stream still has."""
    kinds = []
    while (event := await call.read()) is not grpc.aio.EOF:
        kinds.append(event.WhichOneof("event"))
    return kinds


async def not_serving(channel: grpc.aio.Channel) -> None:
    """Return when health has changed to NOT_SERVING."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    async for told in watch:
        if told.status == NOT_SERVING:
            watch.cancel()
            return


async def assert_refused(channel: grpc.aio.Channel) -> None:
    """New requests get UNAVAILABLE with a delay to come back after."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await Stub(channel).Generate(request(1))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert refused.value.details() == "the server is shutting down"
    assert ("retry-after-ms", "1000") in tuple(refused.value.trailing_metadata())


@asynccontextmanager
async def stopping(models: Path, **settings: Any) -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    """A server, which may be stopped before the block ends, and a channel to it."""
    settings = {"listen": "127.0.0.1:0", "metrics_listen": None, "models": (models,), "load": ("null",), **settings}
    server = Server(ServerConfig(**settings))
    async with server, connected(server) as channel:
        yield server, channel


async def test_what_was_accepted_is_finished_and_what_is_new_is_refused(null_models: Path, gate: Gate) -> None:
    async with stopping(null_models) as (server, channel):
        running = asyncio.ensure_future(Stub(channel).Generate(request(HELD, 1)))
        await gate.reached()
        waiting = Stub(channel).GenerateStream(request(2, 3, 4))
        await queued(waiting)
        stopped = asyncio.ensure_future(server.stop())
        await not_serving(channel)
        await assert_refused(channel)
        assert not stopped.done()
        gate.open()
        assert [picture.seed for picture in (await running).pictures] == [HELD, 1]
        assert await rest_of(waiting) == ["chunk"] * 3 + ["done"]
        await asyncio.wait_for(stopped, GUARD)


async def test_at_the_end_of_the_grace_time_waiting_calls_get_unavailable(null_models: Path, gate: Gate) -> None:
    async with stopping(null_models, drain_grace_s=0.2) as (server, channel):
        running = asyncio.ensure_future(Stub(channel).Generate(request(HELD)))
        await gate.reached()
        waiting = [Stub(channel).GenerateStream(request(seed)) for seed in range(3)]
        for call in waiting:
            await queued(call)
        stopped = asyncio.ensure_future(server.stop())
        for call in waiting:
            with pytest.raises(grpc.aio.AioRpcError) as aborted:
                await rest_of(call)
            assert aborted.value.code() is grpc.StatusCode.UNAVAILABLE
            assert aborted.value.details() == "the server has stopped"
        with pytest.raises(grpc.aio.AioRpcError) as aborted:
            await running
        assert aborted.value.code() is grpc.StatusCode.UNAVAILABLE
        gate.open()
        await asyncio.wait_for(stopped, GUARD)


async def test_a_server_with_nothing_to_finish_stops_without_its_grace_time(null_models: Path) -> None:
    async with stopping(null_models, drain_grace_s=1000.0) as (server, channel):
        assert len((await Stub(channel).Generate(request(1))).pictures) == 1
        await asyncio.wait_for(server.stop(), GUARD)


async def test_calls_that_are_on_their_way_are_refused_and_not_cancelled(
    null_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.5)  # a busy machine may take long to bring a call here
    monkeypatch.setattr(module, "LATEST_SECONDS", GUARD)
    async with stopping(null_models) as (server, channel):
        answered = [asyncio.Event() for _ in range(32)]

        async def call_until_refused(caller: int) -> None:
            while True:
                await Stub(channel).Generate(request(1, format=RAW))
                answered[caller].set()

        callers = [asyncio.ensure_future(call_until_refused(caller)) for caller in range(len(answered))]
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in answered)), GUARD)
        await asyncio.wait_for(server.stop(), GUARD)
        for caller in callers:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await asyncio.wait_for(caller, GUARD)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert refused.value.details() == "the server is shutting down"


async def test_calls_that_go_on_coming_do_not_keep_a_server(null_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET_SECONDS", 1.0)
    monkeypatch.setattr(module, "LATEST_SECONDS", 2.0)
    async with stopping(null_models, drain_grace_s=1000.0) as (server, channel):
        stopped = asyncio.ensure_future(server.stop())

        async def call_until_stopped() -> None:
            while not stopped.done():
                with pytest.raises(grpc.aio.AioRpcError):
                    await Stub(channel).Generate(request(1))

        await asyncio.wait_for(asyncio.gather(stopped, *(call_until_stopped() for _ in range(8))), GUARD)


async def test_a_caller_that_goes_away_is_not_waited_for(null_models: Path, gate: Gate) -> None:
    async with stopping(null_models, drain_grace_s=1000.0) as (server, channel):
        held = asyncio.ensure_future(Stub(channel).Generate(request(HELD)))
        await gate.reached()
        waiting = Stub(channel).GenerateStream(request(1))
        await queued(waiting)
        stopped = asyncio.ensure_future(server.stop())
        await not_serving(channel)
        waiting.cancel()
        held.cancel()
        gate.open()
        await asyncio.wait_for(stopped, GUARD)


@asynccontextmanager
async def command(models: Path) -> AsyncIterator[tuple[Process, grpc.aio.Channel]]:
    """`impasto serve` in a process of its own with a grace time of hours, and a channel to it."""
    write_null_bundle(models, "large", LARGE, LARGE)
    config = models / "impasto.toml"
    config.write_text('drain_grace_s = 10_000\nload = ["null", "large"]\nencode_threads = 1\n')
    options = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--models", models, "--config", config]
    arguments = ["-m", "impasto.cli", "serve", *map(str, options)]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stderr=PIPE)
    try:
        assert process.stderr is not None
        address = None
        while address is None:
            line = (await process.stderr.readline()).decode()
            assert line, "the server has ended"
            address = re.search(r"serving on (\S+)", line)
        # A connection that measures its own speed takes ever more before the caller reads, most on a busy machine.
        slow = [("grpc.max_receive_message_length", -1), ("grpc.http2.bdp_probe", 0)]
        async with grpc.aio.insecure_channel(address[1], slow) as channel:
            yield process, channel
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_sigterm_finishes_requests_in_flight_refuses_new_ones_and_exits_with_0(null_models: Path) -> None:
    async with command(null_models) as (process, channel):
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        calls = [Stub(channel).GenerateStream(request(seed, 7, model="large", format=RAW)) for seed in range(3)]
        for call in calls:
            await queued(call)
        process.send_signal(signal.SIGTERM)
        await not_serving(channel)
        await assert_refused(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        assert process.returncode is None
        for call in calls:
            assert await rest_of(call) == ["chunk"] * 2 * (LARGE * LARGE * 3 // 2**20) + ["done"]
        assert await asyncio.wait_for(process.wait(), GUARD) == 0


async def test_a_second_sigterm_ends_at_once_what_the_first_would_have_finished(null_models: Path) -> None:
    async with command(null_models) as (process, channel):
        unread = Stub(channel).GenerateStream(request(1, 2, model="large", format=RAW))
        waiting = Stub(channel).GenerateStream(request(0, count=256, model="large", format=pb.IMAGE_FORMAT_PNG))
        for call in (unread, waiting):
            await queued(call)
        process.send_signal(signal.SIGTERM)
        await not_serving(channel)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError) as aborted:
            await rest_of(waiting)
        assert aborted.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.wait_for(process.wait(), GUARD) == 0
