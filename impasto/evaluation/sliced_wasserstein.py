"""The sliced Wasserstein distance between the patches of two sets of pictures. Needs no trained network.

    SW(P, Q) = E_θ W₁(θᵀP, θᵀQ),   θ uniform on the unit sphere,   W₁ = mean |sorted(θᵀP) − sorted(θᵀQ)|

Slicing is Rabin et al. 2011, "Wasserstein barycenter and its application to texture mixing". What is compared is what
Karras et al. 2018, "Progressive growing of GANs", §5 compare: 7×7 patches of each level of a Laplacian pyramid, each
set's channels brought to mean 0 and deviation 1. That paper's tables have the distance times 1000.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from impasto.images.pixels import Bytes

PATCH = 7
PATCHES = 128
"""Of each level of each picture, fewer where a set has more than MAX_PATCHES of them."""
MAX_PATCHES = 2**17
DIRECTIONS = 512
SMALLEST = 16
"""Shorter side of the coarsest level."""
AT_ONCE = 64
"""Directions that are sorted together."""


class Patches:
    """The patches of a set of `count` pictures, drawn from each as it is added. The same seed takes the same places."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self._a_picture = min(PATCHES, max(1, MAX_PATCHES // max(count, 1)))
        self._rng = np.random.default_rng(seed)
        self._levels: dict[int, list[Tensor]] = {}

    def add(self, picture: Bytes) -> None:
        """Take patches of a picture, uint8 [H, W, 3] of sides of PATCH or more; all pictures have one size."""
        for level in laplacian_pyramid(torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32))):
            height, width = level.shape[1:]
            tops = torch.from_numpy(self._rng.integers(height - PATCH + 1, size=self._a_picture))
            lefts = torch.from_numpy(self._rng.integers(width - PATCH + 1, size=self._a_picture))
            within = torch.arange(PATCH)
            rows, columns = tops[:, None, None] + within[:, None], lefts[:, None, None] + within
            self._levels.setdefault(min(height, width), []).append(level[:, rows, columns].transpose(0, 1))

    def levels(self) -> dict[int, Tensor]:
        """Patches [M, 3·PATCH²] of each level by its shorter side, the finest first."""
        return {side: _normalised(torch.cat(patches)) for side, patches in self._levels.items()}


def sliced_wasserstein(a: Patches, b: Patches, seed: int = 0) -> dict[int, float]:
    """The distance at each level by its shorter side in pixels, the finest first; 0 for equal sets.

    Of the larger set's patches as many are compared as the smaller one has. The same seed takes the same directions.
    """
    rng = np.random.default_rng(seed)
    theirs = b.levels()
    return {side: _distance(ours, theirs[side], rng) for side, ours in a.levels().items()}


def point_distance(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """The sliced distance of points [N, D] and [N, D] over unit directions [D, K]."""
    total = 0.0
    for part in torch.split(directions, AT_ONCE, dim=1):
        # Along rows, which are sorted several times faster than columns.
        gaps = torch.sort(part.t() @ a.t()).values - torch.sort(part.t() @ b.t()).values
        total += float(gaps.abs().mean(dim=1).sum())
    return total / directions.shape[1]


def laplacian_pyramid(picture: Tensor) -> list[Tensor]:
    """A picture [C, H, W] as what each halving loses, finest first, and what is left (Burt and Adelson 1983)."""
    levels = []
    while min(picture.shape[1:]) // 2 >= SMALLEST:
        smaller = _blurred(picture)[:, ::2, ::2]
        # Zeros between the samples, and a filter with four times the weight.
        spread = torch.zeros_like(picture)
        spread[:, ::2, ::2] = smaller
        levels.append(picture - 4.0 * _blurred(spread))
        picture = smaller
    return [*levels, picture]


def _distance(a: Tensor, b: Tensor, rng: np.random.Generator) -> float:
    count = min(len(a), len(b))
    directions = torch.from_numpy(rng.standard_normal((a.shape[1], DIRECTIONS))).float()
    directions = directions / directions.norm(dim=0)
    return point_distance(_some(a, count, rng), _some(b, count, rng), directions)


def _normalised(patches: Tensor) -> Tensor:
    mean = patches.mean(dim=(0, 2, 3), keepdim=True)
    deviation = patches.std(dim=(0, 2, 3), keepdim=True)
    return ((patches - mean) / deviation.clamp(min=1e-8)).flatten(1)


def _some(points: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    if len(points) == count:
        return points
    return points[torch.from_numpy(rng.permutation(len(points))[:count])]


def _blurred(picture: Tensor) -> Tensor:
    """[1, 4, 6, 4, 1] / 16 along both axes, mirrored at the border."""
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
    padded = functional.pad(picture[:, None], (2, 2, 2, 2), mode="reflect")
    return functional.conv2d(padded, torch.outer(taps, taps)[None, None])[:, 0]
