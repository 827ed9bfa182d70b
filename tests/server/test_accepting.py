"""The gRPC server asks for several calls at a time, and leaves none of what it asked for when it stops."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub as Stub
from impasto.server import accepting
from impasto.server.accepting import AHEAD
from tests.support.inference import connected, serving
from tests.support.waiting import GUARD

REQUEST = pb.GenerateRequest(model="null", seeds=[7], format=pb.IMAGE_FORMAT_RAW_UINT8)


def asked() -> int:
    """Calls that the loop's server waits for: tasks in which gRPC asks for one."""
    coroutines: list[Any] = [task.get_coro() for task in asyncio.all_tasks()]
    return sum(coroutine.__qualname__ == "AioServer._request_call" for coroutine in coroutines)


async def replies(channel: grpc.aio.Channel, calls: int) -> list[pb.GenerateResponse]:
    together = asyncio.gather(*(Stub(channel).Generate(REQUEST) for _ in range(calls)))
    return await asyncio.wait_for(together, GUARD)


@pytest.mark.skipif(
    not hasattr(cygrpc.AioServer, "_make_request_call_future"), reason="this version of gRPC asks in another way"
)
async def test_several_calls_are_asked_for_before_they_come_and_again_when_they_have_come(null_models: Path) -> None:
    async with serving(null_models, "null") as server, connected(server) as channel:
        assert asked() == AHEAD
        made = await replies(channel, 5 * AHEAD)
        assert [reply.pictures[0].seed for reply in made] == [7] * 5 * AHEAD
        assert asked() == AHEAD


async def test_a_server_that_stops_leaves_nothing_asked_for(
    null_models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with serving(null_models, "null") as server, connected(server) as channel:
            await replies(channel, AHEAD)
        await asyncio.sleep(0)
        assert asked() == 0
    assert caplog.messages == []


async def test_a_grpc_whose_insides_have_other_names_serves_too(
    null_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "cygrpc", SimpleNamespace())
    async with serving(null_models, "null") as server, connected(server) as channel:
        assert asked() <= 1
        assert len(await replies(channel, AHEAD)) == AHEAD


async def test_calls_that_nobody_has_taken_end_when_grpc_stops(null_models: Path) -> None:
    connection, go, sent = (threading.Event() for _ in range(3))
    ends: list[grpc.StatusCode | None] = []

    def call(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            Stub(channel).Generate(REQUEST)
            connection.set()
            go.wait()
            calls = [Stub(channel).Generate.future(REQUEST) for _ in range(3 * AHEAD)]
            sent.set()
            ends.extend(getattr(call.exception(), "code", lambda: None)() for call in calls)

    async with serving(null_models, "null") as server:
        caller = threading.Thread(target=call, args=(server.address,), daemon=True)
        caller.start()
        await asyncio.to_thread(connection.wait)
        go.set()
        sent.wait()
        threading.Event().wait(0.5)  # gRPC takes them in, and this loop, which is held here, none
        await asyncio.wait_for(server._grpc.stop(GUARD), GUARD / 4)
        await asyncio.wait_for(asyncio.to_thread(caller.join), GUARD)
    assert len(ends) == 3 * AHEAD
    assert None not in ends[-AHEAD:]
