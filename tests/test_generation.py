from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from impasto.errors import InvalidRequest
from impasto.generation import generation

PIXELS = np.zeros((2, 3, 3), np.uint8)


@pytest.mark.parametrize(
    ("parameters", "seeds"),
    [
        ({"seeds": 7}, (7,)),
        ({"seeds": [3, 1, 3]}, (3, 1, 3)),
        ({"seeds": 7, "count": 3}, (7, 8, 9)),
        ({"seeds": [7], "count": 3}, (7, 8, 9)),
        ({"seeds": range(2)}, (0, 1)),
        ({"seeds": np.arange(2)}, (0, 1)),
        ({"seeds": np.int64(4)}, (4,)),
        ({"seeds": 2**32 - 1}, (2**32 - 1,)),
        ({"image": PIXELS}, (0,)),
        ({"image": PIXELS, "seeds": [4, 5]}, (4, 5)),
    ],
)
def test_seeds_are_spelt_out(parameters: Any, seeds: tuple[int, ...]) -> None:
    wanted = generation(**parameters)
    assert wanted.seeds == seeds
    assert wanted.count == len(seeds)


def test_an_image_beside_a_latent_leaves_it_alone() -> None:
    wanted = generation(z=np.ones(4), image=PIXELS)
    assert (wanted.seeds, wanted.count) == ((), 1)


def test_a_grey_image_has_three_channels() -> None:
    wanted = generation(image=np.full((2, 3), 7, np.uint8))
    assert wanted.image is not None
    assert wanted.image.shape == (2, 3, 3)
    assert (wanted.image == 7).all()


@pytest.mark.parametrize(("given", "shape"), [((8,), (1, 8)), ((3, 8), (3, 8))])
def test_a_single_z_is_a_batch_of_one(given: tuple[int, ...], shape: tuple[int, ...]) -> None:
    wanted = generation(z=np.ones(given))
    assert wanted.z is not None
    assert wanted.z.shape == shape
    assert wanted.z.dtype == np.float32
    assert wanted.count == shape[0]


@pytest.mark.parametrize(("given", "shape"), [((4, 8), (1, 4, 8)), ((3, 4, 8), (3, 4, 8))])
def test_a_single_ws_is_a_batch_of_one(given: tuple[int, ...], shape: tuple[int, ...]) -> None:
    wanted = generation(ws=np.ones(given))
    assert wanted.ws is not None
    assert wanted.ws.shape == shape


def test_psi_is_the_number_that_a_message_carries() -> None:
    assert generation(seeds=1, psi=0.7).psi == float(np.float32(0.7))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "seeds: found 'none'; allowed is exactly one of seeds, z, ws and codes"),
        ({"seeds": 1, "z": [0.0], "image": PIXELS}, "seeds: found 'seeds and z'; allowed is exactly one"),
        ({"image": np.zeros((2, 2), np.float32)}, r"image: found 'float32 \[2, 2, 3\]'; allowed is uint8"),
        ({"image": np.zeros((0, 2, 3), np.uint8)}, r"image: found 'uint8 \[0, 2, 3\]'; allowed is uint8"),
        ({"image": b"GIF89a"}, "image: found '6 bytes'; allowed is a PNG, JPEG or WebP file"),
        ({"seeds": 1, "image_to": PIXELS}, "image_to: found 'it without an image'; allowed is it beside an image"),
        ({"image": PIXELS, "image_to": b""}, "image_to: found '0 bytes'; allowed is a PNG, JPEG or WebP file"),
        ({"image": PIXELS, "blend": 0.5}, "blend: found 'it without a second picture'; allowed is it beside image"),
        ({"image": PIXELS, "image_to": PIXELS, "blend": 1.5}, "blend: found 1.5; allowed is 0 to 1"),
        ({"image": PIXELS, "image_to": PIXELS, "blend": float("nan")}, "blend: found nan; allowed is 0 to 1"),
        ({"seeds": 1, "z": [0.0]}, "seeds: found 'seeds and z'; allowed is exactly one"),
        ({"seeds": []}, "seeds: found 'an empty list'"),
        ({"seeds": -1}, "seeds: found -1; allowed is an integer from 0 to 4294967295"),
        ({"seeds": [0, 2**32]}, "seeds: found 4294967296"),
        ({"seeds": 1.5}, "seeds: found 1.5; allowed is an integer"),
        ({"seeds": 10**30}, "seeds: found 1000000000000000000000000000000; allowed is an integer of 64 bits"),
        ({"seeds": 1, "count": 0}, "count: found 0; allowed is 1 to"),
        ({"seeds": 1, "count": 10**9}, "count: found 1000000000; allowed is 1 to"),
        ({"seeds": [1, 2], "count": 2}, "count: found 2; allowed is none unless there is exactly one seed"),
        ({"z": [0.0], "count": 2}, "count: found 2; allowed is none unless there is exactly one seed"),
        ({"seeds": 2**32 - 1, "count": 2}, "seeds: found 4294967296"),
        ({"z": 1.0}, r"z: found 'shape \[\]'"),
        ({"z": np.ones((0, 4))}, r"z: found 'shape \[0, 4\]'"),
        ({"ws": np.ones(4)}, r"ws: found 'shape \[4\]'; allowed is \[num_ws, w_dim\]"),
        ({"seeds": 1, "label": 1.5}, "label: found 1.5; allowed is an integer"),
        ({"seeds": 1, "noise_mode": "loud"}, "noise_mode: found 'loud'; allowed is one of const, random, none"),
        ({"seeds": 1, "format": "gif"}, "format: found 'gif'; allowed is one of uint8, float32, png, jpeg, webp"),
        ({"seeds": 1, "quality": 101}, "quality: found 101"),
        ({"seeds": 1, "style_mix": (1, 2)}, r"style_mix: found \(1, 2\); allowed is \(seed, first layer, last"),
        ({"seeds": 1, "style_mix": (-1, 0, 2)}, "style_mix: found -1"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(parameters: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{message}"):
        generation(**parameters)


def test_unknown_keyword_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'seed'"):
        generation(seed=1)  # type: ignore[call-arg]
