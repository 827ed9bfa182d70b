from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from impasto.denoising import Denoising
from impasto.engine.sizes import Size, Sizes
from impasto.errors import InvalidRequest
from impasto.export.bundle import Manifest
from impasto.images.pixels import Bytes

FREE = {"multiple": 8, "least": 16, "most": 96}


def _sizes(sizes: Any) -> Sizes:
    config = {} if sizes is None else {"sizes": sizes}
    return Sizes.of(Manifest(name="m", version="1", family="diffusion", config=config, width=64, height=48))


def _image(width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("wanted", "image", "size"),
    [
        (None, None, (64, 48)),
        (Denoising(), None, (64, 48)),
        (Denoising(width=32), None, (32, 48)),
        (Denoising(height=96), None, (64, 96)),
        (None, _image(24, 80), (24, 80)),
        (Denoising(), _image(24, 80), (24, 80)),
        (Denoising(width=24), _image(24, 80), (24, 80)),
        (Denoising(width=32, height=16), _image(24, 80), (32, 16)),
    ],
)
def test_a_request_has_its_own_size_its_images_or_the_usual_one(
    wanted: Denoising | None, image: Bytes | None, size: tuple[int, int]
) -> None:
    assert _sizes(FREE).asked(wanted, image) == size


def test_latents_scale_with_their_pictures() -> None:
    assert _sizes(FREE).latent((4, 6, 8), Size(64, 48)) == (4, 6, 8)
    assert _sizes(FREE).latent((4, 6, 8), Size(96, 16)) == (4, 2, 12)


@pytest.mark.parametrize("fixed", [None, "fixed"])
def test_a_bundle_that_says_nothing_of_sizes_has_one(fixed: Any) -> None:
    sizes = _sizes(fixed)
    assert sizes.least == sizes.most == sizes.usual == (64, 48)
    sizes.check(Denoising(width=64, height=48), _image(64, 48))
    with pytest.raises(InvalidRequest, match=r"^width: found 72; allowed is 64, the only one of this model$"):
        sizes.check(Denoising(width=72), None)
    with pytest.raises(InvalidRequest, match=r"^image: found '48 × 64 pixels'; allowed is 64 × 48 pixels$"):
        sizes.check(Denoising(), _image(48, 64))


@pytest.mark.parametrize("side", [16, 24, 96])
def test_multiples_within_the_limits_are_sides(side: int) -> None:
    _sizes(FREE).check(Denoising(width=side, height=side), None)


@pytest.mark.parametrize("side", [-8, 0, 8, 17, 20, 104])
@pytest.mark.parametrize("field", ["width", "height"])
def test_other_sides_are_refused_by_name(field: str, side: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{field}: found {side}; allowed is 16 to 96 in steps of 8$"):
        _sizes(FREE).check(Denoising(**{field: side}), None)
