"""Random square crops of pictures held in memory: the data set of texture generators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


class Crops:
    """Draws batches of `resolution`² crops from pictures.

    `crop` is the smallest and largest side of a crop in pixels of the source picture. Each picture is held at `levels`
    scales between the two, so that a crop is a copy, never a resize. With `mirror` half of the crops are mirrored.
    """

    def __init__(
        self,
        pictures: Sequence[Image.Image],
        resolution: int,
        crop: tuple[int, int],
        *,
        levels: int = 9,
        mirror: bool = True,
    ) -> None:
        self.resolution = resolution
        self._mirror = mirror
        self._pictures: list[Tensor] = []
        for picture in pictures:
            for side in np.geomspace(crop[0], crop[1], levels):
                scale = resolution / side
                size = (round(picture.width * scale), round(picture.height * scale))
                if min(size) < resolution:
                    continue
                scaled = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
                self._pictures.append(torch.from_numpy(np.array(scaled)).permute(2, 0, 1).contiguous())
        if not self._pictures:
            raise ValueError(f"data: found no picture with both sides of {crop[0]} pixels or more")

    def batch(self, size: int, rng: np.random.Generator) -> Tensor:
        """Crops [size, 3, R, R] in [-1, 1]."""
        crops = []
        for _ in range(size):
            picture = self._pictures[rng.integers(len(self._pictures))]
            top = int(rng.integers(picture.shape[1] - self.resolution + 1))
            left = int(rng.integers(picture.shape[2] - self.resolution + 1))
            crop = picture[:, top : top + self.resolution, left : left + self.resolution]
            crops.append(crop.flip(2) if self._mirror and rng.random() < 0.5 else crop)
        return torch.stack(crops).float() / 127.5 - 1.0


def read_pictures(path: Path) -> tuple[list[Image.Image], list[str]]:
    """The pictures of a file or folder, and one line for each file that is not a readable picture."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    pictures, skipped = [], []
    for file in files:
        try:
            with Image.open(file) as picture:
                pictures.append(picture.convert("RGB"))
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            skipped.append(f"{file}: {error}")
    if not pictures:
        raise ValueError(
            f"data: found no readable picture in {path}; allowed are {', '.join(sorted(PICTURE_SUFFIXES))}"
        )
    return pictures, skipped
