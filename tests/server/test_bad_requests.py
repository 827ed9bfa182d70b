"""Bad requests for pictures: each gets its status and a line that says why, and the server serves on."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.engine.null import write_null_bundle
from tests.support.bundles import write_tiny_bundle
from tests.support.engines import BatchGate, Seeds, serving_gated, serving_hooked, until
from tests.support.generation import status_of
from tests.support.inference import connected, serving
from tests.support.pictures import png_that_claims, random_png

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAN, INF = float("nan"), float("inf")
BAD_SEED = 666


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GenerationServiceStub]:
    """A server of `tiny`, which has three classes, and `plain`, which has none."""
    models = tmp_path_factory.mktemp("bad") / "models"
    shutil.copytree(tiny_models, models)
    write_tiny_bundle(models, "plain", c_dim=0)
    async with serving(models, "tiny", "plain") as server, connected(server) as channel:
        yield GenerationServiceStub(channel)


def asked(**fields: Any) -> pb.GenerateRequest:
    """A request of `tiny` with these fields, for seed 1 unless they say otherwise."""
    if not {"seeds", "z", "ws"} & fields.keys():
        fields["seeds"] = [1]
    return pb.GenerateRequest(**{"model": "tiny", **fields})


def latents(*rows: list[float]) -> list[pb.Latent]:
    return [pb.Latent(values=row) for row in rows]


def denoising(image: bytes | None = None, **fields: Any) -> pb.GenerateRequest:
    """A request of `tiny` that asks for diffusion."""
    return asked(image=image, denoising=pb.Denoising(**fields))


def mix(seed: int = 1, first: int = 0, last: int = 1) -> pb.StyleMix:
    return pb.StyleMix(seed=seed, first_layer=first, last_layer=last)


PSI = "allowed is a finite number from -10 to 10"
SEED = "allowed is an integer from 0 to 4294967295"
ONE_OF = "allowed is exactly one of them, not empty"
MIXED = "style_mix.first_layer, last_layer"
LAYERS = "allowed is first ≤ last, from 0 to 3"
VERSION = "allowed is at most 9 decimal digits"
ONE_CALL = "allowed is nothing; this model makes a picture in one call"
NO_PICTURE = "allowed is nothing; this model takes no such picture"
FILE = "allowed is a PNG, JPEG or WebP file"
PICTURE = random_png(8, 8)

# Name: request, what the details say. The status is INVALID_ARGUMENT.
BAD = {
    "nothing to make pictures of": (asked(seeds=[]), f"seeds, z, ws: found 'none of them'; {ONE_OF}"),
    "seeds and z": (asked(seeds=[1], z=latents([0] * 4)), f"seeds, z, ws: found 'seeds and z'; {ONE_OF}"),
    "z and ws": (asked(z=latents([0] * 4), ws=latents([0] * 16)), f"seeds, z, ws: found 'z and ws'; {ONE_OF}"),
    "negative seed": (asked(seeds=[1, -1]), f"seeds: found -1; {SEED}"),
    "seed too large": (asked(seeds=[2**32]), f"seeds: found 4294967296; {SEED}"),
    "smallest seed of all": (asked(seeds=[-(2**63)]), f"seeds: found -9223372036854775808; {SEED}"),
    "too many seeds": (asked(seeds=range(257)), "seeds: found '257 entries'; allowed is 1 to 256"),
    "psi NaN": (asked(psi=NAN), f"psi: found nan; {PSI}"),
    "psi infinite": (asked(psi=INF), f"psi: found inf; {PSI}"),
    "psi minus infinite": (asked(psi=-INF), f"psi: found -inf; {PSI}"),
    "psi huge": (asked(psi=1e30), f"psi: found 1.0000000150474662e+30; {PSI}"),
    "psi with ws": (asked(ws=latents([0] * 16), psi=0.5), "psi: found 0.5; allowed is nothing beside ws"),
    "count 0": (asked(count=0), "count: found 0; allowed is 1 to 256"),
    "count 10 000": (asked(count=10_000), "count: found 10000; allowed is 1 to 256"),
    "count just over the limit": (asked(count=257), "count: found 257; allowed is 1 to 256"),
    "largest count of all": (asked(count=2**32 - 1), "count: found 4294967295; allowed is 1 to 256"),
    "count beyond the last seed": (
        asked(seeds=[2**32 - 2], count=3),
        "count: found 3; allowed is at most 2 from seed 4294967294 on",
    ),
    "count with two seeds": (
        asked(seeds=[1, 2], count=2),
        "count: found '2 with 2 seeds'; allowed is set only with exactly one seed",
    ),
    "count with z": (
        asked(z=latents([0] * 4), count=2),
        "count: found '2 with 1 z'; allowed is set only with exactly one seed",
    ),
    "z too short": (asked(z=latents([0] * 4, [0] * 3)), "z: found '3 values'; allowed is 4 values"),
    "z too long": (asked(z=latents([0] * 5)), "z: found '5 values'; allowed is 4 values"),
    "z empty": (asked(z=latents([])), "z: found '0 values'; allowed is 4 values"),
    "z with NaN": (asked(z=latents([0, NAN, 0, 0])), "z: found '1 NaN or infinite values'; allowed is finite values"),
    "z with infinity": (asked(z=latents([INF, 0, 0, -INF])), "z: found '2 NaN or infinite values'; allowed is finite"),
    "ws of another length": (
        asked(ws=latents([0] * 15)),
        "ws: found '15 values'; allowed is num_ws · w_dim = 4 · 4 values",
    ),
    "ws with NaN": (asked(ws=latents([NAN] * 16)), "ws: found '16 NaN or infinite values'; allowed is finite values"),
    "unknown format": (asked(format=99), "format: found 99; allowed is IMAGE_FORMAT_UNSPECIFIED, IMAGE_FORMAT_PNG"),
    "negative format": (asked(format=-1), "format: found -1; allowed is IMAGE_FORMAT_UNSPECIFIED, IMAGE_FORMAT_PNG"),
    "unknown noise mode": (asked(noise_mode=7), "noise_mode: found 7; allowed is NOISE_MODE_UNSPECIFIED, NOISE_MODE_C"),
    "no model": (asked(model=""), "model: found ''; allowed is a name of 1 to 100 characters"),
    "over-long model": (asked(model="m" * 10_000), "(10000 characters); allowed is a name of 1 to 100 characters"),
    "over-long version": (asked(version="1" * 10_000), f"(10000 characters); {VERSION}"),
    "version that is no number": (asked(version="../1"), f"version: found '../1'; {VERSION}"),
    "label of a model without classes": (
        asked(model="plain", label=1),
        "label: found 1; allowed is nothing; this model is not conditional",
    ),
    "class vector of a model without classes": (
        asked(model="plain", class_vector=pb.Latent(values=[1])),
        "class_vector: found array([1.], dtype=float32); allowed is nothing; this model is not conditional",
    ),
    "label too large": (asked(label=3), "label: found 3; allowed is an integer from 0 to 2"),
    "negative label": (asked(label=-1), "label: found -1; allowed is an integer from 0 to 2"),
    "class vector of another length": (
        asked(class_vector=pb.Latent(values=[1, 0])),
        "class_vector: found '2 values'; allowed is 3 values",
    ),
    "class vector with NaN": (
        asked(class_vector=pb.Latent(values=[1, 0, NAN])),
        "class_vector: found '1 NaN or infinite values'; allowed is finite values",
    ),
    "label and class vector": (
        asked(label=1, class_vector=pb.Latent(values=[1, 0, 0])),
        "class_vector: found 'it and label'; allowed is one of them",
    ),
    "psi cutoff too large": (asked(psi_cutoff=5), "psi_cutoff: found 5; allowed is an integer from 0 to 4"),
    "negative psi cutoff": (asked(psi_cutoff=-1), "psi_cutoff: found -1; allowed is an integer from 0 to 4"),
    "mix beyond the last layer": (asked(style_mix=mix(last=4)), f"{MIXED}: found '0 to 4'; {LAYERS}"),
    "mix before the first layer": (asked(style_mix=mix(first=-1)), f"{MIXED}: found '-1 to 1'; {LAYERS}"),
    "mix of layers in reverse": (asked(style_mix=mix(first=2)), f"{MIXED}: found '2 to 1'; {LAYERS}"),
    "negative seed in mix": (asked(style_mix=mix(seed=-1)), f"style_mix.seed: found -1; {SEED}"),
    "seed too large in mix": (asked(style_mix=mix(seed=2**32)), f"style_mix.seed: found 4294967296; {SEED}"),
    "quality 101": (asked(quality=101), "quality: found 101; allowed is 1 to 100, or 0 for the default"),
    "largest quality of all": (asked(quality=2**32 - 1), "quality: found 4294967295; allowed is 1 to 100"),
    "over-long prompt": (
        denoising(prompt="é" * 10_001),
        "denoising.prompt: found '10001 characters'; allowed is at mos",
    ),
    "over-long negative prompt": (
        denoising(negative_prompt="x" * 10_001),
        "denoising.negative_prompt: found '10001 characters'; allowed is at most 10000",
    ),
    "0 steps": (denoising(steps=0), "denoising.steps: found 0; allowed is 1 to 1000"),
    "1001 steps": (denoising(steps=1001), "denoising.steps: found 1001; allowed is 1 to 1000"),
    "most steps of all": (denoising(steps=2**32 - 1), "denoising.steps: found 4294967295; allowed is 1 to 1000"),
    "eta NaN": (denoising(eta=NAN), "denoising.eta: found nan; allowed is 0 to 1"),
    "eta too large": (denoising(eta=1.5), "denoising.eta: found 1.5; allowed is 0 to 1"),
    "guidance scale infinite": (denoising(guidance_scale=INF), "denoising.guidance_scale: found inf; allowed is 0 to"),
    "guidance scale negative": (denoising(guidance_scale=-1), "denoising.guidance_scale: found -1.0; allowed is 0 to"),
    "guidance scale huge": (denoising(guidance_scale=1e6), "denoising.guidance_scale: found 1000000.0; allowed is 0 t"),
    "guidance rescale NaN": (denoising(guidance_rescale=NAN), "denoising.guidance_rescale: found nan; allowed is 0 to"),
    "guidance rescale negative": (
        denoising(guidance_rescale=-0.5),
        "denoising.guidance_rescale: found -0.5; allowed is 0 to 1",
    ),
    "width 0": (denoising(width=0), "denoising.width: found 0; allowed is 8, the only one of this model"),
    "largest width of all": (denoising(width=2**32 - 1), "denoising.width: found 4294967295; allowed is 8, the only"),
    "height of no model": (denoising(height=9), "denoising.height: found 9; allowed is 8, the only one of this model"),
    "height of another model": (denoising(height=8), "height: found 8; allowed is nothing; this model makes a picture"),
    "strength 0": (denoising(image=PICTURE, strength=0), "denoising.strength: found 0.0; allowed is above 0, to 1"),
    "strength over 1": (denoising(image=PICTURE, strength=2), "denoising.strength: found 2.0; allowed is 0 to 1"),
    "strength NaN": (denoising(image=PICTURE, strength=NAN), "denoising.strength: found nan; allowed is 0 to 1"),
    "strength without an image": (denoising(strength=0.5), "denoising.strength: found 'it without an image'; allowed"),
    "mask without an image": (denoising(mask=PICTURE), "denoising.mask: found 'it without an image'; allowed is it"),
    "image of no bytes": (asked(image=b""), f"image: found '0 bytes'; {FILE}"),
    "image that is none": (asked(image=b"GIF89a" * 9), f"image: found '54 bytes'; {FILE}"),
    "image that breaks off": (asked(image=PICTURE[:60]), f"image: found '60 bytes'; {FILE}"),
    "image with a pixel too many": (
        asked(image=random_png(13, 5)),
        "image: found '13×5 pixels'; allowed is at most 64 pixels",
    ),
    "image that is a decompression bomb": (
        asked(image=png_that_claims(9_000, 9_000)),
        "image: found '9000×9000 pixels'; allowed is at most 64 pixels",
    ),
    "image that is a large decompression bomb": (
        asked(image=png_that_claims(2**31 - 1, 2**31 - 1)),
        "image: found 'more pixels than any model takes'; allowed is",
    ),
    "image of too many bytes": (
        asked(image=PICTURE + bytes(2**21)),
        f"image: found '{len(PICTURE) + 2**21} bytes'; allowed is a file of at most 1049088 bytes",
    ),
    "mask that is none": (denoising(image=PICTURE, mask=b"x"), f"denoising.mask: found '1 bytes'; {FILE}"),
    "mask that is a decompression bomb": (
        denoising(image=PICTURE, mask=png_that_claims(9_000, 9_000)),
        "denoising.mask: found '9000×9000 pixels'; allowed is at most 64 pixels",
    ),
    "unknown source of noise": (denoising(noise=3), "denoising.noise: found 3; allowed is NOISE_SOURCE_UNSPECIFIED, N"),
    "previews too seldom": (denoising(preview_every=1001), "denoising.preview_every: found 1001; allowed is 0 to 1000"),
    "prompt of a model in one call": (denoising(prompt="a swirl"), f"prompt: found 'a swirl'; {ONE_CALL}"),
    "empty prompt of a model in one call": (denoising(prompt=""), f"prompt: found ''; {ONE_CALL}"),
    "steps of a model in one call": (denoising(steps=30), f"steps: found 30; {ONE_CALL}"),
    "over-long sampler": (denoising(sampler="x" * 10_000), f"(10000 characters); {ONE_CALL}"),
    "eta of a model in one call": (denoising(eta=0), f"eta: found 0.0; {ONE_CALL}"),
    "image of a model that takes none": (asked(image=PICTURE), f"image: found 'one'; {NO_PICTURE}"),
    "image alone of a model that takes none": (asked(seeds=[], image=PICTURE), f"image: found 'one'; {NO_PICTURE}"),
    "second image of a model that takes none": (
        asked(image=PICTURE, image_to=PICTURE, blend=0.5),
        f"image: found 'one'; {NO_PICTURE}",
    ),
    "second image without a first": (asked(image_to=PICTURE), "image_to: found 'it without an image'; allowed is it"),
    "second image that is none": (asked(image=PICTURE, image_to=b"x"), f"image_to: found '1 bytes'; {FILE}"),
    "second image that is a decompression bomb": (
        asked(image=PICTURE, image_to=png_that_claims(9_000, 9_000)),
        "image_to: found '9000×9000 pixels'; allowed is at most 64 pixels",
    ),
    "blend without a second image": (asked(image=PICTURE, blend=0.5), "blend: found 'it without a second picture'; al"),
    "blend NaN": (asked(image=PICTURE, image_to=PICTURE, blend=NAN), "blend: found nan; allowed is 0 to 1"),
    "blend over 1": (asked(image=PICTURE, image_to=PICTURE, blend=1.1), "blend: found 1.1; allowed is 0 to 1"),
    "noise of a model in one call": (denoising(noise="NOISE_SOURCE_TORCH"), f"noise: found 'torch'; {ONE_CALL}"),
    "previews of a model in one call": (denoising(preview_every=2), f"preview_every: found 2; {ONE_CALL}"),
    "latent of a model in one call": (
        denoising(latent=latents([0] * 4)),
        "denoising.latent: found '1 latents'; allowed is nothing; this model takes none",
    ),
    "priority out of range": (asked(priority=4), "priority: found 4; allowed is 1 (the highest) to 3, or 0"),
}
UNKNOWN = {
    "unknown model": (asked(model="nope"), "model: found no 'nope'; there are: plain, tiny"),
    "unknown version": (
        asked(version="7"),
        "model: found no 'tiny version 7'; there are: plain version 1, tiny version 1",
    ),
    "model that is a path": (asked(model="../tiny"), "model: found no '../tiny'; there are: plain, tiny"),
}
STREAMED = (
    "negative seed",
    "psi NaN",
    "count 10 000",
    "z too short",
    "unknown format",
    "0 steps",
    "image that is a decompression bomb",
    "steps of a model in one call",
    "priority out of range",
)


def parametrised(rows: dict[str, tuple[pb.GenerateRequest, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("bad", "line"), rows.values(), ids=rows.keys())


def check(error: grpc.aio.AioRpcError, code: grpc.StatusCode, line: str) -> None:
    """The status and the line; the message is a short one, of this project's own."""
    details = error.details() or ""
    assert error.code() is code, details
    assert line in details
    assert len(details) < 300
    assert "Traceback" not in details


async def serves_on(stub: GenerationServiceStub, model: str = "tiny") -> None:
    request = pb.GenerateRequest(model=model, seeds=[1], format="IMAGE_FORMAT_RAW_UINT8")
    (picture,) = (await stub.Generate(request)).pictures
    assert len(picture.data) == 8 * 8 * 3


@parametrised(BAD)
async def test_bad_field_is_refused_by_name(stub: GenerationServiceStub, bad: pb.GenerateRequest, line: str) -> None:
    check(await status_of(stub.Generate(bad)), grpc.StatusCode.INVALID_ARGUMENT, line)
    await serves_on(stub)


@parametrised({name: BAD[name] for name in STREAMED})
async def test_bad_field_is_refused_before_a_stream_begins(
    stub: GenerationServiceStub, bad: pb.GenerateRequest, line: str
) -> None:
    error = await status_of(anext(aiter(stub.GenerateStream(bad))))
    check(error, grpc.StatusCode.INVALID_ARGUMENT, line)
    await serves_on(stub)


@parametrised(UNKNOWN)
async def test_unknown_model_is_not_found_and_those_there_are_listed(
    stub: GenerationServiceStub, bad: pb.GenerateRequest, line: str
) -> None:
    check(await status_of(stub.Generate(bad)), grpc.StatusCode.NOT_FOUND, line)
    check(await status_of(anext(aiter(stub.GenerateStream(bad)))), grpc.StatusCode.NOT_FOUND, line)
    await serves_on(stub)


async def test_an_empty_wish_for_diffusion_is_none(stub: GenerationServiceStub) -> None:
    plain, wished = await stub.Generate(asked()), await stub.Generate(denoising())
    assert wished.pictures[0] == plain.pictures[0]


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
async def test_bytes_that_are_no_message_are_refused(tiny_models: Path, method: str) -> None:
    async with serving(tiny_models, "tiny") as server, connected(server) as channel:
        path = f"/impasto.v1.GenerationService/{method}"
        data = b"\xff" * 50
        if method == "Generate":
            reply = channel.unary_unary(path)(data)
        else:
            reply = anext(aiter(channel.unary_stream(path)(data)))
        line = "request: found '50 bytes'; allowed is a serialised message"
        check(await status_of(reply), grpc.StatusCode.INVALID_ARGUMENT, line)
        await serves_on(GenerationServiceStub(channel))


async def test_a_message_over_the_limit_is_refused(tiny_models: Path) -> None:
    async with serving(tiny_models, "tiny", limits={"receive_mib": 1}) as server, connected(server) as channel:
        stub = GenerationServiceStub(channel)
        error = await status_of(stub.Generate(asked(z=latents([0.0] * 2**19))))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in (error.details() or "")
        await serves_on(stub)


async def test_a_reply_over_the_limit_is_refused_before_it_is_made(tmp_path: Path) -> None:
    write_null_bundle(tmp_path, width=256, height=256)
    gate = BatchGate()
    async with serving_gated(tmp_path, "null", gate, limits={"send_mib": 1}) as server, connected(server) as channel:
        request = pb.GenerateRequest(model="null", seeds=range(6), format="IMAGE_FORMAT_RAW_UINT8")
        line = "seeds, z, ws: found '6 pictures'; allowed is at most 5 of this size and format in one reply"
        error = await status_of(GenerationServiceStub(channel).Generate(request))
        check(error, grpc.StatusCode.INVALID_ARGUMENT, line)
        assert gate.batches == []


@pytest.mark.parametrize("seconds", [-0.1, -5])  # none is a millisecond for gRPC, which is enough at times
async def test_a_deadline_that_has_passed_is_exceeded(stub: GenerationServiceStub, seconds: float) -> None:
    error = await status_of(stub.Generate(asked(), timeout=seconds))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await serves_on(stub)


async def test_a_deadline_that_the_estimate_does_not_meet_is_refused_at_once(tmp_path: Path) -> None:
    write_null_bundle(tmp_path, width=8, height=8)
    batches: list[Seeds] = []

    def slowly(seeds: Seeds) -> None:
        batches.append(seeds)
        time.sleep(2.0)

    async with serving_hooked(tmp_path, "null", slowly) as server, connected(server) as channel:
        stub = GenerationServiceStub(channel)
        await serves_on(stub, "null")
        error = await status_of(stub.Generate(asked(model="null", seeds=[2]), timeout=1.5))
        check(error, grpc.StatusCode.DEADLINE_EXCEEDED, "the estimate of queue and execution")
        assert batches == [[1]]


def break_on_bad_seed(seeds: Seeds) -> None:
    if BAD_SEED in seeds:
        raise RuntimeError("a secret of the engine")


def check_fault(error: grpc.aio.AioRpcError, log: pytest.LogCaptureFixture) -> str:
    """The id of an internal error, whose message has nothing else, and whose whole story is in the log."""
    details = error.details() or ""
    assert error.code() is grpc.StatusCode.INTERNAL
    found = re.fullmatch(r"a batch of \d+ on model null failed; the server's log has it as fault (\w{12})", details)
    assert found, details
    records = [record for record in log.records if found[1] in record.getMessage()]
    assert [record.levelno for record in records] == [logging.ERROR]
    assert "RuntimeError: a secret of the engine" in log.text
    return found[1]


async def test_an_engine_that_fails_is_internal_with_an_id_that_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_null_bundle(tmp_path, width=8, height=8)
    async with serving_hooked(tmp_path, "null", break_on_bad_seed) as server, connected(server) as channel:
        stub = GenerationServiceStub(channel)
        bad = asked(model="null", seeds=[BAD_SEED])
        faults = []
        for _ in range(3):
            faults.append(check_fault(await status_of(stub.Generate(bad)), caplog))
            await serves_on(stub, "null")
        assert len(set(faults)) == 3
        stream = aiter(stub.GenerateStream(bad))
        assert (await anext(stream)).WhichOneof("event") == "queued"
        check_fault(await status_of(anext(stream)), caplog)
        await serves_on(stub, "null")
        model = server.host.get("null")
        await until(lambda: model.in_flight == 0 and model.queue_length == 0)


async def test_a_batch_that_fails_harms_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_null_bundle(tmp_path, width=8, height=8)
    gate = BatchGate()

    def hold_and_break(seeds: Seeds) -> None:
        gate(seeds)
        break_on_bad_seed(seeds)

    async with serving_hooked(tmp_path, "null", hold_and_break, buckets=(1, 2)) as server, connected(server) as channel:
        stub, model = GenerationServiceStub(channel), server.host.get("null")
        calls = []
        for waiting, seeds in enumerate(([0], [1, 2], [BAD_SEED, 3], [4, 5])):
            calls.append(stub.Generate(asked(model="null", seeds=seeds)))
            await until(lambda waiting=waiting: model.queue_length == 2 * waiting and gate.batches == [[0]])
        gate.open()
        before, good, bad, after = await asyncio.gather(*calls, return_exceptions=True)
        assert gate.batches == [[0], [1, 2], [BAD_SEED, 3], [4, 5]]
        assert isinstance(bad, grpc.aio.AioRpcError)
        check_fault(bad, caplog)
        assert [len(reply.pictures) for reply in (before, good, after)] == [1, 2, 2]


async def test_a_request_of_several_batches_fails_whole_if_one_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_null_bundle(tmp_path, width=8, height=8)
    settings: dict[str, Any] = {"buckets": (1, 2)}
    async with serving_hooked(tmp_path, "null", break_on_bad_seed, **settings) as server, connected(server) as channel:
        stub, model = GenerationServiceStub(channel), server.host.get("null")
        error = await status_of(stub.Generate(asked(model="null", seeds=[1, 2, BAD_SEED, 3, 4, 5])))
        check_fault(error, caplog)
        await until(lambda: model.in_flight == 0 and model.queue_length == 0)
        await serves_on(stub, "null")


async def test_a_call_may_ask_for_no_more_than_what_may_wait(tiny_models: Path) -> None:
    async with serving(tiny_models, "tiny", batching={"max_queue": 8}) as server, connected(server) as channel:
        error = await status_of(GenerationServiceStub(channel).Generate(asked(count=9)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "count: found 9; allowed is 1 to 8"
