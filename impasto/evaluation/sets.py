"""The two sets of pictures that are compared: the files of a folder, or what a model makes of seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from impasto.errors import InvalidRequest
from impasto.images.pixels import Bytes
from impasto.training.pictures import PictureFolder, read_pictures

if TYPE_CHECKING:
    from impasto.engine.generator import Generator


class PictureSet(Protocol):
    """Pictures uint8 [H, W, 3], each time in the same order. `sizes` are (width, height) of each."""

    @property
    def sizes(self) -> Sequence[tuple[int, int]]: ...

    def __iter__(self) -> Iterator[Bytes]: ...


class FolderSet:
    """The readable pictures of a folder, read one at a time; `left_out` has a line for each file that is none."""

    def __init__(self, pictures: PictureFolder, folder: Path, left_out: Sequence[str] = ()) -> None:
        self.left_out = tuple(left_out)
        self._pictures = pictures
        names = [str(file.relative_to(folder).with_suffix("")) for file in pictures.files]
        self._places = {name: place for place, name in enumerate(names)}
        if len(self._places) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidRequest("folder", f"two pictures named {twice}", f"one of each name in {folder}")

    @property
    def names(self) -> Sequence[str]:
        """Each picture's path in the folder, without its suffix."""
        return tuple(self._places)

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        return self._pictures.sizes

    def size(self, name: str) -> tuple[int, int]:
        """(width, height) of the picture of that name."""
        return self._pictures.sizes[self._places[name]]

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def picture(self, name: str) -> Bytes:
        """The picture of that name."""
        return np.asarray(self._pictures[self._places[name]])

    def __iter__(self) -> Iterator[Bytes]:
        return (np.asarray(picture) for picture in self._pictures)


class MadeSet:
    """What a model makes of seeds, a batch at a time; `parameters` are those of `generate`."""

    def __init__(self, generator: Generator, seeds: Sequence[int], **parameters: Any) -> None:
        self._generator = generator
        self._seeds = tuple(seeds)
        self._parameters = parameters

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        manifest = self._generator.engine.manifest
        return ((manifest.width, manifest.height),) * len(self._seeds)

    def __iter__(self) -> Iterator[Bytes]:
        batch = self._generator.engine.buckets[-1]
        for start in range(0, len(self._seeds), batch):
            seeds = self._seeds[start : start + batch]
            for picture in self._generator.generate(seeds=seeds, **self._parameters):
                yield picture.array


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two pictures of one name, one from each folder."""

    name: str
    a: FolderSet
    b: FolderSet

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(width, height) of each."""
        return self.a.size(self.name), self.b.size(self.name)

    def pictures(self) -> tuple[Bytes, Bytes]:
        """Both, as they are."""
        return self.a.picture(self.name), self.b.picture(self.name)


def pairs_of(a: PictureSet, b: PictureSet) -> list[Pair]:
    """The pairs of two folders; none of what a model makes."""
    if not (isinstance(a, FolderSet) and isinstance(b, FolderSet)):
        return []
    return [Pair(name, a, b) for name in a.names if name in b]


def read_folder(folder: Path) -> FolderSet:
    """The pictures of a folder and all below it. InvalidRequest if there is none."""
    try:
        pictures, left_out = read_pictures(folder)
    except ValueError as error:
        raise InvalidRequest("folder", str(folder), str(error).removeprefix("data: ")) from error
    return FolderSet(pictures, folder, left_out)


def common_size(a: PictureSet, b: PictureSet) -> tuple[int, int]:
    """(width, height) that all pictures have or, where they differ, the square of the shortest side of all."""
    sizes = {*a.sizes, *b.sizes}
    if len(sizes) == 1:
        return next(iter(sizes))
    side = min(min(size) for size in sizes)
    return side, side


def resized(picture: Bytes, size: tuple[int, int]) -> Bytes:
    """The middle of a picture, scaled to (width, height); one of that size as it is."""
    height, width, _ = picture.shape
    if (width, height) == size:
        return picture
    return np.asarray(ImageOps.fit(Image.fromarray(picture), size, Image.Resampling.LANCZOS))
