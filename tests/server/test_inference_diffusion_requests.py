"""From the tensors of the Open Inference Protocol to what a diffusion model is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from impasto.api.inference import grpc_service_pb2 as pb
from impasto.engine.picture import PictureRequest
from impasto.errors import InvalidRequest
from impasto.export.bundle import Manifest, TensorSpec
from impasto.server.inference_requests import picture_requests, read_parameters
from tests.support.inference import infer_request, seeds


def spec(name: str, dtype: Any, *row: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=(-1, *row), meaning=name)


MANIFEST = Manifest(
    name="painter",
    version="1",
    family="diffusion",
    config={},
    width=4,
    height=3,
    inputs=(
        spec("seed", "INT64", 1),
        spec("prompt", "BYTES", 1),
        spec("negative_prompt", "BYTES", 1),
        spec("latent", "FP32", 2, 3, 4),
        spec("steps", "INT32", 1),
        spec("guidance_scale", "FP32", 1),
        spec("sampler", "BYTES", 1),
        spec("label", "INT64", 1),
    ),
)


def asked(parameters: dict[str, pb.InferParameter] | None = None, **inputs: Any) -> list[PictureRequest]:
    """What the server makes of a request for two seeds with these tensors and parameters."""
    request = infer_request("painter", seed=seeds(1, 2), **inputs)
    return picture_requests(request, read_parameters(parameters or {}), MANIFEST, 16)


def texts(*values: str | bytes) -> np.ndarray[Any, Any]:
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return np.array(encoded, object).reshape(-1, 1)


def each(field: str, requests: list[PictureRequest]) -> list[Any]:
    """A field of Denoising, of each request."""
    return [getattr(request.denoising, field) for request in requests]


def test_every_row_has_its_own_words_and_numbers() -> None:
    requests = asked(
        prompt=texts("a swirl", "★"),
        negative_prompt=texts("", "blur"),
        steps=np.int32([[4], [50]]),
        guidance_scale=np.float32([[1], [7.5]]),
        sampler=texts("ddim", "dpmpp_2m"),
        label=seeds(5, 6),
    )
    assert [request.seed for request in requests] == [1, 2]
    assert [request.label for request in requests] == [5, 6]
    assert each("prompt", requests) == ["a swirl", "★"]
    assert each("negative_prompt", requests) == ["", "blur"]
    assert each("steps", requests) == [4, 50]
    assert each("guidance_scale", requests) == [1.0, 7.5]
    assert each("sampler", requests) == ["ddim", "dpmpp_2m"]


def test_every_row_has_its_own_latent() -> None:
    latents = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)
    for found, latent in zip(each("latent", asked(latent=latents)), latents, strict=True):
        assert_array_equal(found, latent[None])


def test_parameters_are_those_of_all_rows() -> None:
    parameters = {
        "eta": pb.InferParameter(double_param=0.3),
        "guidance_rescale": pb.InferParameter(int64_param=1),
        "noise": pb.InferParameter(string_param="torch"),
    }
    requests = asked(parameters)
    assert each("eta", requests) == [float(np.float32(0.3))] * 2
    assert each("guidance_rescale", requests) == [1.0] * 2
    assert each("noise", requests) == ["torch"] * 2


def test_what_is_not_asked_for_is_left_to_the_model() -> None:
    assert [request.denoising for request in asked()] == [None, None]


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        ({"steps": np.int32([[4], [0]])}, "inputs.steps[1]: found 0; allowed is 1 to 1000"),
        ({"steps": np.int32([[-1], [4]])}, "inputs.steps[0]: found -1; allowed is 1 to 1000"),
        ({"steps": seeds(4, 4)}, "inputs.steps.datatype: found 'INT64'; allowed is INT32"),
        ({"steps": np.int32([[4]])}, "inputs.steps.shape: found 'N = 1'; allowed is N = 2 as in inputs.seed"),
        (
            {"guidance_scale": np.float32([[1], [-2]])},
            "inputs.guidance_scale[1]: found -2.0; allowed is 0 to 100",
        ),
        (
            {"guidance_scale": np.float32([[np.nan], [1]])},
            "inputs.guidance_scale[0][0]: found nan; allowed is a finite",
        ),
        ({"prompt": texts("x" * 10_001, "")}, "inputs.prompt[0]: found '10001 characters'; allowed is at most 10000"),
        ({"prompt": texts("", b"ab\xff")}, "inputs.prompt[1]: found 'bytes with 0xff at 2'; allowed is UTF-8 text"),
        ({"sampler": texts(b"\xc3", "")}, "inputs.sampler[0]: found 'bytes with 0xc3 at 0'; allowed is UTF-8 text"),
        (
            {"latent": np.zeros((2, 2, 4, 3), np.float32)},
            "inputs.latent.shape: found [2, 2, 4, 3]; allowed is [N, 2, 3, 4] with N from 1 to 16",
        ),
        ({"z": np.zeros((2, 4), np.float32)}, "inputs[1].name: found 'z'; allowed is one of seed, prompt"),
    ],
)
def test_a_row_that_is_wrong_is_named(inputs: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked(**inputs)
    assert str(refused.value).startswith(line)
