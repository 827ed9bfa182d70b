"""What a picture looks like before it is painted: areas of a few flat colours, as they are laid in with a bucket."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from impasto.generators.residual import Residual
from impasto.images.pixels import Bytes

MIN_BLUR, MAX_BLUR = 1.0, 5.0
"""Pixels, the radius of what is no area of its own."""
MIN_COLOURS, MAX_COLOURS = 6, 32


class FlatColours:
    """The condition of a residual generator: flat colours, with noise beside them, evenly from -1 to 1."""

    def __init__(self, network: Residual) -> None:
        self.network = network

    def draw(self, crop: Bytes, rng: np.random.Generator) -> Bytes:
        return random_flat_colours(crop, rng)

    def inputs(self, drawn: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
        shape = (len(drawn), self.network.config.noise, *drawn.shape[2:])
        noise = torch.rand(shape, generator=rng).to(drawn.device) * 2.0 - 1.0
        return (torch.cat([drawn, noise], dim=1).contiguous(memory_format=torch.channels_last),)

    def write(self, out: Path) -> None:
        """Nothing: any picture will do."""


def flat_colours(picture: Bytes, blur: float, colours: int) -> Bytes:
    """uint8 [H, W, 3] as areas of at most so many colours, without what is finer than `blur` pixels.

    The colours are those of a median cut (Heckbert 1982, "Color image quantization for frame buffer display").
    """
    image = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(blur))
    reduced = image.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    # A small island of another colour is no area.
    return np.asarray(reduced.convert("RGB").filter(ImageFilter.MedianFilter(3)))


def random_flat_colours(picture: Bytes, rng: np.random.Generator) -> Bytes:
    """The same with a blur and a number of colours that are drawn, both evenly on a logarithmic scale."""
    blur = random_blur(rng)
    colours = round(float(np.exp(rng.uniform(np.log(MIN_COLOURS), np.log(MAX_COLOURS)))))
    return flat_colours(picture, blur, colours)


def random_blur(rng: np.random.Generator) -> float:
    """Pixels, drawn evenly on a logarithmic scale."""
    return float(np.exp(rng.uniform(np.log(MIN_BLUR), np.log(MAX_BLUR))))
