"""Image to image on onnxruntime: a picture or a label map of any size to a picture of that size. Needs no torch.

One that is larger than a tile is made in tiles (`impasto.engine.tiling`). Instance normalisation would show where they
meet, however wide they overlap: each tile would be normalised by its own mean and variance. So these are measured
first, of samples that are each spread over the whole picture and together are its pixels, and all tiles are normalised
by the same. What is left between two tiles is what they do not see beyond their edge, which the overlap leaves out. A
sample is as large as a tile: no run takes more memory than that of a tile, whatever the picture. It takes twice the
time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from safetensors import safe_open

from impasto.denoising import refuse_denoising
from impasto.engine.backend import named
from impasto.engine.label_map import Palette
from impasto.engine.latents import latent_of
from impasto.engine.picture import (
    Floats,
    PictureRequest,
    Pixels,
    check_seed,
    fingerprint,
    refuse_fields,
    refuse_pictures,
)
from impasto.engine.sessions import Array, Arrays, Sessions
from impasto.engine.sizes import MAX_PIXELS, size_of
from impasto.engine.tiling import Tiling
from impasto.engine.warm_up import warm_up
from impasto.errors import BackendUnavailable, InvalidRequest
from impasto.export.bundle import WEIGHTS, Bundle
from impasto.export.plans import graph_files
from impasto.images.pixels import Bytes

T = TypeVar("T")

CPU_ROWS_A_CORE = 2
WARM_UP_SIDE = 64
_REFUSED = (
    ("ws", "ws"),
    ("label", "label"),
    ("c", "class_vector"),
    ("psi", "psi"),
    ("cutoff", "psi_cutoff"),
    ("noise_mode", "noise_mode"),
    ("mix", "style_mix"),
    ("rotation", "rotation"),
    ("translation", "translation"),
)
"""What only other models take: the attribute of a PictureRequest, and the field as callers know it."""


Measure = Callable[[dict[str, Array]], Iterator[tuple[float, Arrays]]]
"""Gives the outputs of samples of a picture, with these inputs besides, each with its share of the picture."""


class Network(Protocol):
    """A graph that makes pictures, and its inputs."""

    graph: str

    def check(self, image: Bytes) -> None:
        """InvalidRequest if the network can make nothing of a picture."""

    def read(self, request: PictureRequest, image: Bytes) -> Bytes:
        """What it is given of a picture and the request, [H, W, C]."""

    def part(self, source: Bytes) -> dict[str, Array]:
        """The inputs of one row that are of this part of the source."""

    def whole(self, request: PictureRequest) -> dict[str, Array]:
        """Those besides, where the part is the whole."""

    def shared(self, request: PictureRequest, measure: Measure) -> dict[str, Array]:
        """Those besides that all parts of a picture have."""


class Residual:
    """A translator of pictures, whose parts share the statistics of the whole.

    `noise` channels stand beside the colours: bytes of the seed's Philox stream, row by row.
    """

    graph = "translator"

    def __init__(self, sessions: Sessions, noise: int) -> None:
        self._noise = noise
        self._statistics = np.zeros((1, *sessions.input_shape(self.graph, "statistics")[1:]), np.float32)

    def check(self, image: Bytes) -> None:
        pass

    def read(self, request: PictureRequest, image: Bytes) -> Bytes:
        if not self._noise:
            return image
        shape = (*image.shape[:2], self._noise)
        words = np.random.Philox(key=request.seed or 0).random_raw(-(-math.prod(shape) // 8))
        noise = words.astype("<u8").view(np.uint8)[: math.prod(shape)].reshape(shape)
        return np.concatenate([image, noise], axis=2)

    def part(self, source: Bytes) -> dict[str, Array]:
        # As such networks are trained, 255 is 1.
        values = source.transpose(2, 0, 1)[None] / np.float32(127.5) - np.float32(1.0)
        return {"source": np.ascontiguousarray(values, np.float32)}

    def whole(self, request: PictureRequest) -> dict[str, Array]:
        return {"statistics": self._statistics, "own": np.ones((1, 1), np.float32)}

    def shared(self, request: PictureRequest, measure: Measure) -> dict[str, Array]:
        """The mean of the samples' means, and their variance about it: that within the samples and that between."""
        mean = square = np.zeros(())
        for share, outputs in measure(self.whole(request)):
            means, variances = outputs["measured"][:, 0].astype(np.float64), outputs["measured"][:, 1]
            mean = mean + share * means
            square = square + share * (variances + means * means)
        statistics = np.stack([mean, np.maximum(square - mean * mean, 0.0)], axis=1)
        return {"statistics": statistics.astype(np.float32), "own": np.zeros((1, 1), np.float32)}


class LabelPainter:
    """A painter of label maps, of a latent where it has one. What it is normalised by is in the network."""

    graph = "painter"

    def __init__(self, palette: Palette, z_dim: int) -> None:
        self._palette = palette
        self._z_dim = z_dim

    def check(self, image: Bytes) -> None:
        self._palette.labels(image)

    def read(self, request: PictureRequest, image: Bytes) -> Bytes:
        return self._palette.labels(image)

    def part(self, source: Bytes) -> dict[str, Array]:
        return {"labels": np.ascontiguousarray(source.transpose(2, 0, 1)[None], np.int64)}

    def whole(self, request: PictureRequest) -> dict[str, Array]:
        if not self._z_dim:
            return {}
        z = latent_of(request.seed or 0, self._z_dim) if request.z is None else request.z
        return {"z": z[None]}

    def shared(self, request: PictureRequest, measure: Measure) -> dict[str, Array]:
        return self.whole(request)


class ImageToImageEngine:
    """Runs `translator` or `painter` of a bundle. Safe to call from several threads."""

    lanes = 0

    def __init__(self, bundle: Bundle, backend: str, precision: str, device: str, threads: int | None) -> None:
        if backend != "onnxruntime":
            raise BackendUnavailable(f"backend: found {backend!r}; image-to-image models run on onnxruntime")
        manifest = self.manifest = bundle.manifest
        self.digest = manifest.digest
        self.backend = named(backend, precision)
        self.device = device
        settings = manifest.defaults
        self._tiling = Tiling(int(settings["tile"]), int(settings["overlap"]), int(settings["multiple"]))
        self._z_dim = int(manifest.config.get("z_dim", 0))
        graph = LabelPainter.graph if "classes" in manifest.config else Residual.graph
        file = graph_files(bundle, precision)[graph]
        self._sessions = Sessions({graph: bundle.path / file}, device, threads, manifest.buckets)
        self._network: Network = (
            LabelPainter(_palette(bundle), self._z_dim)
            if graph == LabelPainter.graph
            else Residual(self._sessions, int(manifest.config.get("noise", 0)))
        )
        self.buckets = self._sessions.buckets(CPU_ROWS_A_CORE)

    def check(self, request: PictureRequest) -> None:
        refuse_fields(request, _REFUSED, "nothing; this model makes its picture of another one")
        refuse_pictures(request, "image_to", "blend")
        refuse_denoising(request.denoising)
        if request.seed is not None:
            check_seed("seeds", request.seed)
        if request.z is not None and request.z.shape != (self._z_dim,):
            allowed = f"{self._z_dim} values" if self._z_dim else "nothing; this model has no latent"
            raise InvalidRequest("z", f"{request.z.size} values", allowed)
        if request.image is None:
            raise InvalidRequest("image", "none", "a picture; this model makes its own of it")
        size = size_of(request.image)
        if size.width * size.height > MAX_PIXELS:
            raise InvalidRequest("image", str(size), f"at most {MAX_PIXELS} pixels")
        self._network.check(request.image)

    def describe(self, request: PictureRequest) -> dict[str, Any]:
        assert request.image is not None
        parameters: dict[str, Any] = {"image": fingerprint(request.image)}
        if not self._tiling.fits(*request.image.shape[:2]):
            parameters |= {"tile": self._tiling.tile, "overlap": self._tiling.overlap}
        return {
            "model": self.manifest.name,
            "version": self.manifest.version,
            "digest": self.digest,
            "seed": request.seed,
            "parameters": parameters,
        }

    def run(self, requests: Sequence[PictureRequest]) -> list[Pixels]:
        sources = [self._source(request) for request in requests]
        whole = [place for place, source in enumerate(sources) if self._tiling.fits(*source.shape[:2])]
        rows = [self._network.part(sources[place]) | self._network.whole(requests[place]) for place in whole]
        made = dict(zip(whole, (outputs["image_float"][0] for outputs in self._run(rows)), strict=True))
        for place, (source, request) in enumerate(zip(sources, requests, strict=True)):
            if place not in made:
                made[place] = self._in_tiles(source, request)
        return [Pixels(chw=_cropped(made[place], request)) for place, request in enumerate(requests)]

    def warm_up(self) -> None:
        """Run every batch size and hold it to the bytes of its rows alone; where one differs, rows run alone."""
        warm_up(self._sessions, self.run, self.manifest.name, self._of_a_picture)

    def close(self) -> None:
        self._sessions.close()

    def _source(self, request: PictureRequest) -> Bytes:
        assert request.image is not None
        return self._tiling.padded(self._network.read(request, request.image))

    def _in_tiles(self, source: Bytes, request: PictureRequest) -> Floats:
        """The picture of a source that is larger than a tile, [3, H, W]."""
        shared = self._network.shared(request, lambda besides: self._measured(source, besides))
        rows, columns = (self._tiling.spans(side) for side in source.shape[:2])
        picture: Floats = np.zeros((3, *source.shape[:2]), np.float32)
        for tiles in self._chunks(itertools.product(rows, columns)):
            parts = [source[y.start : y.stop, x.start : x.stop] for y, x in tiles]
            made = self._run([self._network.part(part) | shared for part in parts])
            for (y, x), outputs in zip(tiles, made, strict=True):
                weighted = outputs["image_float"][0] * y.weights[:, None] * x.weights
                picture[:, y.start : y.stop, x.start : x.stop] += weighted
        return picture

    def _measured(self, source: Bytes, besides: dict[str, Array]) -> Iterator[tuple[float, Arrays]]:
        for samples in self._chunks(self._tiling.samples(source)):
            made = self._run([self._network.part(sample) | besides for sample in samples])
            yield from zip((sample.size / source.size for sample in samples), made, strict=True)

    def _chunks(self, items: Iterable[T]) -> Iterator[list[T]]:
        """As many at a time as run side by side: the inputs of all would fill more memory than the picture."""
        left = iter(items)
        while chunk := list(itertools.islice(left, self.buckets[-1])):
            yield chunk

    def _run(self, rows: Sequence[Arrays]) -> list[dict[str, Array]]:
        """The outputs of rows; those side by side that have one size can share a batch."""
        grouped = itertools.groupby(rows, lambda row: [values.shape for values in row.values()])
        return [outputs for _, same in grouped for outputs in self._sessions.run(self._network.graph, list(same))]

    def _of_a_picture(self, seed: int) -> PictureRequest:
        """A picture that is right for every model: black is the class 0 of any palette in grey."""
        image = np.zeros((WARM_UP_SIDE, WARM_UP_SIDE, 3), np.uint8)
        if isinstance(self._network, Residual):
            image = np.random.RandomState(seed).randint(0, 256, image.shape, np.uint8)
        return PictureRequest(seed=seed, image=image)


def _palette(bundle: Bundle) -> Palette:
    with safe_open(bundle.path / WEIGHTS, framework="numpy") as weights:
        return Palette(weights.get_tensor("palette").astype(np.float32))


def _cropped(picture: Floats, request: PictureRequest) -> Floats:
    """The picture in the size of the request's image."""
    assert request.image is not None
    height, width = request.image.shape[:2]
    return np.ascontiguousarray(picture[:, :height, :width])
