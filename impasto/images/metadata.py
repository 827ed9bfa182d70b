"""The metadata inside a picture file: one JSON text, where readers of each format look for it.

PNG: a tEXt chunk with the keyword "impasto". JPEG and WebP: the EXIF tag UserComment.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

from impasto.errors import InvalidRequest

PNG_KEYWORD = "impasto"
# A JPEG segment holds 65 533 bytes; the rest is EXIF's own.
MAX_EXIF_TEXT = 65_000
_ASCII = b"ASCII\0\0\0"
_ENCODER = json.JSONEncoder(sort_keys=True, allow_nan=False)


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """The metadata as one line of JSON, ASCII only, keys sorted: equal metadata is equal text."""
    return _ENCODER.encode(metadata)


def exif_of(text: str) -> bytes:
    """An EXIF block with the text as UserComment. InvalidRequest if it is too long for a JPEG."""
    if len(text) > MAX_EXIF_TEXT:
        raise InvalidRequest("metadata", f"{len(text)} characters", f"at most {MAX_EXIF_TEXT} in a JPEG or WebP")
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = _ASCII + text.encode("ascii")
    return exif.tobytes()


def read_metadata(file: bytes | str | Path) -> dict[str, Any]:
    """The metadata of a PNG, JPEG or WebP file or of its bytes. InvalidRequest if Impasto did not write it."""
    allowed = "a PNG, JPEG or WebP that Impasto wrote"
    shown = f"{len(file)} bytes" if isinstance(file, bytes) else str(file)
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            text = image.info.get(PNG_KEYWORD) or _user_comment(image)
        metadata = json.loads(text)
    except (UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise InvalidRequest("picture", shown, allowed) from error
    if not isinstance(metadata, dict):
        raise InvalidRequest("picture", shown, allowed)
    return metadata


def _user_comment(image: Image.Image) -> str:
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    return comment.removeprefix(_ASCII).decode("ascii") if isinstance(comment, bytes) else ""
