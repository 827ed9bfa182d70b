from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from impasto.errors import InvalidRequest
from impasto.images import Picture, read_metadata
from impasto.images.film import write_film


def pictures(count: int, height: int = 32, width: int = 48) -> Iterator[Picture]:
    """Smooth colours that move."""
    y, x = np.mgrid[:height, :width]
    for index in range(count):
        colours = np.stack([4 * x + 8 * index, 4 * y, 128 + 40 * np.sin(0.2 * x + index)], axis=-1)
        yield Picture({"model": "m", "frame": index}, array=np.clip(colours, 0, 255).astype(np.uint8))


def interrupted(count: int) -> Iterator[Picture]:
    yield from pictures(count)
    raise KeyboardInterrupt


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def frames_of(film: Path) -> tuple[list[np.ndarray], av.VideoStream]:  # type: ignore[type-arg]
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        return [
            frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray() for frame in container.decode(stream)
        ], stream


def test_an_mp4_has_the_pictures_in_order_at_its_rate(tmp_path: Path) -> None:
    path = write_film(tmp_path / "new" / "a.mp4", pictures(9), 30)
    frames, stream = frames_of(path)
    assert (stream.codec_context.name, stream.average_rate) == ("h264", 30)
    assert len(frames) == 9
    for frame, picture in zip(frames, pictures(9), strict=True):
        assert np.abs(frame.astype(int) - picture.array).mean() < 4.0
    assert files_in(tmp_path) == ["new", "new/a.mp4"]


def test_an_mp4_of_odd_sides_has_the_last_row_and_column_twice(tmp_path: Path) -> None:
    frames, _ = frames_of(write_film(tmp_path / "a.mp4", pictures(2, 31, 47), 10))
    assert frames[0].shape == (32, 48, 3)
    [picture, _] = pictures(2, 31, 47)
    assert np.abs(frames[0][31, :47].astype(int) - picture.array[30]).mean() < 6.0


def test_a_gif_has_the_pictures_and_keeps_its_pace(tmp_path: Path) -> None:
    with Image.open(write_film(tmp_path / "a.gif", pictures(12), 30)) as film:
        assert (film.n_frames, film.info["loop"]) == (12, 0)
        durations = []
        for index, picture in enumerate(pictures(12)):
            film.seek(index)
            durations.append(film.info["duration"])
            shown = np.asarray(film.convert("RGB")).astype(int)
            assert np.abs(shown - picture.array).mean() < 6.0
    assert set(durations) == {30, 40}
    assert sum(durations) == 400


def test_a_folder_has_the_pictures_themselves_with_their_metadata(tmp_path: Path) -> None:
    folder = write_film(tmp_path / "a", pictures(3), 30)
    assert files_in(folder) == ["frame-00000.png", "frame-00001.png", "frame-00002.png"]
    for index, picture in enumerate(pictures(3)):
        file = folder / f"frame-{index:05}.png"
        assert np.array_equal(np.asarray(Image.open(file)), picture.array)
        assert read_metadata(file) == {"model": "m", "frame": index}


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a"])
def test_the_same_pictures_are_the_same_bytes(name: str, tmp_path: Path) -> None:
    first, second = (write_film(tmp_path / part / name, pictures(4), 24) for part in ("x", "y"))
    for file in [first] if first.is_file() else sorted(first.iterdir()):
        other = second if second.is_file() else second / file.name
        assert file.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a"])
def test_an_interrupt_leaves_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_film(tmp_path / name, interrupted(3), 24)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_an_interrupt_leaves_the_film_that_was_there(name: str, tmp_path: Path) -> None:
    before = write_film(tmp_path / name, pictures(2), 24).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_film(tmp_path / name, interrupted(3), 24)
    assert (tmp_path / name).read_bytes() == before
    assert files_in(tmp_path) == [name]


@pytest.mark.parametrize(
    ("name", "fps", "message"),
    [
        ("a.mov", 24, "path: found .*; allowed is a file name in .mp4, .gif, or a folder"),
        ("a.gif", 51, "fps: found 51; allowed is 1 to 50"),
        ("a.mp4", 241, "fps: found 241; allowed is 1 to 240"),
        ("a", 0, "fps: found 0; allowed is 1 to 240"),
        ("full", 24, "path: found .*; allowed is a new or empty folder"),
        ("folder.mp4", 24, "path: found .*; allowed is the name of a file"),
    ],
)
def test_what_cannot_be_written_is_refused(name: str, fps: int, message: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    (tmp_path / "folder.mp4").mkdir()
    before = files_in(tmp_path)
    with pytest.raises(InvalidRequest, match=message):
        write_film(tmp_path / name, pictures(2), fps)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_pictures_of_several_sizes_and_none_are_refused(name: str, tmp_path: Path) -> None:
    mixed = iter([*pictures(1, 32, 32), *pictures(1, 32, 48)])
    with pytest.raises(InvalidRequest, match=r"pictures: found .*; allowed is pictures of one size"):
        write_film(tmp_path / name, mixed, 24)
    with pytest.raises(InvalidRequest, match="pictures: found 'none'; allowed is one or more"):
        write_film(tmp_path / name, iter(()), 24)
    assert files_in(tmp_path) == []
