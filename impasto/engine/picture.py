"""What an engine is asked for and what it gives back: one picture each."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from impasto.denoising import Denoising
from impasto.errors import InvalidRequest
from impasto.export.bundle import Manifest
from impasto.generation import MAX_SEED as MAX_SEED
from impasto.generation import NOISE_MODES as NOISE_MODES
from impasto.generation import NoiseMode as NoiseMode
from impasto.generation import check_seed as check_seed
from impasto.images.pixels import Bytes, to_float, to_uint8
from impasto.images.pixels import Floats as Floats

PICTURES = ("image", "image_to", "blend")
"""What of a request is about pictures that it brings."""


@dataclasses.dataclass(frozen=True, slots=True)
class StyleMix:
    """Take the styles of layers `first` to `last` (inclusive, 0-based, of num_ws) from another seed."""

    seed: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PictureRequest:
    """One picture: exactly one of seed, z [z_dim], ws [num_ws, w_dim] and codes, or an image; the rest has defaults.


    None stands for the model's default. `codes` [h, w] are indices into the codebook of a VQ model, int64. `label` is a
    class index, `c` a class vector [c_dim]; `psi` with `cutoff` truncates the first `cutoff` layers
    (None: all); `noise_mode` "random" draws from the seed (0 if there is none). `rotation` in degrees counter-clockwise
    and `translation` (x, y) in picture widths are for StyleGAN3 only. `image` (uint8 [H, W, 3]) is what an
    image-to-image model translates, a VAE reconstructs, a diffusion model starts from; `image_to` is a VAE's second
    picture and `blend` how far it goes there: 0 is `image`, 1 is `image_to`. `denoising` is for diffusion models only,
    and its `latent` here is one picture's, [1, C, h, w].
    """

    seed: int | None = None
    z: Floats | None = None
    ws: Floats | None = None
    label: int | None = None
    c: Floats | None = None
    psi: float | None = None
    cutoff: int | None = None
    noise_mode: NoiseMode | None = None
    mix: StyleMix | None = None
    rotation: float | None = None
    translation: tuple[float, float] | None = None
    image: Bytes | None = None
    image_to: Bytes | None = None
    blend: float | None = None
    codes: NDArray[np.int64] | None = None
    denoising: Denoising | None = None


def refuse_fields(request: PictureRequest, fields: Iterable[tuple[str, str]], allowed: str) -> None:
    """InvalidRequest names the first of these that is set: an attribute, and the field as callers know it."""
    for attribute, field in fields:
        found = getattr(request, attribute)
        if isinstance(found, np.ndarray):
            found = f"{found.size} values"
        if found is not None:
            raise InvalidRequest(field, found, allowed)


def refuse_pictures(request: PictureRequest, *fields: str) -> None:
    """InvalidRequest names the first of these fields that is set, unless they say which: all that bring a picture."""
    for field in fields or PICTURES:
        found = getattr(request, field)
        if found is not None:
            shown = found if field == "blend" else "one"
            raise InvalidRequest(field, shown, "nothing; this model takes no such picture")


def fingerprint(values: NDArray[Any]) -> str:
    """Enough of a digest to tell one input from another in a picture's metadata."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


class Pixels:
    """One picture as an engine made it: float32 [3, H, W], nominally in [-1, 1], or uint8 [H, W, 3].

    `fetch` gives the floats of a picture whose bytes are here, where it was made with more than bytes.
    """

    __slots__ = ("_fetch", "_float", "_uint8")

    def __init__(
        self, *, chw: Floats | None = None, hwc: Bytes | None = None, fetch: Callable[[], Floats] | None = None
    ) -> None:
        self._float = chw
        self._uint8 = hwc
        self._fetch = fetch

    @property
    def is_uint8(self) -> bool:
        """Whether `array` is there already, without work."""
        return self._uint8 is not None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        if self._uint8 is not None:
            return self._uint8.shape[1], self._uint8.shape[0]
        assert self._float is not None
        return self._float.shape[2], self._float.shape[1]

    @property
    def array(self) -> Bytes:
        """uint8 [H, W, 3], C-contiguous: clamp(127.5·x + 128, 0, 255), rounded towards zero; NaN becomes 0."""
        if self._uint8 is None:
            assert self._float is not None
            self._uint8 = to_uint8(self._float)
        return self._uint8

    @property
    def image_float(self) -> Floats:
        """float32 [3, H, W], nominally in [-1, 1], not clamped."""
        if self._float is None:
            assert self._uint8 is not None
            self._float = to_float(self._uint8) if self._fetch is None else self._fetch()
        return self._float


class Engine(Protocol):
    """A model on a device. `run` may be called from several threads at once; the rest before or after.

    `lanes` is how many rows to run at the same time, each in a call of its own; 0 where the rows of a batch gain from
    one call.
    """

    manifest: Manifest
    digest: str
    backend: str
    device: str
    buckets: tuple[int, ...]
    lanes: int

    def check(self, request: PictureRequest) -> None:
        """Raise InvalidRequest if this model cannot make that picture. Cheap; callable from any thread."""

    def describe(self, request: PictureRequest) -> dict[str, Any]:
        """The picture's metadata: model, version, digest, seed and every parameter with its default filled in."""

    def run(self, requests: Sequence[PictureRequest]) -> list[Pixels]:
        """Make the pictures, at most `buckets[-1]` of them. A row's bytes do not depend on its batch-mates."""

    def warm_up(self) -> None:
        """Run every bucket once, so that no request pays for a first run."""

    def close(self) -> None:
        """Free the device."""
