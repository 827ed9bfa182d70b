from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from impasto.errors import InvalidRequest
from impasto.images import FILE_FORMATS, FileFormat, decode, encode, metadata_text, read_metadata
from tests.support.pictures import png_that_claims

METADATA = {"model": "starry", "version": "1", "seed": 7, "parameters": {"psi": 0.7, "noise_mode": "const"}}


def brushwork(height: int = 48, width: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Smooth colours with a little noise, as a generator makes them."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 7 + y / 5), np.cos(x / 9), np.sin(y / 6)], axis=-1)
    noise = np.random.RandomState(0).randn(height, width, 3)
    return np.clip(127.5 + 100 * waves + 5 * noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("format", FILE_FORMATS)
def test_metadata_comes_back_as_it_was(format: FileFormat) -> None:
    assert read_metadata(encode(brushwork(), format, METADATA)) == METADATA


@pytest.mark.parametrize("format", FILE_FORMATS)
def test_no_more_pixels_are_decoded_than_are_allowed(format: FileFormat) -> None:
    file = encode(brushwork(48, 64), format, METADATA)
    assert decode(file, 48 * 64).shape == (48, 64, 3)
    with pytest.raises(InvalidRequest, match=r"^picture: found '64×48 pixels'; allowed is at most 3071 pixels"):
        decode(file, 48 * 64 - 1)


def test_a_file_that_claims_more_than_any_picture_has_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"^picture: found 'more pixels than any model takes'"):
        decode(png_that_claims(2**31 - 1, 2**31 - 1))


@pytest.mark.parametrize("format", FILE_FORMATS)
def test_metadata_beyond_ascii_comes_back_as_it_was(format: FileFormat) -> None:
    metadata = {"model": "Sternenklare Nacht über der Rhône ★", "quote": 'a "b" \\ \n c'}
    assert read_metadata(encode(brushwork(), format, metadata)) == metadata


@pytest.mark.parametrize("format", FILE_FORMATS)
def test_metadata_is_read_from_a_file(format: FileFormat, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(encode(brushwork(), format, METADATA))
    assert read_metadata(path) == METADATA


def test_png_metadata_is_the_text_chunk_named_impasto() -> None:
    with Image.open(io.BytesIO(encode(brushwork(), "png", METADATA))) as image:
        assert image.info["impasto"] == metadata_text(METADATA)


@pytest.mark.parametrize("format", FILE_FORMATS)
def test_the_same_picture_gives_the_same_bytes(format: FileFormat) -> None:
    shuffled = dict(reversed(METADATA.items()))
    assert encode(brushwork(), format, METADATA) == encode(brushwork().copy(), format, shuffled)


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0, 3, 255]),
)
def test_png_keeps_every_pixel(height: int, width: int, seed: int, spread: int) -> None:
    noise = np.random.RandomState(seed).randint(0, spread + 1, (height, width, 3))
    array = (noise + seed % (256 - spread)).astype(np.uint8)
    assert np.array_equal(decode(encode(array, "png", {})), array)


def test_png_of_a_slice_of_a_larger_picture_keeps_every_pixel() -> None:
    part = brushwork()[5:40, 3:50]
    assert np.array_equal(decode(encode(part, "png", {})), part)


def test_webp_of_quality_100_keeps_every_pixel() -> None:
    assert np.array_equal(decode(encode(brushwork(), "webp", {}, 100)), brushwork())


@pytest.mark.parametrize(("format", "least_psnr_db"), [("jpeg", 36.0), ("webp", 32.0)])
def test_lossy_formats_stay_close(format: FileFormat, least_psnr_db: float) -> None:
    error = decode(encode(brushwork(), format, {})).astype(float) - brushwork()
    assert 10 * np.log10(255**2 / np.square(error).mean()) > least_psnr_db


@pytest.mark.parametrize(("format", "default"), [("jpeg", 95), ("webp", 90)])
def test_quality_0_is_the_default(format: FileFormat, default: int) -> None:
    assert encode(brushwork(), format, {}, 0) == encode(brushwork(), format, {}, default)


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_lower_quality_is_a_smaller_file(format: FileFormat) -> None:
    assert len(encode(brushwork(), format, {}, 20)) < len(encode(brushwork(), format, {}, 80))


def test_unknown_format_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="format: found 'gif'; allowed is one of png, jpeg, webp"):
        encode(brushwork(), "gif", {})  # type: ignore[arg-type]


@pytest.mark.parametrize("quality", [-1, 101])
def test_quality_out_of_range_is_refused(quality: int) -> None:
    with pytest.raises(InvalidRequest, match=f"quality: found {quality}; allowed is 1 to 100"):
        encode(brushwork(), "jpeg", {}, quality)


def test_picture_too_large_for_webp_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="format: found 'webp of 16384×1 pixels'; allowed is at most 16383"):
        encode(np.zeros((1, 16384, 3), np.uint8), "webp", {})


def test_metadata_too_long_for_a_jpeg_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="metadata: found '70014 characters'"):
        encode(brushwork(), "jpeg", {"prompt": "x" * 70_000})


@pytest.mark.parametrize("file", [b"", b"no picture", encode(np.zeros((8, 8, 3), np.uint8), "png", {})[:60]])
def test_what_is_no_picture_is_refused(file: bytes) -> None:
    with pytest.raises(InvalidRequest, match="picture: found"):
        decode(file)


def test_picture_without_metadata_of_ours_is_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(brushwork()).save(buffer, "PNG")
    with pytest.raises(InvalidRequest, match="allowed is a PNG, JPEG or WebP that Impasto wrote"):
        read_metadata(buffer.getvalue())
