"""A diffusion model, served: both protocols, both clients and the command give what it makes in-process."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from typer.testing import CliRunner

import impasto
from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.api.inference import grpc_service_pb2 as inference_pb
from impasto.api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from impasto.cli import app
from impasto.errors import InvalidRequest
from impasto.events import Done, Event, Finished, Preview, Queued, Step
from impasto.images import metadata_text
from tests.client.conftest import running
from tests.support.diffusion import SIDE, write_tiny_diffusion
from tests.support.inference import infer_request, output, seeds
from tests.support.pictures import random_pixels, random_png
from tests.support.previews import each_preview_taken

MODEL = "sd15"
IMAGE, MASK = random_pixels(SIDE, SIDE, 1), random_pixels(SIDE, SIDE, 2)
LATENTS = np.random.RandomState(3).randn(2, 4, 8, 8).astype(np.float32)
PARAMETERS: dict[str, dict[str, Any]] = {
    "defaults": {"steps": 2},
    "prompts": {"steps": 2, "prompt": "a night ★", "negative_prompt": "stars"},
    "guidance": {"steps": 2, "prompt": "night", "guidance_scale": 4.3, "guidance_rescale": 0.7},
    "no guidance": {"steps": 3, "prompt": "night", "guidance_scale": 1.0, "sampler": "dpmpp_2m"},
    "eta": {"steps": 2, "sampler": "ddim", "eta": 0.3},
    "the noise of torch": {"steps": 2, "sampler": "euler_a", "noise": "torch"},
    "an image": {"steps": 4, "sampler": "ddim", "image": IMAGE, "strength": 0.6},
    "an image and a mask": {"steps": 3, "sampler": "ddim", "image": IMAGE, "mask": MASK},
    "latents": {"steps": 2, "latent": LATENTS},
    "a latent for all": {"steps": 2, "latent": LATENTS[0]},
    "another size": {"steps": 2, "width": 24, "height": 12},
    "an image of another size": {"steps": 4, "sampler": "ddim", "image": random_pixels(20, 24, 3)},
    "latents of another size": {"steps": 2, "width": 20, "latent": np.zeros((4, 8, 10), np.float32)},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_diffusion(folder, MODEL)
    return folder


@pytest.fixture(scope="module")
def address(models: Path) -> Iterator[str]:
    with running(models, load=(MODEL,)) as address:
        yield address


@pytest.fixture(scope="module")
def generator(models: Path) -> Iterator[impasto.Generator]:
    with impasto.load(MODEL, models=models) as generator:
        yield generator


@pytest.fixture
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as channel:
        yield channel


def generate_sync(address: str, **parameters: Any) -> list[impasto.Picture]:
    with impasto.Client(address) as client:
        return client.generate(MODEL, **parameters)


def generate_async(address: str, **parameters: Any) -> list[impasto.Picture]:
    async def run() -> list[impasto.Picture]:
        async with impasto.AsyncClient(address) as client:
            return await client.generate(MODEL, **parameters)

    return asyncio.run(run())


Generate = Callable[..., list[impasto.Picture]]
both = pytest.mark.parametrize("generate", [generate_sync, generate_async])


@pytest.mark.parametrize("parameters", PARAMETERS.values(), ids=PARAMETERS.keys())
def test_pictures_over_grpc_are_those_made_in_process(
    parameters: dict[str, Any], address: str, generator: impasto.Generator
) -> None:
    parameters = {"seeds": [5, 6], **parameters}
    near, far = generator.generate(**parameters), generate_sync(address, **parameters)
    streamed = generate_sync(address, on_progress=lambda event: None, **parameters)
    assert len(near) == 2
    for here, there, in_chunks in zip(near, far, streamed, strict=True):
        assert_array_equal(there.array, here.array)
        assert_array_equal(in_chunks.array, here.array)
        assert metadata_text(there.metadata) == metadata_text(in_chunks.metadata) == metadata_text(here.metadata)


def test_each_of_these_parameters_shows_in_the_picture(generator: impasto.Generator) -> None:
    made = {generator.generate(seeds=5, **kept)[0].array.tobytes() for kept in _of_one_picture().values()}
    assert len(made) == len(_of_one_picture()) == len(PARAMETERS) - 1


def _of_one_picture() -> dict[str, dict[str, Any]]:
    return {name: parameters for name, parameters in PARAMETERS.items() if name != "latents"}


@both
def test_a_stream_tells_every_step_of_every_picture(generate: Generate, address: str) -> None:
    events: list[Event] = []
    asked: dict[str, Any] = {"seeds": [5, 6, 7], "steps": 5, "sampler": "ddim", "preview_every": 2}
    with each_preview_taken():
        pictures = generate(address, on_progress=events.append, **asked)
    assert isinstance(events[0], Queued)
    assert isinstance(events[-1], Done)
    for index in range(3):
        own = [event for event in events if getattr(event, "index", None) == index]
        assert [event for event in own if isinstance(event, Step)] == [Step(index, step, 5) for step in range(1, 6)]
        assert isinstance(own[-1], Finished)
        previews = [event.picture for event in own if isinstance(event, Preview)]
        assert [preview.array.shape for preview in previews] == [(SIDE, SIDE, 3)] * 2
        assert all(preview.metadata == pictures[index].metadata for preview in previews)
        looks = [preview.array.tobytes() for preview in previews]
        assert len({*looks, pictures[index].array.tobytes()}) == 3


@pytest.mark.parametrize("format", ["uint8", "float32", "png", "jpeg", "webp"])
def test_previews_have_the_format_that_is_asked_for(format: Any, address: str, generator: impasto.Generator) -> None:
    def previews(events: list[Event]) -> list[impasto.Picture]:
        return [event.picture for event in events if isinstance(event, Preview)]

    parameters: dict[str, Any] = {"seeds": 5, "steps": 4, "sampler": "ddim", "preview_every": 1, "format": format}
    near: list[Event] = []
    far: list[Event] = []
    generator.generate(on_progress=near.append, **parameters)
    with each_preview_taken():
        generate_sync(address, on_progress=far.append, **parameters)
    assert len(previews(far)) == len(previews(near)) == 3
    for here, there in zip(previews(near), previews(far), strict=True):
        assert_array_equal(there.array, here.array)
        assert there.encoded == here.encoded
        if format == "float32":
            assert_array_equal(there.image_float, here.image_float)


def test_replies_and_previews_tell_the_size_asked_for(channel: grpc.Channel) -> None:
    stub = GenerationServiceStub(channel)
    denoising = pb.Denoising(steps=3, sampler="ddim", width=24, height=8, preview_every=1)
    request = pb.GenerateRequest(model=MODEL, seeds=[5], denoising=denoising, format=pb.IMAGE_FORMAT_RAW_UINT8)
    (whole,) = stub.Generate(request).pictures
    with each_preview_taken():
        events = list(stub.GenerateStream(request))
    shown = [event.preview.picture for event in events if event.WhichOneof("event") == "preview"]
    assert [(picture.width, picture.height, len(picture.data)) for picture in (whole, *shown)] == [(24, 8, 576)] * 3
    told = json.loads(whole.metadata)["parameters"]
    assert (told["width"], told["height"]) == (24, 8)


def test_a_reply_has_room_for_as_many_pictures_as_their_own_size_allows(models: Path) -> None:
    with (
        running(
            models, load=(MODEL,), limits={"send_mib": 1, "max_pictures": 1_000}, batching={"max_queue": 1_000}
        ) as address,
        grpc.insecure_channel(address) as channel,
    ):
        stub = GenerationServiceStub(channel)
        request = pb.GenerateRequest(model=MODEL, seeds=[0], count=1_000, format=pb.IMAGE_FORMAT_RAW_UINT8)
        request.denoising.CopyFrom(pb.Denoising(steps=1, width=24, height=24))
        with pytest.raises(grpc.RpcError) as refused:
            stub.Generate(request)
    assert f"at most {2**20 // (24 * 24 * 3)} of this size" in refused.value.details()


def test_a_reply_without_a_stream_has_no_previews(channel: grpc.Channel) -> None:
    stub = GenerationServiceStub(channel)
    plain = stub.Generate(pb.GenerateRequest(model=MODEL, seeds=[5], denoising=pb.Denoising(steps=3)))
    asked = stub.Generate(pb.GenerateRequest(model=MODEL, seeds=[5], denoising=pb.Denoising(steps=3, preview_every=1)))
    assert asked.pictures == plain.pictures


def infer(channel: grpc.Channel, parameters: dict[str, inference_pb.InferParameter], **inputs: Any) -> np.ndarray:
    request = infer_request(MODEL, **inputs)
    for name, parameter in parameters.items():
        request.parameters[name].CopyFrom(parameter)
    return output(GRPCInferenceServiceStub(channel).ModelInfer(request))


def texts(*values: str) -> np.ndarray:
    return np.array([value.encode() for value in values], object).reshape(-1, 1)


def test_tensors_give_the_pictures_made_in_process_row_by_row(
    channel: grpc.Channel, generator: impasto.Generator
) -> None:
    made = infer(
        channel,
        {},
        seed=seeds(5, 6),
        prompt=texts("night", "★"),
        negative_prompt=texts("stars", ""),
        steps=np.int32([[2], [3]]),
        guidance_scale=np.float32([[4.3], [1]]),
        sampler=texts("ddim", "dpmpp_2m"),
        latent=LATENTS,
    )
    first = {"prompt": "night", "negative_prompt": "stars", "steps": 2, "guidance_scale": 4.3, "sampler": "ddim"}
    second = {"prompt": "★", "negative_prompt": "", "steps": 3, "guidance_scale": 1.0, "sampler": "dpmpp_2m"}
    for row, (seed, parameters) in enumerate([(5, first), (6, second)]):
        (picture,) = generator.generate(seeds=seed, latent=LATENTS[row], **parameters)
        assert_array_equal(made[row], picture.array)


def test_parameters_of_tensors_are_those_of_generate(channel: grpc.Channel, generator: impasto.Generator) -> None:
    parameters = {
        "eta": inference_pb.InferParameter(double_param=0.3),
        "guidance_rescale": inference_pb.InferParameter(double_param=0.7),
        "noise": inference_pb.InferParameter(string_param="torch"),
    }
    made = infer(channel, parameters, seed=seeds(5), steps=np.int32([[3]]), sampler=texts("ddim"))
    wanted: dict[str, Any] = {"eta": 0.3, "guidance_rescale": 0.7, "noise": "torch"}
    (picture,) = generator.generate(seeds=5, steps=3, sampler="ddim", **wanted)
    assert_array_equal(made[0], picture.array)


def test_the_models_tensors_are_told_in_both_vocabularies(channel: grpc.Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)
    metadata = stub.ModelMetadata(inference_pb.ModelMetadataRequest(name=MODEL))
    assert {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs} == {
        "seed": ("INT64", [-1, 1]),
        "prompt": ("BYTES", [-1, 1]),
        "negative_prompt": ("BYTES", [-1, 1]),
        "latent": ("FP32", [-1, 4, 8, 8]),
        "steps": ("INT32", [-1, 1]),
        "guidance_scale": ("FP32", [-1, 1]),
        "sampler": ("BYTES", [-1, 1]),
        "image": ("UINT8", [-1, SIDE, SIDE, 3]),
        "strength": ("FP32", [-1, 1]),
    }
    config = stub.ModelConfig(inference_pb.ModelConfigRequest(name=MODEL)).config
    types = {tensor.name: inference_type(tensor.data_type) for tensor in config.input}
    assert (types["prompt"], types["steps"], types["latent"]) == ("TYPE_STRING", "TYPE_INT32", "TYPE_FP32")
    assert all(tensor.optional for tensor in config.input)  # a seed or an image


def inference_type(number: int) -> str:
    from impasto.api.inference import model_config_pb2

    return str(model_config_pb2.DataType.Name(number))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown sampler": ({"sampler": "brush"}, "sampler: found 'brush'; allowed is "),
    "eta of another sampler": ({"sampler": "dpmpp_2m", "eta": 0.5}, "eta: found 0.5; allowed is"),
    "image of another size": (
        {"image": random_png(SIDE - 1, SIDE)},
        f"image: found '{SIDE - 1} × {SIDE} pixels'; allowed is {SIDE} × {SIDE} pixels",
    ),
    "image with too many pixels": (
        {"image": random_png(25, 24)},
        "image: found '25×24 pixels'; allowed is at most 576 pixels",
    ),
    "image that is not of the size": ({"image": IMAGE, "width": 24}, "image: found '16 × 16 pixels'; allowed is 24 × "),
    "width": ({"width": 18}, "denoising.width: found 18; allowed is 8 to 24 in steps of 4"),
    "height": ({"height": 40_000}, "denoising.height: found 40000; allowed is 8 to 24 in steps of 4"),
    "mask of another size": ({"image": IMAGE, "mask": random_png(SIDE, SIDE - 1)}, "mask: found "),
    "latent of another shape": (
        {"latent": LATENTS[0, :3]},
        "denoising.latent: found '192 values'; allowed is C · h · w = 4 · 8 · 8 values",
    ),
    "latent of another size": (
        {"latent": LATENTS[0], "height": 8},
        "denoising.latent: found '256 values'; allowed is C · h · w = 4 · 4 · 8 values",
    ),
    "psi": ({"psi": 0.5}, "psi: found "),
    "psi cutoff": ({"psi_cutoff": 2}, "psi_cutoff: found "),
    "class vector": ({"class_vector": [1.0]}, "class_vector: found "),
    "style mix": ({"style_mix": (1, 0, 1)}, "style_mix: found "),
}


@pytest.mark.parametrize(("parameters", "line"), BAD.values(), ids=BAD.keys())
def test_what_the_model_cannot_make_is_refused_by_name(
    parameters: dict[str, Any], line: str, address: str, generator: impasto.Generator
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        generate_sync(address, seeds=5, **parameters)
    assert str(refused.value).startswith(line)
    with pytest.raises(InvalidRequest) as refused_here:
        generator.generate(seeds=5, **parameters)
    assert refused_here.value.field == refused.value.field.removeprefix("denoising.")
    assert len(generate_sync(address, seeds=5, steps=1)) == 1


def test_the_command_writes_the_same_file_from_either_side_and_no_preview_stays(
    address: str, models: Path, tmp_path: Path
) -> None:
    options = ["--seed", "5", "--steps", "4", "--sampler", "ddim", "--prompt", "night", "--preview-every", "1"]
    options += ["--width", "20", "--height", "8"]
    for name, where in (("here", ["--models", str(models)]), ("there", ["--server", address])):
        result = CliRunner().invoke(app, ["generate", MODEL, *options, *where, "--out", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
    here, there = (tmp_path / name for name in ("here", "there"))
    assert [path.name for path in here.iterdir()] == [path.name for path in there.iterdir()] == [f"{MODEL}-5.png"]
    assert (here / f"{MODEL}-5.png").read_bytes() == (there / f"{MODEL}-5.png").read_bytes()
    assert impasto.images.decode((here / f"{MODEL}-5.png").read_bytes()).shape == (8, 20, 3)


def test_the_real_tritonclient_gets_the_pictures_made_in_process(
    triton_python: Path, address: str, generator: impasto.Generator, tmp_path: Path
) -> None:
    script = Path(__file__).parent / "tritonclient_diffusion_script.py"
    subprocess.run([triton_python, script, address, MODEL, tmp_path / "outputs.npz"], check=True)
    common: dict[str, Any] = {"sampler": "ddim", "eta": 0.25, "noise": "torch"}
    rows = [
        {"seeds": 5, "prompt": "night", "steps": 2, "guidance_scale": 4.5},
        {"seeds": 6, "prompt": "★", "steps": 3, "guidance_scale": 1.0},
    ]
    made = [generator.generate(**row, **common)[0].array for row in rows]
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert_array_equal(outputs["bytes"], made, strict=True)
        assert_array_equal(outputs["strings"], made, strict=True)
