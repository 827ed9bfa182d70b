"""Picture files of any size and mode as upright 8-bit RGB, and the folders that hold them."""

from __future__ import annotations

import hashlib
import stat
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from impasto.errors import ImpastoError

SUFFIXES = {
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
PICTURE_SUFFIXES = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
SIGNATURES = {"GIF": b"GIF8", "JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}
"""First bytes that no other kind of file has."""
PAPER = (255, 255, 255)
"""What shows through a picture's transparent parts."""
DEEPEST = 65535


class PictureFolder(Sequence[Image.Image]):
    """The pictures of some files, read anew whenever one is asked for: a folder may be larger than memory.

    `sizes` are (width, height) as `folder[i]` will be; `fingerprint` changes with any pixel of any picture.
    """

    def __init__(self, path: Path, files: Sequence[Path], sizes: Sequence[tuple[int, int]], fingerprint: str) -> None:
        self.path = path
        self.files = tuple(files)
        self.sizes = tuple(sizes)
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | Sequence[Image.Image]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        try:
            picture = read_picture(self.files[index])
        except Unreadable as error:
            raise ImpastoError(f"data: {printable(self.files[index])} cannot be read any more: {error}") from error
        if picture.size != self.sizes[index]:
            raise ImpastoError(f"data: {printable(self.files[index])} is another picture than it was at the start")
        return picture

    def classes(self) -> tuple[tuple[str, ...], list[int]]:
        """The names of the folder's subfolders, sorted, and for each picture the place of its own among them.

        ValueError if there are fewer than two, or a picture lies in none.
        """
        parts = [file.relative_to(self.path).parts for file in self.files]
        if outside := next((file for file, names in zip(self.files, parts, strict=True) if len(names) < 2), None):
            raise ValueError(f"data: found {printable(outside)} in no class; allowed are subfolders, one a class")
        names = sorted({names[0] for names in parts})
        if len(names) < 2:
            raise ValueError(f"data: found the class {names[0]!r} alone; allowed are two subfolders or more")
        return tuple(names), [names.index(own[0]) for own in parts]


class Unreadable(ImpastoError):
    """A file holds no picture that can be read; the message is the reason."""


def read_pictures(path: Path, smallest: int = 1) -> tuple[PictureFolder, list[str]]:
    """The pictures of a file, or of a folder and all below it, and one line for each file that is left out.

    Every file is decoded once, to know that it can be. Left out and named are those with a picture's suffix that
    cannot be read, have a side under `smallest` pixels, or claim so many pixels that they may be a decompression bomb
    (more than PIL.Image.MAX_IMAGE_PIXELS); and those that are pictures under another suffix. ValueError if no picture
    is left.
    """
    files, sizes, left_out, read = [], [], [], 0
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        try:
            picture = _picture_in(file)
        except Unreadable as error:
            left_out.append(f"{printable(file)}: {error}")
            continue
        if picture is None:
            continue
        read += 1
        if min(picture.size) < smallest:
            found = f"found {picture.width}×{picture.height} pixels"
            left_out.append(f"{printable(file)}: {found}; allowed are sides of {smallest} pixels or more")
            continue
        files.append(file)
        sizes.append(picture.size)
        digest.update(_content(picture))
    if not files and read:
        raise ValueError(
            f"data: found no picture with both sides of {smallest} pixels or more, the smallest crop{_some(left_out)}"
        )
    if not files:
        allowed = ", ".join(sorted(PICTURE_SUFFIXES))
        found = f"found no readable picture in {printable(path)}; allowed are {allowed}"
        raise ValueError(f"data: {found}{_some(left_out)}")
    return PictureFolder(path, files, sizes, digest.hexdigest()), left_out


def _some(left_out: Sequence[str]) -> str:
    """The first reasons why files were left out, behind a message."""
    return "".join(f"; {line}" for line in left_out[:3])


def fingerprint(pictures: Sequence[Image.Image]) -> str:
    """What two sets of pictures have in common only if they are equal, in the same order: a sha256."""
    if isinstance(pictures, PictureFolder):
        return pictures.fingerprint
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(_content(picture))
    return digest.hexdigest()


def sizes_of(pictures: Sequence[Image.Image]) -> Iterable[tuple[int, int]]:
    """(width, height) of each picture; no file is decoded for it."""
    return pictures.sizes if isinstance(pictures, PictureFolder) else [picture.size for picture in pictures]


def read_picture(file: Path) -> Image.Image:
    """The first picture of a file, RGB; Unreadable with the reason if there is none.

    It is turned as its EXIF orientation says. 16-bit grey is scaled to 8 bits, and so is floating-point grey from 0 to
    1. What is transparent shows white paper.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=tuple(SUFFIXES)) as image:
                return _upright_rgb(image)
    except Unreadable:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise Unreadable(str(error)) from error
    except UnidentifiedImageError as error:
        raise Unreadable("found no picture in it" if file.stat().st_size else "found an empty file") from error
    except Exception as error:
        # A damaged file can raise nearly anything from Pillow's readers: struct.error, KeyError, MemoryError.
        raise Unreadable(f"cannot be decoded: {error or type(error).__name__}") from error


def printable(path: Path) -> str:
    """A path as one line of text, whatever bytes its name has."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(path))


def _picture_in(file: Path) -> Image.Image | None:
    """The picture of a file; None if it is none and does not look like one."""
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        return None
    # Opening a pipe would wait for ever.
    regular, suffix = stat.S_ISREG(mode), file.suffix.lower()
    if suffix in PICTURE_SUFFIXES:
        if not regular:
            raise Unreadable("found a device, pipe or socket; allowed is a file")
        return read_picture(file)
    if regular and (kind := _kind_by_content(file)):
        raise Unreadable(
            f"found a {kind} picture under the suffix {suffix!r}; allowed is {' or '.join(SUFFIXES[kind])}"
        )
    return None


def _kind_by_content(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
    except OSError:
        return None
    return next((kind for kind, signature in SIGNATURES.items() if start.startswith(signature)), None)


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, PAPER)
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, scaled: 16-bit white is 65535, floating-point white 1."""
    values = np.asarray(image)
    white = 1.0 if image.mode == "F" else float(DEEPEST)
    low, high = float(values.min()), float(values.max())
    if not 0.0 <= low <= high <= white:
        raise Unreadable(f"found grey from {low:g} to {high:g}; allowed is 0 to {white:g}")
    return Image.fromarray(np.rint(values * (255.0 / white)).astype(np.uint8))


def _content(picture: Image.Image) -> bytes:
    """The picture's pixels, hashed: its size is part of them."""
    return hashlib.sha256(f"{picture.mode} {picture.size}".encode() + picture.tobytes()).digest()
