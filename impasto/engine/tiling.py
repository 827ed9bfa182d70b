"""Pictures larger than a network may be given at once: tiles that overlap, and their weights where they do.

The picture is cut at multiples of the network's stride, so that a tile's places are those of the whole picture. In an
overlap the quarter at either side is left to the other tile, whose edge is further away, and over the half between the
two the one goes over into the other on a straight line. Weights of all tiles add up to one at every pixel.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from impasto.images.pixels import Bytes, Floats


class Span(NamedTuple):
    """A tile along one axis: its first place, the one behind its last, and the weight of each [stop - start]."""

    start: int
    stop: int
    weights: Floats


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Tiles of `tile` pixels a side that overlap by `overlap` or more; all three are multiples of `multiple`."""

    tile: int
    overlap: int
    multiple: int

    def __post_init__(self) -> None:
        if not (self.multiple >= 1 and self.tile >= 4 * self.multiple and 0 < self.overlap <= self.tile // 2):
            raise ValueError(f"found {self}; allowed is an overlap above 0, to half of a tile of 4 multiples or more")
        if self.tile % self.multiple or self.overlap % self.multiple:
            raise ValueError(f"found {self}; allowed are tiles and overlaps that are multiples of {self.multiple}")

    def fits(self, height: int, width: int) -> bool:
        """Whether a picture of that size is a single tile."""
        return max(height, width) <= self.tile

    def padded(self, picture: Bytes) -> Bytes:
        """A picture [H, W, C] reflected at its right and lower edge, to two multiples a side or more."""
        missing = [max(-side % self.multiple, 2 * self.multiple - side) for side in picture.shape[:2]]
        return np.pad(picture, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="reflect")

    def samples(self, picture: Bytes) -> Iterator[Bytes]:
        """Pictures as large as a tile at most, each spread over a whole padded one, which together are its pixels.

        Each is a comb: every n-th band of rows and of columns, half of a tile wide, side by side. Nothing is scaled: a
        network sees of it what it sees of the whole, but where two bands meet. Narrower bands are spread more evenly,
        and meet more often: of a picture of 768 × 608 pixels in tiles of 256, the translation by the statistics of
        samples is as near to that by its own with bands of 128 or 64 pixels (33 dB), and less so with 32 or 16.
        """
        rows, columns = (self._combs(side) for side in picture.shape[:2])
        for comb in rows:
            for teeth in columns:
                yield np.ascontiguousarray(picture[comb][:, teeth])

    def spans(self, length: int) -> list[Span]:
        """The tiles along an axis of that length, evenly spread: one where it is no longer than a tile."""
        tile = min(self.tile, length)
        count = 1 + -(-(length - tile) // (tile - self.overlap)) if length > tile else 1
        starts = self._spread(length, tile, count)
        places = np.arange(length, dtype=np.float32)
        # How far each place has gone over from the tile before to this one and those behind it.
        reached = [np.ones(length, np.float32)]
        for before, start in itertools.pairwise(starts):
            half = np.float32(self.overlap / 2)
            middle = (start + before + tile - 1) / 2
            reached.append(np.clip((places - np.float32(middle)) / half + np.float32(0.5), 0.0, 1.0))
        reached.append(np.zeros(length, np.float32))
        return [
            Span(start, start + tile, (here - behind)[start : start + tile])
            for start, here, behind in zip(starts, reached, reached[1:], strict=False)
        ]

    def _combs(self, length: int) -> list[NDArray[np.int64]]:
        """The places of each comb along an axis; all of them where it is no longer than a tile."""
        if length <= self.tile:
            return [np.arange(length)]
        band = self.tile // 2 // self.multiple * self.multiple
        bands = [np.arange(start, min(start + band, length)) for start in range(0, length, band)]
        combs = -(-len(bands) // 2)
        return [np.concatenate(bands[first::combs]) for first in range(combs)]

    def _spread(self, length: int, part: int, count: int) -> list[int]:
        """First places of so many parts from one end to the other."""
        last = (length - part) // self.multiple
        return [index * last // max(count - 1, 1) * self.multiple for index in range(count)]
