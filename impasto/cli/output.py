"""Where `impasto generate` puts its pictures."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from impasto.images import Picture


class Format(enum.StrEnum):
    """What files are written; uint8 and float32 are tensors in .npy files."""

    png = "png"
    jpeg = "jpeg"
    webp = "webp"
    uint8 = "uint8"
    float32 = "float32"


SUFFIX_OF = {
    Format.png: ".png",
    Format.jpeg: ".jpg",
    Format.webp: ".webp",
    Format.uint8: ".npy",
    Format.float32: ".npy",
}
FORMATS_OF = {
    ".png": (Format.png,),
    ".jpg": (Format.jpeg,),
    ".jpeg": (Format.jpeg,),
    ".webp": (Format.webp,),
    ".npy": (Format.uint8, Format.float32),
}
# Meant as a file, which would otherwise become a folder of that name.
OTHER_SUFFIXES = (".gif", ".bmp", ".tif", ".tiff", ".tga", ".exr", ".hdr", ".avif", ".jxl", ".jp2", ".npz", ".pt")
SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclasses.dataclass(frozen=True)
class Output:
    """A file for each picture in `folder`, or the only one at `file`, or none; and perhaps all on a `sheet`."""

    folder: Path | None
    file: Path | None
    sheet: Path | None
    format: Format
    quality: int

    def save(self, picture: Picture) -> Path | None:
        """Write a picture; where to, or None if only the sheet is wanted."""
        path = self._path(picture)
        if path is None:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        return picture.save(path, self.quality)

    def preview_path(self, picture: Picture) -> Path:
        """Where a preview of the picture goes: beside what it becomes, or beside the sheet, as NAME.preview.SUFFIX."""
        path = self._path(picture) or self.sheet
        assert path is not None, "there is somewhere to write"
        suffix = ".png" if path.suffix.lower() == ".npy" else path.suffix
        return path.with_name(f"{path.stem}.preview{suffix}")

    def save_sheet(self, pictures: Sequence[Picture]) -> Path | None:
        """Write the sheet, with the seeds of its pictures in reading order in its metadata, if one is wanted."""
        if self.sheet is None:
            return None
        from impasto.images import Picture, contact_sheet

        seeds = [picture.seed for picture in pictures]
        metadata = {**pictures[0].metadata, "seed": None, "seeds": seeds}
        self.sheet.parent.mkdir(parents=True, exist_ok=True)
        return Picture(metadata, array=contact_sheet([picture.array for picture in pictures])).save(
            self.sheet, self.quality
        )

    def _path(self, picture: Picture) -> Path | None:
        if self.folder is None:
            return self.file
        return self.folder / f"{picture.metadata['model']}-{picture.seed}{SUFFIX_OF[self.format]}"


def parse_output(out: Path | None, sheet: Path | None, format: Format | None, quality: int, count: int) -> Output:
    """The options --out, --sheet, --format and --quality for `count` pictures. BadParameter if they do not fit."""
    if sheet and sheet.suffix.lower() not in SHEET_SUFFIXES:
        raise typer.BadParameter(f"{sheet}: a sheet's file name ends in {', '.join(SHEET_SUFFIXES)}")
    if out is None:
        return Output(None if sheet else Path(), None, sheet, format or Format.png, quality)
    suffix = out.suffix.lower()
    if suffix in OTHER_SUFFIXES:
        raise typer.BadParameter(f"{out}: a file name ends in {', '.join(FORMATS_OF)}")
    if suffix not in FORMATS_OF or out.is_dir():
        return Output(out, None, sheet, format or Format.png, quality)
    if count > 1:
        raise typer.BadParameter(f"{out}: a file holds one picture, not {count}; name a folder, or use --sheet")
    if format is not None and format not in FORMATS_OF[suffix]:
        raise typer.BadParameter(f"{out}: --format {format} does not go with {suffix}")
    return Output(None, out, sheet, format or FORMATS_OF[suffix][0], quality)
