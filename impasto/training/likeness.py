"""How like a crop the picture is that was made from the crop's own latent: layout, texture, direction of the strokes.

Each distance compares what a region holds, never pixel by pixel what is finer than a stroke: the noise decides that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

COARSEST, FINEST = 4, 32
REGIONS = 8


def layout_distance(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of pictures [N, 3, R, R] seen at 4² to 32² pixels, the coarse views weighing most."""
    distance = made.new_zeros(())
    side, weight = COARSEST, 1.0
    while side <= min(made.shape[-1], FINEST):
        distance = distance + weight * (_regions(made, side) - _regions(wanted, side)).abs().mean()
        side, weight = side * 2, weight * 0.6
    return distance


def texture_distance(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Difference of the mean and the root mean square of the discriminator's features in each region.

    Each layer [N, C, H, W] is relative to its own size. Features as a learned similarity: Larsen et al. 2016,
    "Autoencoding beyond pixels using a learned similarity metric".
    """
    distance = torch.zeros(())
    for ours, theirs in zip(made, wanted, strict=True):
        side = min(ours.shape[-1], REGIONS)
        for pooled in (_regions, _root_mean_square):
            a, b = pooled(ours.float(), side), pooled(theirs.float(), side)
            distance = distance + (a - b).abs().mean() / (b.abs().mean() + 1e-3)
    return distance


def stroke_distance(made: Tensor, wanted: Tensor, scales: int = 3) -> Tensor:
    """Difference of the structure tensors of pictures [N, 3, R, R] in each region, at each scale relative to its size.

    The structure tensor, the mean of ∇I ∇Iᵀ, tells how strong a region's edges are and which way they run (Bigün and
    Granlund 1987, "Optimal orientation detection of linear symmetry").
    """
    distance = made.new_zeros(())
    for _ in range(scales):
        ours, theirs = _structure_tensor(made), _structure_tensor(wanted)
        distance = distance + (ours - theirs).abs().mean() / (theirs[:, :2].mean() + 1e-4)
        made, wanted = functional.avg_pool2d(made, 2), functional.avg_pool2d(wanted, 2)
    return distance


def _structure_tensor(x: Tensor) -> Tensor:
    """(xx, yy, xy) of each region: [N, 3, 8, 8], summed over colours."""
    across = x[:, :, 1:, 1:] - x[:, :, 1:, :-1]
    down = x[:, :, 1:, 1:] - x[:, :, :-1, 1:]
    return _regions(torch.stack([across * across, down * down, across * down], dim=1).sum(dim=2), REGIONS)


def _root_mean_square(x: Tensor, side: int) -> Tensor:
    return (_regions(x.square(), side) + 1e-8).sqrt()


def _regions(x: Tensor, side: int) -> Tensor:
    """The mean of each of side² regions."""
    return functional.adaptive_avg_pool2d(x, side)
