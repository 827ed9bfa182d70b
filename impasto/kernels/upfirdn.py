"""Resampling with a short filter: insert zeros, pad, convolve, keep every n-th sample.

    y = (pad(up(x)) * flip(f)) [:: down]          x [N, C, H, W], f [K] separable

StyleGAN2's filter is the binomial [1, 3, 3, 1], normalised to sum 1 (Karras et al. 2020, "Analyzing and Improving
the Image Quality of StyleGAN"). `gain` multiplies the whole 2-D filter; up-sampling by 2 wants gain 4 to keep
the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BINOMIAL = (1.0, 3.0, 3.0, 1.0)


def binomial_filter(dtype: torch.dtype = torch.float32) -> Tensor:
    """The filter [1, 3, 3, 1] / 8 as a tensor [4]."""
    taps = torch.tensor(BINOMIAL, dtype=dtype)
    return taps / taps.sum()


def reference(
    x: Tensor,
    taps: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] = (0, 0),
    gain: float = 1.0,
) -> Tensor:
    """Resample x [N, C, H, W] with the separable filter `taps` [K] on both axes.

    `padding` is (before, after) in up-sampled pixels, the same on both axes; negative values crop.
    """
    n, channels, height, width = x.shape
    if up > 1:
        stuffed = x.new_zeros(n, channels, height, up, width, up)
        stuffed[:, :, :, 0, :, 0] = x
        x = stuffed.reshape(n, channels, height * up, width * up)
    before, after = padding
    x = functional.pad(x, (before, after, before, after))
    row = (taps.flip(0) * gain**0.5).to(x.dtype)
    x = functional.conv2d(x, row.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    x = functional.conv2d(x, row.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return x[:, :, ::down, ::down]


def upsample2(x: Tensor, taps: Tensor) -> Tensor:
    """Double height and width of x [N, C, H, W]: padding ((K+1)//2, (K-2)//2), gain 4."""
    size = taps.numel()
    return reference(x, taps, up=2, padding=((size + 1) // 2, (size - 2) // 2), gain=4.0)
