"""Random square crops of pictures: the data set of texture generators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from impasto.errors import InvalidRequest
from impasto.training.pictures import sizes_of

HELD_BYTES = 2**30


class Crops:
    """Draws batches of `resolution`² crops from pictures.

    `crop` is the smallest and largest side of a crop in pixels of the source picture. Each picture is seen at `levels`
    scales between the two, so that a crop is a copy, never a resize. With `mirror` half of the crops are mirrored.

    The scaled copies are held in memory for as many pictures as fit into `held_bytes`, first ones first; the others
    are read and scaled again for each crop. What is drawn does not depend on it.

    InvalidRequest if `crop` is no range, ValueError if no picture is large enough.
    """

    def __init__(
        self,
        pictures: Sequence[Image.Image],
        resolution: int,
        crop: tuple[int, int],
        *,
        levels: int = 9,
        mirror: bool = True,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        if not 1 <= crop[0] <= crop[1]:
            raise InvalidRequest("crop", crop, "the smallest and the largest side, 1 or more")
        self.resolution = resolution
        self._mirror = mirror
        self._pictures = pictures
        self._views: list[tuple[int, tuple[int, int]]] = []
        """(picture, size that it is scaled to) of all that can be drawn from."""
        self._held: dict[int, Tensor] = {}
        """Scaled copies by their place in the views."""
        scales = [resolution / side for side in np.geomspace(crop[0], crop[1], levels)]
        for index, (width, height) in enumerate(sizes_of(pictures)):
            sizes = [(round(width * scale), round(height * scale)) for scale in scales]
            views = [(index, size) for size in sizes if min(size) >= resolution]
            cost = 3 * sum(width * height for _, (width, height) in views)
            if views and cost <= held_bytes:
                held_bytes -= cost
                picture = pictures[index]
                for place, (_, size) in enumerate(views, len(self._views)):
                    self._held[place] = _scaled(picture, size)
            self._views.extend(views)
        if not self._views:
            raise ValueError(f"data: found no picture with both sides of {crop[0]} pixels or more, the smallest crop")

    def batch(self, size: int, rng: np.random.Generator) -> Tensor:
        """Crops [size, 3, R, R] in [-1, 1]."""
        return self.batch_with_sources(size, rng)[0]

    def batch_with_sources(self, size: int, rng: np.random.Generator) -> tuple[Tensor, list[int]]:
        """The same, and for each crop the place of its picture among the pictures."""
        drawn = [self._draw(rng) for _ in range(size)]
        return torch.stack([crop for crop, _ in drawn]).float() / 127.5 - 1.0, [source for _, source in drawn]

    def _draw(self, rng: np.random.Generator) -> tuple[Tensor, int]:
        place = int(rng.integers(len(self._views)))
        source, size = self._views[place]
        picture = self._held[place] if place in self._held else _scaled(self._pictures[source], size)
        top = int(rng.integers(picture.shape[1] - self.resolution + 1))
        left = int(rng.integers(picture.shape[2] - self.resolution + 1))
        crop = picture[:, top : top + self.resolution, left : left + self.resolution]
        return (crop.flip(2) if self._mirror and rng.random() < 0.5 else crop), source


def _scaled(picture: Image.Image, size: tuple[int, int]) -> Tensor:
    """uint8 [3, H, W]."""
    scaled = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1).contiguous()
