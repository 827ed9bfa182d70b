"""Pictures that a request brings: from a client's keywords, or a tensor, to what an engine is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.client.messages import generate_request
from impasto.engine.picture import PictureRequest
from impasto.engine.sizes import MAX_PIXELS, Size, made_size, most_pixels, size_of
from impasto.errors import InvalidRequest
from impasto.export.bundle import Manifest, TensorSpec
from impasto.generation import generation
from impasto.server.inference_requests import picture_requests as inference_requests
from impasto.server.inference_requests import read_parameters
from impasto.server.requests import picture_requests
from tests.support.inference import infer_request, seeds
from tests.support.pictures import random_pixels, random_png


def spec(name: str, dtype: Any, *row: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=(-1, *row), meaning=name)


def manifest(side: int) -> Manifest:
    """A model of pictures with this side, -1 for any."""
    return Manifest(
        name="m",
        version="1",
        family="any",
        config={},
        width=16,
        height=8,
        inputs=(
            spec("seed", "INT64", 1),
            spec("image", "UINT8", side, side, 3),
            spec("image_to", "UINT8", side, side, 3),
            spec("blend", "FP32", 1),
        ),
        outputs=(spec("image", "UINT8", side, side, 3),),
    )


ANY, EIGHT = manifest(-1), manifest(8)
PICTURE, OTHER = random_pixels(9, 5, 1), random_pixels(6, 7, 2)


def arrived(model: Manifest = ANY, **parameters: Any) -> list[PictureRequest]:
    message = generate_request("m", "", 0, generation(**parameters))
    return picture_requests(pb.GenerateRequest.FromString(message.SerializeToString()), model, 4)


def inferred(model: Manifest = ANY, **inputs: Any) -> list[PictureRequest]:
    return inference_requests(infer_request("m", **inputs), read_parameters({}), model, 4)


def test_pictures_arrive_pixel_by_pixel_for_every_picture_asked_for() -> None:
    requests = arrived(seeds=[3, 4], image=PICTURE, image_to=OTHER, blend=0.25)
    assert [request.seed for request in requests] == [3, 4]
    for request in requests:
        assert_array_equal(request.image, PICTURE)
        assert_array_equal(request.image_to, OTHER)
        assert request.blend == 0.25


def test_an_image_without_a_seed_is_one_picture_of_seed_0() -> None:
    (request,) = arrived(image=PICTURE)
    assert request.seed == 0
    assert_array_equal(request.image, PICTURE)
    message = pb.GenerateRequest(model="m", image=random_png(4, 4))
    assert [request.seed for request in picture_requests(message, ANY, 4)] == [0]


def test_what_was_not_sent_is_none() -> None:
    (request,) = arrived(seeds=1)
    assert (request.image, request.image_to, request.blend) == (None, None, None)


def test_tensors_bring_a_picture_a_row() -> None:
    images, others = np.stack([PICTURE, PICTURE[::-1]]), np.stack([OTHER, OTHER[::-1]])
    requests = inferred(image=images, image_to=others, blend=np.float32([[0], [1]]))
    assert [request.seed for request in requests] == [0, 0]
    assert [request.blend for request in requests] == [0.0, 1.0]
    for request, image, other in zip(requests, images, others, strict=True):
        assert_array_equal(request.image, image)
        assert_array_equal(request.image_to, other)
    assert [request.seed for request in inferred(seed=seeds(5, 6), image=images)] == [5, 6]


IMAGE = PICTURE[None]


@pytest.mark.parametrize(
    ("model", "inputs", "line"),
    [
        (ANY, {}, "inputs: found 'none of seed, image'; allowed is exactly one of seed, image"),
        (
            ANY,
            {"image": IMAGE[..., :2]},
            "inputs.image.shape: found [1, 5, 9, 2]; allowed is [N, any, any, 3] with N f",
        ),
        (
            ANY,
            {"image": PICTURE},
            "inputs.image.shape: found [5, 9, 3]; allowed is [N, any, any, 3] with N from 1 to 4",
        ),
        (ANY, {"image": IMAGE[:, :0]}, "inputs.image.shape: found [1, 0, 9, 3]; allowed is [N, any, any, 3]"),
        (ANY, {"image": np.float32(IMAGE)}, "inputs.image.datatype: found 'FP32'; allowed is UINT8"),
        (EIGHT, {"image": IMAGE}, "inputs.image.shape: found [1, 5, 9, 3]; allowed is [N, 8, 8, 3] with N from 1 to 4"),
        (
            ANY,
            {"seed": seeds(1), "image_to": IMAGE},
            "inputs.image_to[0]: found 'it without an image'; allowed is it beside an image",
        ),
        (
            ANY,
            {"image": IMAGE, "blend": np.float32([[0.5]])},
            "inputs.blend[0]: found 'it without a second picture'; allowed is it beside image and image_to",
        ),
        (
            ANY,
            {"image": IMAGE, "image_to": IMAGE, "blend": np.float32([[-1]])},
            "inputs.blend[0]: found -1.0; allowed is 0 to 1",
        ),
    ],
)
def test_tensors_that_are_no_pictures_are_refused(model: Manifest, inputs: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        inferred(model, **inputs)
    assert str(refused.value).startswith(line)


def test_an_image_may_hold_what_the_manifest_says() -> None:
    assert most_pixels(ANY) == MAX_PIXELS
    assert most_pixels(EIGHT) == 16 * 8
    assert len(arrived(EIGHT, image=random_pixels(16, 8, 1))) == 1
    with pytest.raises(InvalidRequest, match=r"^image: found '16×9 pixels'; allowed is at most 128 pixels$"):
        arrived(EIGHT, image=random_pixels(16, 9, 1))


def test_a_model_of_any_size_makes_its_images_and_another_its_own() -> None:
    assert made_size(ANY, None, PICTURE) == size_of(PICTURE) == Size(9, 5)
    assert made_size(ANY, None, None) == made_size(EIGHT, None, PICTURE) == Size(16, 8)
