"""From a GenerateRequest for a diffusion model to one request a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.client.messages import generate_request
from impasto.denoising import Denoising
from impasto.engine.picture import PictureRequest
from impasto.errors import InvalidRequest
from impasto.export.bundle import Manifest, TensorSpec
from impasto.generation import generation
from impasto.server.requests import picture_requests
from tests.support.pictures import random_pixels

MANIFEST = Manifest(
    name="painter",
    version="1",
    family="diffusion",
    config={},
    width=8,
    height=6,
    inputs=(
        TensorSpec(name="seed", dtype="INT64", shape=(-1, 1), meaning="a seed"),
        TensorSpec(name="latent", dtype="FP32", shape=(-1, 2, 3, 4), meaning="the noise to start from"),
    ),
)
LATENTS = np.arange(72, dtype=np.float32).reshape(3, 2, 3, 4)


def received(**parameters: Any) -> list[PictureRequest]:
    """What the server makes of what a client sends for these parameters."""
    message = generate_request("painter", "", 0, generation(**{"seeds": [1, 2, 3], **parameters}))
    return picture_requests(pb.GenerateRequest.FromString(message.SerializeToString()), MANIFEST, 16)


def first(**parameters: Any) -> Denoising:
    wanted = received(**parameters)[0].denoising
    assert wanted is not None
    return wanted


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "a night with ★ above the Rhône"),
        ("prompt", ""),
        ("negative_prompt", "blur"),
        ("steps", 30),
        ("sampler", "dpmpp_2m"),
        ("eta", 0.0),
        ("eta", 0.5),
        ("guidance_scale", 7.5),
        ("guidance_rescale", 0.7),
        ("width", 8),
        ("height", 6),
        ("noise", "impasto"),
        ("noise", "torch"),
        ("preview_every", 4),
    ],
)
def test_what_a_client_asks_for_is_what_the_server_reads(field: str, value: Any) -> None:
    expected = generation(seeds=1, **{field: value}).denoising
    read = first(**{field: value})
    for name in Denoising.__dataclass_fields__:
        assert getattr(read, name) == getattr(expected, name)
    assert getattr(read, field) in (value, float(np.float32(value)) if isinstance(value, float) else value)


def test_pictures_come_through_pixel_by_pixel() -> None:
    image, mask = random_pixels(8, 6, seed=1), random_pixels(8, 6, seed=2)
    request = received(image=image, mask=mask, strength=0.25)[0]
    read = request.denoising
    assert read is not None
    assert_array_equal(request.image, image)
    assert_array_equal(read.mask, mask)
    assert read.strength == 0.25


def test_every_picture_has_its_own_latent_or_the_only_one() -> None:
    for request, latent in zip(received(latent=LATENTS), LATENTS, strict=True):
        assert request.denoising is not None
        assert_array_equal(request.denoising.latent, latent[None])
    for request in received(latent=LATENTS[1]):
        assert request.denoising is not None
        assert_array_equal(request.denoising.latent, LATENTS[1:2])


def test_a_size_that_is_not_the_models_is_refused_before_its_latents_are_looked_at() -> None:
    with pytest.raises(InvalidRequest, match=r"^denoising\.width: found 12; allowed is 8, the only one of this model$"):
        received(width=12, latent=LATENTS[0])


def test_what_is_not_asked_for_is_left_to_the_model() -> None:
    assert [request.denoising for request in received()] == [None] * 3
    assert [request.seed for request in received(steps=4)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("latent", "line"),
    [
        (LATENTS[:2], "denoising.latent: found '2 latents'; allowed is one for all, or one for each of 3 pictures"),
        (np.zeros((4, 2, 3, 4)), "denoising.latent: found '4 latents'; allowed is at most one a picture, 3"),
        (LATENTS[:, :, :2], "denoising.latent: found '16 values'; allowed is C · h · w = 2 · 3 · 4 values"),
        (np.zeros((1, 1, 1, 1)), "denoising.latent: found '1 values'; allowed is C · h · w = 2 · 3 · 4 values"),
    ],
)
def test_latents_that_do_not_fit_are_refused(latent: Any, line: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        received(latent=latent)
    assert str(refused.value) == line


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_with_what_is_no_number_are_refused(value: float) -> None:
    values = [0.0] * 23 + [value]
    denoising = pb.Denoising(latent=[pb.Latent(values=values)])
    with pytest.raises(InvalidRequest, match=r"^denoising\.latent: found 'NaN or infinity'; allowed is finite numbers"):
        picture_requests(pb.GenerateRequest(model="painter", seeds=[1], denoising=denoising), MANIFEST, 16)
