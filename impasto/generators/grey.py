"""Generators of grey pictures, which are served as any other: three channels in and out."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue: ITU-R BT.601."""


def as_rgb(pictures: Tensor) -> Tensor:
    """[N, 1 or 3, H, W] → [N, 3, H, W]."""
    return pictures if pictures.shape[1] == 3 else torch.cat([pictures] * 3, dim=1)


def from_rgb(pictures: Tensor, channels: int) -> Tensor:
    """[N, 3, H, W] → [N, channels, H, W], with one channel the luma."""
    if channels == 3:
        return pictures
    red, green, blue = (weight * pictures[:, i : i + 1] for i, weight in enumerate(LUMA))
    return red + green + blue
