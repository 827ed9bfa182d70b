from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from impasto.errors import ImpastoError, InvalidRequest
from impasto.training.crops import Crops
from impasto.training.pictures import fingerprint, read_picture, read_pictures
from tests.support.pictures import png_that_claims


def gradient(width: int = 40, height: int = 32, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def pixels(file: Path) -> np.ndarray:
    return np.asarray(read_picture(file))


def test_a_hostile_folder_gives_its_good_pictures_and_names_the_others(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a good.png")
    gradient().convert("CMYK").save(tmp_path / "cmyk.jpg")
    gradient().convert("P").save(tmp_path / "palette.gif")
    gradient().convert("1").save(tmp_path / "one bit.tif")
    Image.fromarray(np.full((32, 40), 40_000, np.uint16)).save(tmp_path / "sixteen.PNG")
    good = {"a good.png", "cmyk.jpg", "palette.gif", "one bit.tif", "sixteen.PNG"}

    whole = (tmp_path / "a good.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.webp").write_text("no picture")
    (tmp_path / "bomb.png").write_bytes(png_that_claims(60_000, 60_000))
    (tmp_path / "large.png").write_bytes(png_that_claims(10_000, 10_000))
    (tmp_path / "pretends.dat").write_bytes(whole)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    gradient(15, 64).save(tmp_path / "small.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "notes.txt").write_text("not a picture, and says so")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / os.fsdecode(b"\xff\nname.png")).write_bytes(b"")

    folder, left_out = read_pictures(tmp_path, smallest=16)
    assert {file.name for file in folder.files} == good
    named = {line.removeprefix(f"{tmp_path}/").partition(": ")[0]: line.partition(": ")[2] for line in left_out}
    assert named.pop("broken.png").startswith("cannot be decoded: ")
    assert named.pop("dangling.png").startswith("cannot be read: ")
    assert named.pop("loop.png").startswith("cannot be read: ")
    assert "could be decompression bomb" in named.pop("bomb.png")
    assert "could be decompression bomb" in named.pop("large.png")
    assert named == {
        "empty.jpg": "found an empty file",
        "text.webp": "found no picture in it",
        "pretends.dat": "found a PNG picture under the suffix '.dat'; allowed is .png or .apng",
        "small.png": "found 15×64 pixels; allowed are sides of 16 pixels or more",
        "pipe.png": "found a device, pipe or socket; allowed is a file",
        r"\udcff\nname.png": "found an empty file",
    }


def test_a_folder_of_bad_files_alone_is_refused_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"data: found no readable picture in .*empty\.png: found an empty file"):
        read_pictures(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_and_not_clipped(suffix: str, tmp_path: Path) -> None:
    ramp = np.arange(0, 65536, 257, np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / f"ramp.{suffix}")
    expected = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(pixels(tmp_path / f"ramp.{suffix}"), np.stack([expected] * 3, axis=2))


def test_floating_point_grey_is_from_0_to_1_or_refused(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)).save(tmp_path / "ramp.tif")
    assert np.array_equal(pixels(tmp_path / "ramp.tif")[:, :, 0], np.arange(256).reshape(16, 16))
    Image.fromarray(np.full((16, 16), 7.5, np.float32)).save(tmp_path / "high.tif")
    with pytest.raises(ImpastoError, match=r"found grey from 7\.5 to 7\.5; allowed is 0 to 1"):
        read_picture(tmp_path / "high.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_white_paper(mode: str, tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (4, 2), (0, 0, 0, 255))
    rgba.paste((0, 0, 0, 0), (0, 0, 2, 2))
    rgba.putpixel((3, 0), (0, 0, 0, 51))
    rgba.convert(mode).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png")[:, :, 0].tolist() == [[255, 255, 0, 204], [255, 255, 0, 0]]


def test_a_transparent_palette_colour_shows_white_paper(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.png", transparency=0)
    assert pixels(tmp_path / "a.png").tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_a_picture_is_turned_as_its_orientation_says(tmp_path: Path) -> None:
    sideways = Image.new("RGB", (8, 16))
    sideways.paste((255, 0, 0), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to see it
    sideways.save(tmp_path / "a.png", exif=exif)
    folder, _ = read_pictures(tmp_path)
    assert folder.sizes == ((16, 8),)
    assert folder[0].getpixel((12, 4)) == (255, 0, 0)
    assert folder[0].getpixel((4, 4)) == (0, 0, 0)


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert pixels(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]
    assert pixels(tmp_path / "b.webp")[0, 0].tolist() == [255, 0, 0]


def test_what_is_drawn_does_not_depend_on_how_much_is_held_in_memory(tmp_path: Path) -> None:
    for seed in range(3):
        gradient(seed=seed).save(tmp_path / f"{seed}.png")
    folder, _ = read_pictures(tmp_path)
    # Three scales: 16/16 of 40×32, 16/22.6 and 16/32.
    one = 3 * (40 * 32 + 28 * 23 + 20 * 16)
    batches = []
    for held, expected in ((2**30, 9), (one, 3), (0, 0)):
        crops = Crops(folder, 16, (16, 32), levels=3, held_bytes=held)
        assert len(crops._held) == expected
        batches.append(crops.batch(24, np.random.default_rng(5)))
    assert len(batches[0].flatten(1).unique(dim=0)) > 12
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[2])


def test_a_crop_tells_which_picture_it_is_of() -> None:
    pictures = [Image.new("RGB", (20, 20), (shade, shade, shade)) for shade in (0, 100, 200)]
    crops, sources = Crops(pictures, 8, (8, 16)).batch_with_sources(30, np.random.default_rng(0))
    assert set(sources) == {0, 1, 2}
    expected = torch.tensor([100.0 * source for source in sources]) / 127.5 - 1.0
    torch.testing.assert_close(crops.mean(dim=(1, 2, 3)), expected)


@pytest.mark.parametrize("crop", [(0, 8), (16, 8)])
def test_a_crop_that_is_no_range_is_refused(crop: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest, match=r"crop: found .* allowed is the smallest and the largest side"):
        Crops([gradient()], 8, crop)


def test_a_picture_that_goes_away_while_training_is_named(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    folder, _ = read_pictures(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImpastoError, match=r"data: .*a\.png cannot be read any more: .*No such file"):
        Crops(folder, 16, (16, 32))


def test_the_subfolders_are_the_classes(tmp_path: Path) -> None:
    for name in ("sea/1.png", "night/2.png", "sea/calm/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        gradient().save(tmp_path / name)
    folder, _ = read_pictures(tmp_path)
    names, labels = folder.classes()
    assert names == ("night", "sea")
    assert {file.relative_to(tmp_path).as_posix(): label for file, label in zip(folder.files, labels, strict=True)} == {
        "night/2.png": 0,
        "sea/1.png": 1,
        "sea/calm/3.png": 1,
    }
    gradient().save(tmp_path / "4.png")
    with pytest.raises(ValueError, match=r"data: found .*4\.png in no class"):
        read_pictures(tmp_path)[0].classes()
    (tmp_path / "sea" / "1.png").unlink()
    with pytest.raises(ValueError, match="data: found the class 'calm' alone"):
        read_pictures(tmp_path / "sea")[0].classes()


def test_the_fingerprint_changes_with_a_pixel_and_not_with_a_name(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    before = read_pictures(tmp_path)[0].fingerprint
    assert before == fingerprint([gradient()])
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    assert read_pictures(tmp_path)[0].fingerprint == before
    changed = gradient()
    changed.putpixel((0, 0), (1, 2, 3))
    changed.save(tmp_path / "b.png")
    assert read_pictures(tmp_path)[0].fingerprint != before
