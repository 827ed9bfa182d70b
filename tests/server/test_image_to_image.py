"""Pictures go in over gRPC, and their translations come out: the same as in-process, whatever asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from numpy.testing import assert_array_equal
from typer.testing import CliRunner

import impasto
from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.api.inference import grpc_service_pb2 as inference_pb
from impasto.api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from impasto.cli import app
from impasto.client import AsyncClient
from impasto.errors import InvalidRequest
from impasto.images import encode
from impasto.images.pixels import Bytes
from tests.support.generation import status_of
from tests.support.image_to_image import label_map, scene
from tests.support.inference import connected, infer_request, output, seeds, serving
from tests.support.pictures import png_that_claims

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZES = [(64, 64), (90, 70), (33, 17)]


def source(family: str, width: int, height: int) -> Bytes:
    return scene(width, height) if family == "residual" else label_map(width, height)


@pytest.fixture(scope="module")
def generators(image_to_image_models: Path) -> Iterator[dict[str, impasto.Generator]]:
    generators = {family: impasto.load(family, models=image_to_image_models) for family in ("residual", "spade")}
    yield generators
    for generator in generators.values():
        generator.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(image_to_image_models: Path) -> AsyncIterator[str]:
    async with serving(image_to_image_models, "residual", "spade") as server:
        yield server.address


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


@pytest.mark.parametrize("family", ["residual", "spade"])
async def test_pictures_of_several_sizes_asked_at_once_are_those_made_in_process(
    family: str, address: str, generators: dict[str, impasto.Generator]
) -> None:
    images = [source(family, *size) for size in SIZES]
    async with AsyncClient(address) as client:
        replies = await asyncio.gather(*(client.generate(family, image=image, seeds=3) for image in images))
    for image, (picture,) in zip(images, replies, strict=True):
        (expected,) = generators[family].generate(image=image, seeds=3)
        assert picture.array.shape == image.shape
        assert_array_equal(picture.array, expected.array)
        assert picture.metadata == expected.metadata


async def test_a_stream_brings_a_file_and_an_image_alone_is_one_picture(
    channel: grpc.aio.Channel, generators: dict[str, impasto.Generator]
) -> None:
    image = scene(90, 70)
    request = pb.GenerateRequest(model="residual", image=encode(image, "webp", {}, 100))
    data = b""
    async for event in GenerationServiceStub(channel).GenerateStream(request):
        data += event.chunk.data
    (expected,) = generators["residual"].generate(image=image, format="png")
    assert data == expected.encoded


@pytest.mark.parametrize("family", ["residual", "spade"])
async def test_tensors_bring_pictures_too(
    family: str, channel: grpc.aio.Channel, generators: dict[str, impasto.Generator]
) -> None:
    images = np.stack([source(family, 70, 40), source(family, 70, 40)[::-1]])
    inputs = {"image": images} | ({"seed": seeds(4, 5)} if family == "spade" else {})
    request = infer_request(family, **inputs)
    for name in ("image", "image_float"):
        request.outputs.add(name=name)
    response = await GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert [list(tensor.shape) for tensor in response.outputs] == [[2, 40, 70, 3], [2, 3, 40, 70]]
    for row, (image, seed) in enumerate(zip(images, (4, 5), strict=True)):
        (expected,) = generators[family].generate(image=image, seeds=seed, format="float32")
        assert_array_equal(output(response)[row], expected.array)
        assert_array_equal(output(response, "image_float")[row], expected.image_float)


async def test_the_metadata_of_the_protocol_leaves_the_sides_free(channel: grpc.aio.Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)
    metadata = await stub.ModelMetadata(inference_pb.ModelMetadataRequest(name="residual"))
    assert [(tensor.name, list(tensor.shape)) for tensor in metadata.inputs] == [("image", [-1, -1, -1, 3])]
    assert [(tensor.name, list(tensor.shape)) for tensor in metadata.outputs] == [
        ("image", [-1, -1, -1, 3]),
        ("image_float", [-1, 3, -1, -1]),
    ]
    config = (await stub.ModelConfig(inference_pb.ModelConfigRequest(name="residual"))).config
    assert [(tensor.name, list(tensor.dims), tensor.optional) for tensor in config.input] == [
        ("image", [-1, -1, 3], False)
    ]


PNG = encode(scene(8, 8), "png", {})
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({"seeds": [1]}, "image: found 'none'; allowed is a picture; this model makes its own of it"),
    "an image that is none": ({"image": b"GIF89a"}, "image: found '6 bytes'; allowed is a PNG, JPEG or WebP file"),
    "a bomb": (
        {"image": png_that_claims(9_000, 9_000)},
        "image: found '9000×9000 pixels'; allowed is at most 67108864 pixels",
    ),
    "a colour of no class": (
        {"model": "spade", "image": PNG},
        "image: found 'the colour (",
    ),
    "a second image": ({"image": PNG, "image_to": PNG, "blend": 0.5}, "image_to: found 'one'; allowed is nothing"),
    "psi": ({"image": PNG, "psi": 0.5}, "psi: found 0.5; allowed is nothing"),
    "steps": ({"image": PNG, "denoising": pb.Denoising(steps=4)}, "steps: found 4; allowed is nothing"),
}


@pytest.mark.parametrize(("fields", "line"), BAD.values(), ids=BAD.keys())
async def test_bad_pictures_are_refused_by_name(channel: grpc.aio.Channel, fields: dict[str, Any], line: str) -> None:
    error = await status_of(
        GenerationServiceStub(channel).Generate(pb.GenerateRequest(**{"model": "residual", **fields}))
    )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").startswith(line)


async def test_a_reply_that_would_be_too_large_is_refused_by_the_images_size(image_to_image_models: Path) -> None:
    limits = {"send_mib": 1}
    async with serving(image_to_image_models, "residual", limits=limits) as server, connected(server) as channel:
        request = pb.GenerateRequest(model="residual", image=encode(scene(600, 600), "png", {}))
        error = await status_of(GenerationServiceStub(channel).Generate(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "1 pictures'; allowed is at most 0 of this size" in (error.details() or "")


async def test_the_command_writes_the_same_file_from_either_side(
    address: str, image_to_image_models: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.png").write_bytes(encode(scene(70, 50), "png", {}))
    for name, where in (("here", ["--models", str(image_to_image_models)]), ("there", ["--server", address])):
        options = ["--image", str(tmp_path / "in.png"), *where, "--out", str(tmp_path / f"{name}.png")]
        result = await asyncio.to_thread(CliRunner().invoke, app, ["generate", "residual", *options])
        assert result.exit_code == 0, result.output
    here, there = ((tmp_path / f"{name}.png").read_bytes() for name in ("here", "there"))
    assert here == there
    assert impasto.images.decode(here).shape == (50, 70, 3)


async def test_a_client_refuses_what_is_no_picture_before_it_asks(address: str) -> None:
    async with AsyncClient(address) as client:
        with pytest.raises(InvalidRequest, match=r"^image: found 'float32 \[4, 4, 3\]'; allowed is uint8 \[H, W, 3\]$"):
            await client.generate("residual", image=np.zeros((4, 4, 3), np.float32))
