"""Diffusion behind a real server: pictures join and leave the batch between two steps."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.denoising import Denoising
from impasto.engine.generator import load
from impasto.engine.picture import Floats, PictureRequest, Pixels
from impasto.engine.stepwise import StepRow
from impasto.errors import InvalidRequest
from impasto.server.config import MEBIBYTE
from impasto.server.server import Server
from impasto.server.stepped import SteppedModel
from tests.support.diffusion import write_tiny_diffusion
from tests.support.generation import asking, collect, status_of
from tests.support.inference import connected, serving
from tests.support.previews import each_preview_taken
from tests.support.waiting import GUARD, until

MODEL = "ddpm"
SIZED = "sd15"
REQUESTS = 2_000
GROWTH = 20 * MEBIBYTE


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_diffusion(folder, MODEL)
    return folder


@pytest.fixture(scope="module")
def sized_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sized-models")
    write_tiny_diffusion(folder, SIZED)
    return folder


class Scene:
    """A server of the model, its stub, and what each step of its engine ran: (seed, call), in order.

    While `may_step` is clear, a step that has begun waits.
    """

    def __init__(self, server: Server, model: SteppedModel, stub: GenerationServiceStub) -> None:
        self.server = server
        self.model = model
        self.stub = stub
        self.steps: list[list[tuple[int, int]]] = []
        self.before_step: Any = lambda rows: None
        self.may_step = threading.Event()
        self.may_step.set()
        self._seeds: dict[int, int] = {}
        self._engine = model.engine
        self._start, self._step = model.engine.start, model.engine.step
        model.engine.start = self.start  # type: ignore[method-assign]
        model.engine.step = self.step  # type: ignore[method-assign]

    def start(self, slot: int, request: PictureRequest) -> None:
        self._start(slot, request)
        self._seeds[slot] = request.seed or 0

    def step(self, rows: Sequence[StepRow]) -> dict[int, Floats]:
        ran = [(self._seeds[row.slot], row.call) for row in rows]
        assert self.may_step.wait(GUARD)
        self.before_step(ran)
        previews = self._step(rows)
        self.steps.append(ran)
        return previews

    def ask(self, *seeds: int, timeout: float | None = None, **denoising: Any) -> Any:
        """A call that is under way."""
        request = asking(self.model.name, *seeds, denoising=pb.Denoising(**denoising))
        return self.stub.Generate(request, timeout=timeout)

    async def accepted(self, calls: int) -> None:
        """Return when so many calls are under way."""

        async def there() -> bool:
            return self.model.in_flight == calls

        await until(there)

    async def all_at_once(self, wanted: Sequence[dict[str, Any]]) -> list[Any]:
        """The replies to a call for each seed from 0 on; the first step waits for all of them."""
        self.may_step.clear()
        calls = [self.ask(seed, **each) for seed, each in enumerate(wanted)]
        await self.accepted(len(calls))
        self.may_step.set()
        return await asyncio.gather(*calls)

    async def stepped(self, steps: int) -> None:
        """Return when the engine has made so many steps more."""
        wanted = len(self.steps) + steps

        async def there() -> bool:
            return len(self.steps) >= wanted

        await until(there)

    async def idle(self) -> None:
        """Return when nothing waits and every slot is free."""

        async def free() -> bool:
            return not (self.model.slots_in_use or self.model.queue_length or self.model.in_flight)

        await until(free)


@asynccontextmanager
async def scene_of(models: Path, name: str = MODEL, **settings: Any) -> AsyncIterator[Scene]:
    async with serving(models, name, **settings) as server, connected(server) as channel:
        model = server.host.get(name)
        assert isinstance(model, SteppedModel)
        yield Scene(server, model, GenerationServiceStub(channel))


async def test_a_stream_tells_of_the_queue_each_step_previews_and_the_picture(models: Path) -> None:
    request = asking(MODEL, 7, denoising=pb.Denoising(steps=5, preview_every=2))
    with each_preview_taken():
        async with scene_of(models) as scene:
            pictures, events = await collect(scene.stub.GenerateStream(request))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "queued"
    assert kinds[-1] == "done"
    steps = [(event.step.step, event.step.steps) for event in events if event.WhichOneof("event") == "step"]
    assert steps == [(step, 5) for step in range(1, 6)]
    previews = [event.preview.picture for event in events if event.WhichOneof("event") == "preview"]
    assert [len(preview.data) for preview in previews] == [16 * 16 * 3] * 2
    assert len({preview.data for preview in previews} | {pictures[0].data}) == 3


async def test_pictures_of_a_mix_are_those_that_are_made_alone(models: Path) -> None:
    wanted = [
        {"steps": 3 + seed % 4 * 5, "sampler": ("dpmpp_2m", "euler_a", "unipc", "heun")[seed % 4]} for seed in range(24)
    ]
    async with scene_of(models) as scene:
        replies = await scene.all_at_once(wanted)
        largest = max(len(ran) for ran in scene.steps)
    with load(MODEL, models=models) as generator:
        for seed, (reply, each) in enumerate(zip(replies, wanted, strict=True)):
            alone = generator.generate(seeds=seed, **each)[0]  # type: ignore[arg-type]
            assert reply.pictures[0].data == alone.array.tobytes()
    assert largest == min(len(wanted), scene.model.engine.buckets[-1])


async def test_a_short_request_behind_long_ones_starts_within_two_steps(models: Path) -> None:
    async with scene_of(models) as scene:
        most = scene.model.engine.buckets[-1]
        scene.may_step.clear()
        long = [scene.ask(seed, steps=50) for seed in range(3 * most)]
        await scene.accepted(len(long))
        scene.may_step.set()
        await scene.stepped(3)
        scene.may_step.clear()
        short = scene.ask(100, steps=4)
        await scene.accepted(len(long) + 1)
        before = len(scene.steps)
        scene.may_step.set()
        await short
        first = next(index for index, ran in enumerate(scene.steps) if (100, 0) in ran)
        last = next(index for index, ran in enumerate(scene.steps) if (100, 3) in ran)
        await asyncio.gather(*long)
    assert first - before <= 2
    assert last - first == 3


async def test_pictures_of_other_sizes_take_turns_and_are_those_that_are_made_alone(sized_models: Path) -> None:
    sizes = ((16, 16), (24, 8), (8, 24))
    wanted = [
        {"steps": 40, "sampler": "ddim", "width": sizes[seed % 3][0], "height": sizes[seed % 3][1]} for seed in range(9)
    ]
    async with scene_of(sized_models, SIZED) as scene:
        replies = await scene.all_at_once(wanted)
        ran = [{seed % 3 for seed, _ in step} for step in scene.steps]
    assert {len(groups) for groups in ran} == {1}, "a step has rows of one size"
    turns = [groups.pop() for groups in ran]
    before_one_is_done = turns[: min(len(turns) - turns[::-1].index(group) for group in range(3))]
    assert min(before_one_is_done.count(group) for group in range(3)) >= 5
    with load(SIZED, models=sized_models) as generator:
        for seed, (reply, each) in enumerate(zip(replies, wanted, strict=True)):
            alone = generator.generate(seeds=seed, **each)[0]  # type: ignore[arg-type]
            assert alone.array.shape == (each["height"], each["width"], 3)
            assert reply.pictures[0].data == alone.array.tobytes()


async def test_a_cancelled_request_leaves_its_slot_at_the_next_step(models: Path) -> None:
    requests = [PictureRequest(seed, denoising=Denoising(steps=900, sampler="ddim")) for seed in range(2)]
    async with scene_of(models) as scene:
        with scene.model.submit(requests[1:]):
            with scene.model.submit(requests[:1]):
                await scene.stepped(3)
                assert scene.model.slots_in_use == 2
            before = len(scene.steps)  # one more may be under way
            await scene.stepped(5)
            assert sum((seed == 0) for ran in scene.steps[before:] for seed, _ in ran) <= 1
            assert scene.model.slots_in_use == 1
        await scene.idle()


async def test_a_deadline_that_cannot_be_met_any_more_ends_a_request_at_once(models: Path) -> None:
    async with scene_of(models) as scene:
        await scene.ask(1, steps=20)
        error = await status_of(scene.ask(2, steps=900, timeout=0.3))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await scene.idle()
        assert len((await scene.ask(3, steps=2)).pictures) == 1


async def test_a_fault_in_a_step_fails_its_batch_and_nothing_else(models: Path) -> None:
    async with scene_of(models) as scene:

        def broken(ran: list[tuple[int, int]]) -> None:
            if (13, 2) in ran:
                raise RuntimeError("out of memory")

        scene.before_step = broken
        error = await status_of(scene.ask(13, steps=4))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "out of memory" not in (error.details() or "")
        await scene.idle()
        assert len((await scene.ask(14, steps=4)).pictures) == 1


async def test_a_request_that_cannot_start_does_not_harm_its_batch_mates(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene_of(models) as scene:
        start = scene.model.engine.start

        def refusing(slot: int, request: PictureRequest) -> None:
            if request.seed == 13:
                raise InvalidRequest("prompt", "13", "another")
            start(slot, request)

        monkeypatch.setattr(scene.model.engine, "start", refusing)
        error, good = await asyncio.gather(status_of(scene.ask(13, steps=4)), scene.ask(14, 15, steps=4))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert len(good.pictures) == 2
        await scene.idle()


async def test_decoding_delays_the_next_step_by_one_batch_at_most(
    sized_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene_of(sized_models, SIZED) as scene:
        engine, done = scene.model.engine, list[str]()
        step, decode = engine.step, engine.decode

        def stepping(rows: Sequence[StepRow]) -> dict[int, Floats]:
            done.append("step")
            return step(rows)

        def decoding(latents: Sequence[Floats]) -> list[Pixels]:
            assert len(latents) <= engine.decode_batch
            done.append("decode")
            return decode(latents)

        monkeypatch.setattr(engine, "step", stepping)
        monkeypatch.setattr(engine, "decode", decoding)
        # Four at a time end in the same step.
        wanted = {"sampler": "ddim", "guidance_scale": 1.0, "prompt": "night"}
        await scene.all_at_once([wanted | {"steps": 3 if seed < 16 else 40} for seed in range(20)])
    order = "".join(kind[0] for kind in done)
    assert order.count("d") == 20
    assert "dd" not in order[: order.rindex("s")]


async def test_a_model_that_is_unloaded_finishes_what_it_accepted(models: Path) -> None:
    async with scene_of(models) as scene:
        scene.may_step.clear()
        call = scene.ask(1, 2, 3, steps=20)
        await scene.accepted(1)
        unloaded = asyncio.ensure_future(scene.server.host.unload(MODEL))
        error = await status_of(scene.ask(4, steps=1))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        scene.may_step.set()
        await unloaded
        assert len((await call).pictures) == 3


async def test_request_by_request_batching_makes_the_same_pictures(models: Path) -> None:
    request = asking(MODEL, 1, 2, 3, denoising=pb.Denoising(steps=6))
    replies = []
    for steps in (True, False):
        async with serving(models, MODEL, batching={"steps": steps}) as server, connected(server) as channel:
            assert isinstance(server.host.get(MODEL), SteppedModel) is steps
            replies.append(await GenerationServiceStub(channel).Generate(request))
    assert [picture.data for picture in replies[0].pictures] == [picture.data for picture in replies[1].pictures]


@pytest.mark.slow
async def test_thirty_percent_of_two_thousand_streams_cancelled_at_random_steps_leave_nothing_behind(
    models: Path,
) -> None:
    steps, seeds = (2, 4, 8), range(8)
    with load(MODEL, models=models) as generator:
        right = {
            (seed, count): generator.generate(seeds=seed, steps=count)[0].array.tobytes()
            for seed in seeds
            for count in steps
        }
    chance = random.Random(4)
    outcomes: Counter[str] = Counter()

    async def visit(stub: GenerationServiceStub) -> None:
        seed, count = chance.choice(seeds), chance.choice(steps)
        request = asking(MODEL, seed, denoising=pb.Denoising(steps=count))
        stream = stub.GenerateStream(request)
        if chance.random() < 0.3:
            for _ in range(chance.randint(1, count)):  # the first event is that it is queued
                await stream.read()
            outcomes["cancelled" if stream.cancel() else "too late"] += 1
            return
        pictures, _ = await collect(stream)
        assert pictures[0].data == right[seed, count]
        outcomes["good"] += 1

    async def visits(stub: GenerationServiceStub, count: int) -> None:
        left = iter(range(count))

        async def visitor() -> None:
            for _ in left:
                await visit(stub)

        await asyncio.gather(*(visitor() for _ in range(24)))

    async with scene_of(models) as scene:
        await visits(scene.stub, 300)
        await scene.idle()
        before = psutil.Process().memory_info().rss
        scene.steps.clear()
        outcomes.clear()
        await visits(scene.stub, REQUESTS)
        await scene.idle()
        scene.steps.clear()
        after = psutil.Process().memory_info().rss
    assert outcomes.total() == REQUESTS
    assert outcomes["cancelled"] > 0.25 * REQUESTS
    assert outcomes["good"] > 0.65 * REQUESTS
    assert after - before < GROWTH
