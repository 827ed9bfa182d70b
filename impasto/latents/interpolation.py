"""Between two latents, which are arrays of one shape taken as one vector each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from impasto.images.pixels import Floats

SMALLEST_SINE = 1e-6


class Interpolation(Protocol):
    """`start` at t = 0, `end` at t = 1, both exactly; float32."""

    def __call__(self, start: Floats, end: Floats, t: float) -> Floats: ...


def linear(start: Floats, end: Floats, t: float) -> Floats:
    """(1 − t)·start + t·end: the straight line, for w, whose values have no length to keep."""
    return _weighted(start, 1.0 - t, end, t)


def spherical(start: Floats, end: Floats, t: float) -> Floats:
    """(sin((1 − t)Ω)·start + sin(tΩ)·end) / sin Ω, Ω the angle between them (Shoemake 1985, "Animating rotation").

    For z and noise: what lies between two standard normal vectors has the length that such a vector has. Where the two
    point the same way or opposite ones there is no one arc, and the line is taken.
    """
    lengths = np.linalg.norm(start) * np.linalg.norm(end)
    cosine = float(np.vdot(start, end) / lengths) if lengths > 0 else 1.0
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    sine = float(np.sin(angle))
    if sine < SMALLEST_SINE:
        return linear(start, end, t)
    return _weighted(start, float(np.sin((1.0 - t) * angle)) / sine, end, float(np.sin(t * angle)) / sine)


INTERPOLATIONS: Mapping[str, Interpolation] = {"linear": linear, "spherical": spherical}


def _weighted(start: Floats, of_start: float, end: Floats, of_end: float) -> Floats:
    return np.float32(of_start) * start + np.float32(of_end) * end
