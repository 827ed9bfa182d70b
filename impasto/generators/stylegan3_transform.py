"""Where a StyleGAN3 picture lies on its canvas: the matrix of a rotation and a translation. Needs no torch."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def picture_transform(rotation: float = 0.0, translation: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float32]:
    """The `transform` [3, 3] that turns what is seen by `rotation` degrees counter-clockwise, then moves it.

    `translation` is in picture widths to the right and down. The matrix maps a place of the picture to the place of the
    canvas seen there, R⁻¹·(p − t), so that it is the inverse of what happens to the picture.
    """
    angle = math.radians(rotation)
    cosine, sine = math.cos(angle), math.sin(angle)
    x, y = translation
    rows = [[cosine, -sine, sine * y - cosine * x], [sine, cosine, -sine * x - cosine * y], [0.0, 0.0, 1.0]]
    return np.asarray(rows, np.float32)
