"""What an engine is asked for and what it gives back: one picture each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from impasto.export.bundle import Manifest

NoiseMode = Literal["const", "random", "none"]
NOISE_MODES: tuple[NoiseMode, ...] = ("const", "random", "none")
MAX_SEED = 2**32 - 1

Floats = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class StyleMix:
    """Take the styles of layers `first` to `last` (inclusive, 0-based, of num_ws) from another seed."""

    seed: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PictureRequest:
    """One picture: exactly one of seed, z [z_dim] and ws [num_ws, w_dim]; the rest has defaults (None: the model's).

    `label` is a class index, `c` a class vector [c_dim]; `psi` with `cutoff` truncates the first `cutoff` layers
    (None: all); `noise_mode` "random" draws from the seed (0 if there is none).
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


class Pixels:
    """One picture as an engine made it: float32 [3, H, W], nominally in [-1, 1], or uint8 [H, W, 3]."""

    __slots__ = ("_float", "_uint8")

    def __init__(self, *, chw: Floats | None = None, hwc: NDArray[np.uint8] | None = None) -> None:
        self._float = chw
        self._uint8 = hwc

    @property
    def array(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3], C-contiguous: clamp(127.5·x + 128, 0, 255), rounded towards zero; NaN becomes 0."""
        if self._uint8 is None:
            assert self._float is not None
            scaled = np.multiply(self._float, np.float32(127.5))
            scaled += np.float32(128.0)
            np.clip(scaled, 0.0, 255.0, out=scaled)
            np.nan_to_num(scaled, copy=False, nan=0.0)
            self._uint8 = np.ascontiguousarray(scaled.astype(np.uint8).transpose(1, 2, 0))
        return self._uint8

    @property
    def image_float(self) -> Floats:
        """float32 [3, H, W], nominally in [-1, 1], not clamped."""
        if self._float is None:
            assert self._uint8 is not None
            chw = self._uint8.transpose(2, 0, 1).astype(np.float32)
            self._float = np.ascontiguousarray((chw - np.float32(128.0)) / np.float32(127.5))
        return self._float


class Engine(Protocol):
    """A model on a device. `run` may be called from several threads at once; the rest before or after."""

    manifest: Manifest
    backend: str
    device: str
    buckets: tuple[int, ...]

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
