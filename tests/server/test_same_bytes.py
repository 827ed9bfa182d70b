"""A picture has the same bytes however it is asked for: in-process, alone, in a full batch, in a stream."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.engine.picture import Engine, Floats, PictureRequest, Pixels, StyleMix
from impasto.engine.registry import open_engine
from impasto.export.bundle import find_bundle, open_bundle
from impasto.images import decode, encode, metadata_text, read_metadata
from tests.support.bundles import write_tiny_bundle
from tests.support.inference import connected, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORMATS = ("IMAGE_FORMAT_RAW_UINT8", "IMAGE_FORMAT_RAW_FLOAT32", "IMAGE_FORMAT_PNG")
CHUNK = 1024
Z = np.random.RandomState(1).randn(4).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Case:
    """One picture: the fields of its message, and the same as an engine is asked for it."""

    fields: dict[str, Any]
    request: PictureRequest


def latent(values: Floats) -> pb.Latent:
    return pb.Latent(values=values.reshape(-1))


def single(value: float) -> float:
    """The value as a float32 field has it."""
    return float(np.float32(value))


def cases() -> dict[str, Case]:
    ws = np.random.RandomState(2).randn(8, 4).astype(np.float32)
    c = np.array([0.5, 0.25, 0.25], np.float32)
    mix = pb.StyleMix(seed=9, first_layer=1, last_layer=4)
    return {
        "seed": Case({"seeds": [7]}, PictureRequest(seed=7)),
        "largest seed": Case({"seeds": [2**32 - 1]}, PictureRequest(seed=2**32 - 1)),
        "z": Case({"z": [latent(Z)]}, PictureRequest(z=Z)),
        "ws": Case({"ws": [latent(ws)]}, PictureRequest(ws=ws)),
        "psi": Case({"seeds": [7], "psi": 0.3, "psi_cutoff": 5}, PictureRequest(seed=7, psi=single(0.3), cutoff=5)),
        "no psi at all": Case({"seeds": [7], "psi": 0.0}, PictureRequest(seed=7, psi=0.0)),
        "random noise": Case(
            {"seeds": [7], "noise_mode": "NOISE_MODE_RANDOM"}, PictureRequest(seed=7, noise_mode="random")
        ),
        "no noise": Case({"seeds": [7], "noise_mode": "NOISE_MODE_NONE"}, PictureRequest(seed=7, noise_mode="none")),
        "mix": Case({"seeds": [7], "style_mix": mix}, PictureRequest(seed=7, mix=StyleMix(9, 1, 4))),
        "label": Case({"seeds": [7], "label": 2}, PictureRequest(seed=7, label=2)),
        "class vector": Case({"seeds": [7], "class_vector": latent(c)}, PictureRequest(seed=7, c=c)),
    }


CASES = cases()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` with pictures of 32×32, which are several of the smallest chunks."""
    models = tmp_path_factory.mktemp("models")
    write_tiny_bundle(models, resolution=32)
    return models


@pytest.fixture(scope="module")
def engine(models: Path) -> Iterator[Engine]:
    engine = open_engine(open_bundle(find_bundle("tiny", [models])), threads=1)
    engine.warm_up()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def alone(engine: Engine) -> dict[str, Pixels]:
    """The picture of each case, made in this process in a batch of its own."""
    return {name: engine.run([case.request])[0] for name, case in CASES.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(models: Path) -> AsyncIterator[GenerationServiceStub]:
    settings: dict[str, Any] = {"batching": {"max_queue_delay_ms": 20}, "limits": {"stream_chunk_kib": CHUNK // 1024}}
    async with serving(models, "tiny", **settings) as server, connected(server) as channel:
        yield GenerationServiceStub(channel)


def message(name: str, format: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(model="tiny", format=format, **CASES[name].fields)


def expected(request: PictureRequest, format: str, engine: Engine, pixels: Pixels) -> bytes:
    """The data of the picture in that format."""
    if format == "IMAGE_FORMAT_RAW_UINT8":
        return pixels.array.tobytes()
    if format == "IMAGE_FORMAT_RAW_FLOAT32":
        return pixels.image_float.astype("<f4").tobytes()
    return encode(pixels.array, "png", engine.describe(request))


async def test_the_cases_are_different_pictures(alone: dict[str, Pixels]) -> None:
    assert len({pixels.array.tobytes() for pixels in alone.values()}) == len(CASES)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", CASES)
async def test_alone_over_generate(
    name: str, format: str, stub: GenerationServiceStub, engine: Engine, alone: dict[str, Pixels]
) -> None:
    reply = await stub.Generate(message(name, format))
    (picture,) = reply.pictures
    assert picture.data == expected(CASES[name].request, format, engine, alone[name])
    assert (picture.width, picture.height, picture.format) == (32, 32, pb.ImageFormat.Value(format))
    assert picture.seed == (CASES[name].request.seed or 0)
    assert list(reply.timing.batch_sizes) == [1]


async def test_among_many_others_in_full_batches(
    stub: GenerationServiceStub, engine: Engine, alone: dict[str, Pixels]
) -> None:
    chosen = [(name, format) for format in FORMATS for name in CASES][:32]
    replies = await asyncio.gather(*(stub.Generate(message(name, format)) for name, format in chosen))
    for (name, format), reply in zip(chosen, replies, strict=True):
        assert reply.pictures[0].data == expected(CASES[name].request, format, engine, alone[name]), (name, format)
    assert max(size for reply in replies for size in reply.timing.batch_sizes) > 1


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("count", [2, 3, 5, 8])
async def test_in_any_slot_of_any_bucket(count: int, format: str, stub: GenerationServiceStub, engine: Engine) -> None:
    reply = await stub.Generate(pb.GenerateRequest(model="tiny", seeds=[40], count=count, format=format))
    requests = [PictureRequest(seed=seed) for seed in range(40, 40 + count)]
    assert list(reply.timing.batch_sizes) == [count] * count
    assert [picture.data for picture in reply.pictures] == [
        expected(request, format, engine, engine.run([request])[0]) for request in requests
    ]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", CASES)
async def test_in_the_chunks_of_a_stream(
    name: str, format: str, stub: GenerationServiceStub, engine: Engine, alone: dict[str, Pixels]
) -> None:
    events = [event async for event in stub.GenerateStream(message(name, format))]
    assert [events[0].WhichOneof("event"), events[-1].WhichOneof("event")] == ["queued", "done"]
    chunks = [event.chunk for event in events[1:-1]]
    data = expected(CASES[name].request, format, engine, alone[name])
    assert [chunk.data for chunk in chunks] == [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
    assert [chunk.offset for chunk in chunks] == list(range(0, len(data), CHUNK))
    assert {(chunk.index, chunk.total) for chunk in chunks} == {(0, len(data))}
    assert len(chunks) > 1
    assert [chunk.HasField("picture") for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
    assert json.loads(chunks[0].picture.metadata) == engine.describe(CASES[name].request)


async def test_in_a_stream_of_several_pictures(stub: GenerationServiceStub, engine: Engine) -> None:
    request = pb.GenerateRequest(model="tiny", seeds=range(19), format="IMAGE_FORMAT_RAW_UINT8")
    received: defaultdict[int, bytes] = defaultdict(bytes)
    async for event in stub.GenerateStream(request):
        if event.WhichOneof("event") == "chunk":
            assert event.chunk.offset == len(received[event.chunk.index])
            received[event.chunk.index] += event.chunk.data
    alone = {seed: engine.run([PictureRequest(seed=seed)])[0].array.tobytes() for seed in range(19)}
    assert received == alone


@pytest.mark.parametrize("name", CASES)
async def test_a_file_holds_the_metadata_and_the_pixels(
    name: str, stub: GenerationServiceStub, engine: Engine, alone: dict[str, Pixels]
) -> None:
    (picture,) = (await stub.Generate(message(name, "IMAGE_FORMAT_PNG"))).pictures
    described = engine.describe(CASES[name].request)
    assert picture.metadata == metadata_text(described)
    assert read_metadata(picture.data) == described
    assert np.array_equal(decode(picture.data), alone[name].array)


@pytest.mark.parametrize("name", CASES)
async def test_the_metadata_is_the_same_in_every_format(name: str, stub: GenerationServiceStub) -> None:
    replies = [await stub.Generate(message(name, format)) for format in FORMATS]
    assert len({reply.pictures[0].metadata for reply in replies}) == 1
