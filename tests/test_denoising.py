from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from impasto.denoising import Denoising, refuse_denoising
from impasto.errors import InvalidRequest

LATENTS = np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2)


def test_each_picture_gets_its_latent() -> None:
    each = Denoising(steps=4, latent=LATENTS).split(3)
    assert [wanted.steps for wanted in each] == [4, 4, 4]
    assert [wanted.latent.tolist() for wanted in each if wanted.latent is not None] == [
        [[[[0, 1], [2, 3]]]],
        [[[[4, 5], [6, 7]]]],
        [[[[8, 9], [10, 11]]]],
    ]


@pytest.mark.parametrize("wanted", [Denoising(steps=4), Denoising(latent=LATENTS[:1])])
def test_one_for_all_is_shared(wanted: Denoising) -> None:
    assert wanted.split(3) == [wanted] * 3


@pytest.mark.parametrize(
    ("pictures", "allowed"), [(1, "one"), (2, "one for all, or one for each of 2 pictures"), (4, "one for all, or one")]
)
def test_any_other_number_of_latents_is_refused(pictures: int, allowed: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^latent: found '3 latents'; allowed is {allowed}"):
        Denoising(latent=LATENTS).split(pictures)


@pytest.mark.parametrize("wanted", [None, Denoising()])
def test_a_model_in_one_call_takes_what_asks_for_nothing(wanted: Denoising | None) -> None:
    refuse_denoising(wanted)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"prompt": ""}, "prompt: found ''"),
        ({"steps": 30, "eta": 0.5}, "steps: found 30"),
        ({"eta": 0.0}, "eta: found 0.0"),
        ({"mask": np.zeros((2, 2, 3), np.uint8)}, "mask: found 'one'"),
        ({"latent": LATENTS}, "latent: found 'one'"),
        ({"preview_every": 5}, "preview_every: found 5"),
    ],
)
def test_a_model_in_one_call_refuses_the_first_field_that_is_set(given: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        refuse_denoising(Denoising(**given))
    assert str(refused.value) == f"{line}; allowed is nothing; this model makes a picture in one call"
