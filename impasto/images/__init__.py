"""Picture files: encoding, decoding, metadata, contact sheets. numpy and Pillow only."""

from impasto.images.codec import FILE_FORMATS, FileFormat, decode, encode
from impasto.images.metadata import metadata_text, read_metadata
from impasto.images.picture import Picture
from impasto.images.pixels import to_float, to_uint8
from impasto.images.sheet import contact_sheet

__all__ = [
    "FILE_FORMATS",
    "FileFormat",
    "Picture",
    "contact_sheet",
    "decode",
    "encode",
    "metadata_text",
    "read_metadata",
    "to_float",
    "to_uint8",
]
