"""The sizes that a model's pictures may have, in pixels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple, Self

from impasto.denoising import Denoising
from impasto.errors import InvalidRequest
from impasto.export.bundle import Manifest
from impasto.images.pixels import Bytes

MAX_PIXELS = 2**26
"""Of a picture that is given to a model of any size: 8192 × 8192, whose floats fill 768 MiB."""


class Size(NamedTuple):
    """Pixels of a picture."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} × {self.height} pixels"


class Sides(NamedTuple):
    """What a side may measure: multiples of `multiple` from `least` to `most`."""

    multiple: int
    least: int
    most: int

    def __contains__(self, side: object) -> bool:
        return isinstance(side, int) and self.least <= side <= self.most and not side % self.multiple

    def __str__(self) -> str:
        return f"{self.least} to {self.most} in steps of {self.multiple}"


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """The size of the manifest, and what both sides may measure instead; None where the model has that one only."""

    usual: Size
    sides: Sides | None

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Those of a bundle. One that says nothing of sizes has its own only."""
        found = manifest.config.get("sizes")
        sides = Sides(found["multiple"], found["least"], found["most"]) if isinstance(found, dict) else None
        return cls(Size(manifest.width, manifest.height), sides)

    @property
    def least(self) -> Size:
        """The smallest picture."""
        return Size(self.sides.least, self.sides.least) if self.sides else self.usual

    @property
    def most(self) -> Size:
        """The largest picture."""
        return Size(self.sides.most, self.sides.most) if self.sides else self.usual

    def asked(self, wanted: Denoising | None, image: Bytes | None) -> Size:
        """The size that a request asks for, allowed or not: as it says, else its image's, else the usual one."""
        unsaid = self.usual if image is None else size_of(image)
        if wanted is None:
            return unsaid
        return Size(
            unsaid.width if wanted.width is None else wanted.width,
            unsaid.height if wanted.height is None else wanted.height,
        )

    def check_sides(self, wanted: Denoising) -> None:
        """InvalidRequest names the width or height that the model's pictures cannot have."""
        for field, usual in (("width", self.usual.width), ("height", self.usual.height)):
            side = getattr(wanted, field)
            if side is not None and side not in (self.sides or (usual,)):
                raise InvalidRequest(field, side, str(self.sides or f"{usual}, the only one of this model"))

    def check(self, wanted: Denoising, image: Bytes | None) -> None:
        """As check_sides, and an image and a mask must have the picture's size."""
        self.check_sides(wanted)
        size = self.asked(wanted, image)
        for field, picture in (("image", image), ("mask", wanted.mask)):
            if picture is not None and size_of(picture) != size:
                raise InvalidRequest(field, str(size_of(picture)), str(size))
            if picture is not None and not self._allow(size):
                others = f", or sides of {self.sides}" if self.sides else ""
                raise InvalidRequest(field, str(size), f"{self.usual}{others}")

    def latent(self, usual: Sequence[int], size: Size) -> tuple[int, ...]:
        """The latent's [C, h, w] at that size, where `usual` is that of the usual one."""
        channels, height, width = usual
        return channels, height * size.height // self.usual.height, width * size.width // self.usual.width

    def _allow(self, size: Size) -> bool:
        return size == self.usual if self.sides is None else all(side in self.sides for side in size)


def most_pixels(manifest: Manifest) -> int:
    """Of a picture that is given to the model: MAX_PIXELS where its manifest says any size, else its largest one."""
    if any(spec.name == "image" and -1 in spec.shape[1:] for spec in manifest.inputs):
        return MAX_PIXELS
    return math.prod(Sizes.of(manifest).most)


def made_size(manifest: Manifest, wanted: Denoising | None, image: Bytes | None) -> Size:
    """That of the picture which a request gets, of a model that makes several sizes or its image's; else the usual."""
    if wanted is None and image is None:
        return Size(manifest.width, manifest.height)
    sizes = Sizes.of(manifest)
    free = any(-1 in spec.shape[1:] for spec in manifest.outputs)
    return sizes.asked(wanted, image) if free or sizes.sides else sizes.usual


def size_of(picture: Bytes) -> Size:
    """That of a picture [H, W, 3]."""
    return Size(picture.shape[1], picture.shape[0])
