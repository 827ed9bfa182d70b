from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from impasto.errors import InvalidRequest
from impasto.images import Picture, decode, encode, read_metadata, to_float, to_uint8

METADATA = {"model": "starry", "seed": 7}


def pixels() -> np.ndarray:  # type: ignore[type-arg]
    return np.random.RandomState(1).randint(0, 256, (6, 5, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG", "a.webp"])
def test_suffix_chooses_the_format_and_the_file_holds_the_metadata(name: str, tmp_path: Path) -> None:
    path = Picture(METADATA, array=pixels()).save(tmp_path / name)
    assert read_metadata(path) == METADATA


def test_saved_png_has_the_bytes_of_the_encoder(tmp_path: Path) -> None:
    path = Picture(METADATA, array=pixels()).save(tmp_path / "a.png")
    assert path.read_bytes() == encode(pixels(), "png", METADATA)


def test_npy_holds_the_bytes_of_the_picture(tmp_path: Path) -> None:
    path = Picture(METADATA, array=pixels()).save(tmp_path / "a.npy")
    loaded = np.load(path)
    assert loaded.dtype == np.uint8
    assert np.array_equal(loaded, pixels())


def test_npy_of_a_float_picture_is_not_clamped(tmp_path: Path) -> None:
    image_float = np.linspace(-1.5, 1.5, 90, dtype=np.float32).reshape(3, 6, 5)
    path = Picture(METADATA, image_float=image_float).save(tmp_path / "a.npy")
    assert np.array_equal(np.load(path), image_float)


@pytest.mark.parametrize("name", ["a.gif", "a", "a.exr"])
def test_other_suffixes_are_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"path: found .* allowed is a file name in \.png, \.jpg, \.jpeg, \.webp"):
        Picture(METADATA, array=pixels()).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_encoded_picture_is_written_as_it_came(tmp_path: Path) -> None:
    file = encode(pixels(), "jpeg", METADATA, 42)
    picture = Picture(METADATA, encoded=file, format="jpeg")
    assert picture.save(tmp_path / "a.jpg").read_bytes() == file
    assert np.array_equal(picture.array, decode(file))


def test_encoded_picture_is_encoded_anew_for_another_format_or_quality(tmp_path: Path) -> None:
    file = encode(pixels(), "png", METADATA)
    picture = Picture(METADATA, encoded=file, format="png")
    assert picture.save(tmp_path / "a.webp", 100).read_bytes() == encode(pixels(), "webp", METADATA, 100)


def test_float_picture_has_the_pixels_that_rounding_towards_zero_gives() -> None:
    values = [-2.0, -1.0, -0.5, 0.0, 0.999, 1.0, 3.0, np.nan]
    chw = np.array(values, np.float32).reshape(1, 1, 8).repeat(3, axis=0)
    assert Picture({}, image_float=chw).array[0, :, 0].tolist() == [0, 0, 64, 128, 255, 255, 255, 0]


def test_bytes_survive_the_way_to_float_and_back() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(to_uint8(to_float(every)), every)


def test_seed_is_the_one_in_the_metadata() -> None:
    assert Picture(METADATA, array=pixels()).seed == 7
    assert Picture({"seed": None}, array=pixels()).seed is None
