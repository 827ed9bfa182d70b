"""Explore over a real server: the newest request wins, and whoever asks or reads at any pace holds one frame."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.engine.null import write_null_bundle
from impasto.engine.picture import Floats
from impasto.engine.stepwise import StepRow
from impasto.server.explore import NewestRequest
from impasto.server.host import LoadedModel
from impasto.server.server import Server
from impasto.server.stepped import SteppedModel
from tests.server.test_bad_requests import BAD, BAD_SEED, break_on_bad_seed
from tests.support.bundles import write_tiny_bundle
from tests.support.diffusion import SIDE, write_tiny_diffusion
from tests.support.engines import GUARD_SECONDS, BatchGate, serving_gated, serving_hooked, until
from tests.support.generation import asking
from tests.support.inference import connected, serving
from tests.support.pictures import random_png

LARGE = 2048
"""Width and height of a picture that, raw, is more than a connection takes before the caller reads."""
DEADLINES = (0.5, 4.0, 32.0)
"""Seconds that a call has: the first that were enough to begin what the deadline is to end."""
INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED, INTERNAL = 3, 5, 8, 13


class Exploring:
    """A call of Explore; `arrived` counts the requests that the server has read, of all calls."""

    arrived = 0

    def __init__(self, stub: GenerationServiceStub, timeout: float | None = None) -> None:
        self.call: Any = stub.Explore(timeout=timeout)

    async def send(self, number: int, request: pb.GenerateRequest | None = None) -> None:
        """Return when the server has read the request, which is for the seed `number` of `null` by default."""
        before = Exploring.arrived
        await self.call.write(pb.ExploreRequest(id=number, request=request or asking("null", number)))
        await until(lambda: Exploring.arrived > before)

    async def reply(self) -> pb.ExploreReply:
        reply = await asyncio.wait_for(self.call.read(), 60.0)
        assert isinstance(reply, pb.ExploreReply), "the call has ended"
        return reply

    async def frame(self) -> tuple[int, int]:
        """The id of the next reply, which has a picture, and how many requests it skipped."""
        reply = await self.reply()
        assert reply.WhichOneof("outcome") == "picture", reply.error
        assert reply.latency_ms > 0
        return reply.id, reply.skipped

    async def error(self) -> tuple[int, str]:
        """Code and message of the next reply, which has an error."""
        reply = await self.reply()
        assert reply.WhichOneof("outcome") == "error"
        return reply.error.code, reply.error.message

    async def end(self) -> grpc.StatusCode:
        """The status, once there are no more replies."""
        try:
            assert await asyncio.wait_for(self.call.read(), 60.0) is grpc.aio.EOF
        except grpc.aio.AioRpcError as error:
            return error.code()
        code = await self.call.code()
        assert isinstance(code, grpc.StatusCode)
        return code


@pytest.fixture(autouse=True)
def _count_arrivals(monkeypatch: pytest.MonkeyPatch) -> None:
    put = NewestRequest.put

    def counted(newest: NewestRequest, message: pb.ExploreRequest) -> None:
        put(newest, message)
        Exploring.arrived += 1

    monkeypatch.setattr(NewestRequest, "put", counted)


class Scene:
    """A server of `null` whose batches wait at a gate."""

    def __init__(self, server: Server, stub: GenerationServiceStub, gate: BatchGate) -> None:
        self.server = server
        self.stub = stub
        self.gate = gate
        self.model: LoadedModel = server.host.get("null")

    async def started(self, *seeds: int) -> None:
        """Return when exactly the frames of these seeds have been begun."""
        await until(lambda: len(self.gate.batches) >= len(seeds))
        assert self.gate.batches == [[seed] for seed in seeds]

    async def idle(self) -> None:
        """Return when nothing waits or runs and no call is open."""
        await until(lambda: not (self.model.in_flight or self.model.queue_length or self.server._guard.in_flight))


@asynccontextmanager
async def gated(models: Path, side: int = 8, **settings: Any) -> AsyncIterator[Scene]:
    write_null_bundle(models, width=side, height=side)
    gate = BatchGate()
    async with serving_gated(models, "null", gate, **settings) as server, connected(server) as channel:
        yield Scene(server, GenerationServiceStub(channel), gate)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StyleGAN2 `tiny` of three classes, the same without classes as `plain`, and the diffusion model `ddpm`."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_bundle(folder)
    write_tiny_bundle(folder, "plain", c_dim=0)
    write_tiny_diffusion(folder, "ddpm")
    return folder


@asynccontextmanager
async def served(models: Path, *names: str, **settings: Any) -> AsyncIterator[tuple[Server, GenerationServiceStub]]:
    async with serving(models, *names, **settings) as server, connected(server) as channel:
        yield server, GenerationServiceStub(channel)


async def test_the_newest_request_replaces_the_one_that_waits(tmp_path: Path) -> None:
    async with gated(tmp_path) as scene:
        walk = Exploring(scene.stub)
        await walk.send(1)
        await scene.started(1)
        for number in (2, 3, 4):
            await walk.send(number)
        scene.gate.let_through(1)
        assert await walk.frame() == (1, 0)
        await scene.started(1, 4)
        scene.gate.let_through(1)
        assert await walk.frame() == (4, 2)
        await walk.call.done_writing()
        assert await walk.end() is grpc.StatusCode.OK
        assert scene.gate.batches == [[1], [4]]


@pytest.mark.parametrize("script", range(12))
async def test_a_frame_that_starts_is_always_of_the_newest_request(script: int, tmp_path: Path) -> None:
    """Requests and finished frames in random order: of the frames, only the one under way is older than the newest."""
    chance = random.Random(script)
    sent, started, answered, skipped = 0, list[int](), list[int](), 0
    async with gated(tmp_path) as scene:
        walk = Exploring(scene.stub)
        for _ in range(40):
            under_way = len(started) > len(answered)
            if not under_way or chance.random() < 0.6:
                sent += 1
                await walk.send(sent)
                if not under_way:
                    started.append(sent)
            else:
                scene.gate.let_through(1)
                number, without_reply = await walk.frame()
                answered.append(number)
                skipped += without_reply
                if number < sent and started[-1] < sent:
                    started.append(sent)
            await scene.started(*started)
        await walk.call.done_writing()
        scene.gate.open()
        while len(answered) < len(started) or answered[-1] < sent:
            number, without_reply = await walk.frame()
            answered.append(number)
            skipped += without_reply
        assert await walk.end() is grpc.StatusCode.OK
    assert answered == sorted(set(answered))
    assert answered[-1] == sent
    assert len(answered) + skipped == sent


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "psi": ("tiny", {"seeds": [7], "psi": 0.3, "label": 1}),
    "z": ("tiny", {"z": [pb.Latent(values=[0.1, 0.2, -0.3, 0.4])], "format": pb.IMAGE_FORMAT_RAW_FLOAT32}),
    "ws": ("tiny", {"ws": [pb.Latent(values=np.linspace(-1, 1, 16))], "format": pb.IMAGE_FORMAT_RAW_UINT8}),
    "a single count": ("tiny", {"seeds": [7], "count": 1, "format": pb.IMAGE_FORMAT_JPEG, "quality": 60}),
    "steps": ("ddpm", {"seeds": [7], "denoising": pb.Denoising(steps=3, sampler="dpmpp_2m", preview_every=1)}),
    "strength": (
        "ddpm",
        {"image": random_png(SIDE, SIDE), "denoising": pb.Denoising(steps=4, strength=0.5)},
    ),
}


@pytest.mark.parametrize("steps", [True, False], ids=["step by step", "request by request"])
async def test_a_frame_is_the_picture_that_generate_makes(models: Path, steps: bool) -> None:
    async with served(models, "tiny", "ddpm", batching={"steps": steps}) as (_, stub):
        for model in ("tiny", "ddpm"):
            walk = Exploring(stub)
            fields = [fields for named, fields in CASES.values() if named == model]
            for number, each in enumerate(fields):
                await walk.send(number, pb.GenerateRequest(model="" if number else model, **each))
                reply = await walk.reply()
                (picture,) = (await stub.Generate(pb.GenerateRequest(model=model, **each))).pictures
                assert len(picture.data) > 0
                assert (reply.id, reply.skipped, reply.picture) == (number, 0, picture)
            walk.call.cancel()


def asks_for_one_picture_of_tiny(request: pb.GenerateRequest) -> bool:
    pictures = len(request.seeds) + len(request.z) + len(request.ws)
    return (request.model, request.version, pictures) == ("tiny", "", 1) and not request.HasField("count")


async def test_a_call_goes_on_through_every_bad_request(models: Path) -> None:
    rows = [row for row in BAD.values() if asks_for_one_picture_of_tiny(row[0])]
    assert len(rows) >= 60
    async with served(models, "tiny") as (_, stub):
        walk = Exploring(stub)
        await walk.send(0, asking("tiny", 0))
        assert await walk.frame() == (0, 0)
        for number, (request, line) in enumerate(rows, start=1):
            await walk.send(number, request)
            code, message = await walk.error()
            assert code == INVALID_ARGUMENT
            assert line in message
            assert len(message) < 300
        await walk.send(1000, asking("tiny", 1))
        assert await walk.frame() == (1000, 0)


# What a call refuses that has begun with `tiny`, any version, and what it says.
REFUSED = [
    (asking("tiny", 1, 2), "seeds: found '2 entries'; allowed is 1"),
    (asking("tiny", 1, count=2), "count: found 2; allowed is 1"),
    (pb.GenerateRequest(), "seeds, z, ws: found 'none of them'; allowed is exactly one"),
    (asking("plain", 1), "model: found 'plain'; allowed is nothing, or 'tiny', which the call began with"),
    (asking("nope", 1), "model: found 'nope'; allowed is nothing, or 'tiny', which the call began with"),
    (asking("m" * 10_000, 1), "model: found 'mmm"),
    (asking("tiny", 1, version="1"), "version: found '1'; allowed is nothing in this call"),
]


async def test_each_request_is_for_one_picture_of_the_model_that_the_call_began_with(models: Path) -> None:
    async with served(models, "tiny", "plain") as (_, stub):
        walk = Exploring(stub)
        await walk.send(1, asking("", 1))
        assert await walk.error() == (INVALID_ARGUMENT, "model: found ''; allowed is a name of 1 to 100 characters")
        await walk.send(2, asking("m" * 10_000, 1))
        assert "a name of 1 to 100 characters" in (await walk.error())[1]
        await walk.send(3, asking("tiny", 1))
        assert await walk.frame() == (3, 0)
        for request, line in REFUSED:
            await walk.send(4, request)
            code, message = await walk.error()
            assert code == INVALID_ARGUMENT
            assert message.startswith(line)
            assert len(message) < 300
        await walk.send(5, asking("", 1))
        assert await walk.frame() == (5, 0)


async def test_an_unknown_model_is_not_found_and_those_there_are_listed(models: Path) -> None:
    async with served(models, "tiny", "plain") as (_, stub):
        walk = Exploring(stub)
        await walk.send(1, asking("nope", 1))
        assert await walk.error() == (NOT_FOUND, "model: found no 'nope'; there are: plain, tiny")
        await walk.send(2, asking("", 1))
        assert (await walk.error())[0] == NOT_FOUND


async def test_the_model_of_a_call_may_be_loaded_anew(models: Path) -> None:
    async with served(models, "tiny") as (server, stub):
        walk = Exploring(stub)
        await walk.send(1, asking("tiny", 1))
        assert await walk.frame() == (1, 0)
        await server.host.unload("tiny")
        await walk.send(2, asking("", 1))
        assert (await walk.error())[0] == NOT_FOUND
        await server.host.load("tiny")
        await walk.send(3, asking("", 1))
        assert await walk.frame() == (3, 0)


async def test_a_full_queue_is_told_with_a_delay_and_the_call_goes_on(tmp_path: Path) -> None:
    async with gated(tmp_path, batching={"max_queue": 1}) as scene:
        held = scene.stub.Generate(asking("null", 100))
        await scene.started(100)
        waiting = scene.stub.Generate(asking("null", 101))
        await until(lambda: scene.model.queue_length == 1)
        walk = Exploring(scene.stub)
        await walk.send(1)
        reply = await walk.reply()
        assert reply.error.code == RESOURCE_EXHAUSTED
        assert reply.error.retry_after_ms > 0
        scene.gate.open()
        assert len((await held).pictures) == len((await waiting).pictures) == 1
        await walk.send(2)
        assert await walk.frame() == (2, 0)


async def test_a_fault_of_the_engine_is_told_by_an_id_that_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_null_bundle(tmp_path, width=8, height=8)
    async with serving_hooked(tmp_path, "null", break_on_bad_seed) as server, connected(server) as channel:
        walk = Exploring(GenerationServiceStub(channel))
        await walk.send(1, asking("null", BAD_SEED))
        code, message = await walk.error()
        assert code == INTERNAL
        assert "secret" not in message
        fault = message.split()[-1]
        assert any(fault in record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
        await walk.send(2)
        assert await walk.frame() == (2, 0)


async def test_bytes_that_are_no_message_end_the_call(models: Path) -> None:
    async with serving(models, "tiny") as server, connected(server) as channel:
        call: Any = channel.stream_stream("/impasto.v1.GenerationService/Explore")()
        await call.write(b"\xff" * 50)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (refused.value.details() or "").startswith("request: found '50 bytes'; allowed is a serialised message")


async def test_a_message_over_the_limit_ends_the_call(models: Path) -> None:
    async with served(models, "tiny", limits={"receive_mib": 1}) as (_, stub):
        walk = Exploring(stub)
        large = asking("tiny", z=[pb.Latent(values=[0.0] * 2**19)])
        await walk.call.write(pb.ExploreRequest(id=1, request=large))
        assert await walk.end() is grpc.StatusCode.RESOURCE_EXHAUSTED
        again = Exploring(stub)
        await again.send(1, asking("tiny", 1))
        assert await again.frame() == (1, 0)


async def test_a_picture_over_the_limit_is_refused_before_it_is_made(tmp_path: Path) -> None:
    async with gated(tmp_path, side=1024, limits={"send_mib": 1}) as scene:
        walk = Exploring(scene.stub)
        await walk.send(1)
        code, message = await walk.error()
        assert code == INVALID_ARGUMENT
        assert message.startswith("seeds, z, ws: found '1 pictures'; allowed is at most 0 of this size and format")
        assert scene.gate.batches == []


async def test_a_half_closed_call_ends_after_its_last_frame(tmp_path: Path) -> None:
    async with gated(tmp_path) as scene:
        walk = Exploring(scene.stub)
        for number in (1, 2, 3):
            await walk.send(number)
            await scene.started(1)
        await walk.call.done_writing()
        scene.gate.let_through(2)
        assert [await walk.frame() for _ in range(2)] == [(1, 0), (3, 1)]
        assert await walk.end() is grpc.StatusCode.OK
        await scene.idle()


async def test_a_call_that_asks_for_nothing_ends_well(models: Path) -> None:
    async with served(models, "tiny") as (_, stub):
        walk = Exploring(stub)
        await walk.call.done_writing()
        assert await walk.end() is grpc.StatusCode.OK


async def test_a_cancelled_call_leaves_the_queue_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with gated(tmp_path) as scene:
        held = scene.stub.Generate(asking("null", 100))
        await scene.started(100)
        walk = Exploring(scene.stub)
        await walk.send(1)
        await walk.send(2)
        await until(lambda: scene.model.queue_length == 1)
        walk.call.cancel()
        await until(lambda: scene.model.queue_length == 0 and scene.model.in_flight == 1)
        scene.gate.open()
        assert len((await held).pictures) == 1
        await scene.idle()
        assert scene.gate.batches == [[100]]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def step_by_step(server: Server, seconds: float) -> tuple[SteppedModel, list[int]]:
    """The model `ddpm`, each of whose steps takes so long from now on, and the rows of each that it has begun."""
    model = server.host.get("ddpm")
    assert isinstance(model, SteppedModel)
    step, begun = model.engine.step, list[int]()

    def slow(rows: Sequence[StepRow]) -> dict[int, Floats]:
        begun.append(len(rows))
        time.sleep(seconds)
        return step(rows)

    model.engine.step = slow  # type: ignore[method-assign]
    return model, begun


async def test_a_cancelled_call_leaves_its_slot_before_its_last_step(models: Path) -> None:
    async with served(models, "ddpm") as (server, stub):
        model, begun = step_by_step(server, 0.02)
        walk = Exploring(stub)
        await walk.send(1, asking("ddpm", 1, denoising=pb.Denoising(steps=900, sampler="ddim")))
        await until(lambda: model.slots_in_use == 1)
        walk.call.cancel()
        await until(lambda: not (model.slots_in_use or model.queue_length or model.in_flight))
        assert len(begun) < 900


async def test_the_deadline_of_a_call_ends_it_with_the_frame_under_way(tmp_path: Path) -> None:
    async with gated(tmp_path) as scene:
        for seconds in DEADLINES:
            walk = Exploring(scene.stub, timeout=seconds)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await walk.call.write(pb.ExploreRequest(id=1, request=asking("null", 1)))
            assert await walk.end() is grpc.StatusCode.DEADLINE_EXCEEDED
            if scene.gate.batches:
                break
        assert scene.gate.batches == [[1]]
        await until(lambda: scene.server._guard.in_flight == 0 and scene.model.in_flight == 0)


async def test_a_frame_that_the_deadline_leaves_no_time_for_is_refused_at_once(models: Path) -> None:
    async with served(models, "ddpm") as (server, stub):
        _, begun = step_by_step(server, 0.1)
        walk = Exploring(stub)
        await walk.send(1, asking("ddpm", 1, denoising=pb.Denoising(steps=5)))
        assert await walk.frame() == (1, 0)
        late = Exploring(stub, timeout=50.0)
        await late.send(1, asking("ddpm", 1, denoising=pb.Denoising(steps=1000, sampler="ddim")))
        assert (await late.error())[0] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        assert len(begun) == 5


async def test_a_caller_that_does_not_read_holds_one_reply_and_no_place(tmp_path: Path) -> None:
    # A connection that measures its own speed takes ever more before the caller reads, most on a busy machine.
    slow = [("grpc.max_receive_message_length", -1), ("grpc.http2.bdp_probe", 0)]
    async with (
        gated(tmp_path, side=LARGE) as scene,
        grpc.aio.insecure_channel(scene.server.address, slow) as channel,
    ):
        scene.gate.open()
        walk = Exploring(GenerationServiceStub(channel))
        await walk.send(1)
        await until(lambda: scene.gate.batches == [[1]] and scene.model.in_flight == 0)
        for number in range(2, 12):
            await walk.send(number)
        (other,) = (await scene.stub.Generate(asking("null", 100))).pictures
        assert len(other.data) == LARGE * LARGE * 3
        assert scene.gate.batches == [[1], [100]]
        assert scene.model.in_flight == scene.model.queue_length == 0
        assert [await walk.frame() for _ in range(2)] == [(1, 0), (11, 9)]
        walk.call.cancel()
        await scene.idle()


async def test_calls_do_not_hold_up_each_other(tmp_path: Path) -> None:
    async with gated(tmp_path) as scene:
        walks = [Exploring(scene.stub) for _ in range(5)]
        scene.gate.open()
        for number in (1, 2):
            for walk in walks:
                await walk.send(number)
            assert [(await walk.frame())[0] for walk in walks] == [number] * 5


async def test_a_draining_server_finishes_the_frame_under_way_and_ends_the_call(tmp_path: Path) -> None:
    async with gated(tmp_path, drain_grace_s=1000.0) as scene:
        busy, silent = Exploring(scene.stub), Exploring(scene.stub)
        await busy.send(1)
        await scene.started(1)
        await busy.send(2)
        await until(lambda: scene.server._guard.in_flight == 2)
        stopped = asyncio.create_task(scene.server.stop())
        assert await silent.end() is grpc.StatusCode.UNAVAILABLE
        scene.gate.let_through(1)
        assert await busy.frame() == (1, 0)
        assert await busy.end() is grpc.StatusCode.UNAVAILABLE
        await asyncio.wait_for(stopped, GUARD_SECONDS)
        assert scene.gate.batches == [[1]]


async def test_calls_and_refused_requests_are_counted(models: Path) -> None:
    async with served(models, "tiny") as (server, stub):
        walk = Exploring(stub)
        await walk.send(1, asking("tiny", 1))
        await walk.frame()
        for number in (2, 3):
            await walk.send(number, asking("", -1))
            await walk.error()
        await walk.call.done_writing()
        assert await walk.end() is grpc.StatusCode.OK
        await until(lambda: server._guard.in_flight == 0)
        samples = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in server.metrics.collect()
            for sample in family.samples
        }
    assert samples["impasto_requests_total", "Explore", "OK", "tiny"] == 1
    assert samples["impasto_rejections_total", "InvalidRequest", "tiny"] == 2
