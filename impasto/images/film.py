"""Films: pictures one after another as MP4, GIF or a folder of PNG files, there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from impasto.errors import InvalidRequest
from impasto.images.picture import Picture
from impasto.images.pixels import Bytes

FILM_SUFFIXES = (".mp4", ".gif")
MAX_FPS = 240
MAX_GIF_FPS = 50
"""A GIF counts in hundredths of a second, and viewers slow down what is shorter than two of them."""
CONSTANT_RATE_FACTOR = "18"
"""H.264 quality at which no loss is seen."""
_BT709 = 1


def write_film(path: str | Path, pictures: Iterator[Picture], fps: int) -> Path:
    """Write what the suffix names: .mp4 (H.264), .gif, or no suffix for a folder of frame-00000.png and on.

    The pictures are taken one by one, and the file gets its name when it is complete: an error or an interrupt on the
    way leaves nothing of it. An .mp4 needs PyAV (the extra `video`); its sides are even, the last row or column twice
    where the picture's are odd. InvalidRequest for another suffix, frames a second out of range, a folder that holds
    something, or pictures of several sizes.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix and suffix not in FILM_SUFFIXES:
        raise InvalidRequest("path", str(path), f"a file name in {', '.join(FILM_SUFFIXES)}, or a folder")
    fastest = MAX_GIF_FPS if suffix == ".gif" else MAX_FPS
    if not 1 <= fps <= fastest:
        raise InvalidRequest("fps", fps, f"1 to {fastest}")
    if not suffix:
        return _write_folder(path, pictures)
    if path.is_dir():
        raise InvalidRequest("path", str(path), "the name of a file; there is a folder of that name")
    write = _write_mp4 if suffix == ".mp4" else _write_gif
    with _temporary_file(path) as temporary:
        write(temporary, pictures, fps)
    return path


def _write_folder(path: Path, pictures: Iterator[Picture]) -> Path:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InvalidRequest("path", str(path), "a new or empty folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        for index, picture in enumerate(pictures):
            picture.save(temporary / f"frame-{index:05}.png")
        temporary.chmod(0o755)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _write_gif(path: Path, pictures: Iterator[Picture], fps: int) -> None:
    """Each frame with the 256 colours that suit it; its time is rounded so that the film as a whole keeps its pace."""
    frames = [Image.fromarray(array).quantize(256) for array in _of_one_size(pictures)]
    ends = [round(100 * (index + 1) / fps) for index in range(len(frames))]
    durations = [10 * (end - start) for start, end in zip([0, *ends], ends, strict=False)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def _write_mp4(path: Path, pictures: Iterator[Picture], fps: int) -> None:
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": CONSTANT_RATE_FACTOR})
        stream.pix_fmt = "yuv420p"
        # Said and meant alike: what is not said, players guess from the size.
        stream.color_primaries = stream.color_trc = stream.colorspace = _BT709
        for index, array in enumerate(_of_one_size(pictures)):
            even = np.pad(array, ((0, array.shape[0] % 2), (0, array.shape[1] % 2), (0, 0)), "edge")
            if index == 0:
                stream.height, stream.width = even.shape[:2]
            frame = av.VideoFrame.from_ndarray(even, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())


def _of_one_size(pictures: Iterator[Picture]) -> Iterator[Bytes]:
    size = None
    for picture in pictures:
        size = size or picture.array.shape
        if picture.array.shape != size:
            raise InvalidRequest("pictures", f"shapes {[size, picture.array.shape]}", "pictures of one size")
        yield picture.array
    if size is None:
        raise InvalidRequest("pictures", "none", "one or more")


@contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    """A name beside the path, under which it is written before it gets its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
