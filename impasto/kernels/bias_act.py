"""Bias, leaky ReLU, gain and clamp: the tail of every StyleGAN2 layer.

y = clamp(lrelu(x + b, 0.2) * gain, -clamp, +clamp)
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

SLOPE = 0.2
GAIN = math.sqrt(2.0)


def reference(x: Tensor, bias: Tensor | None, *, linear: bool = False, clamp: float | None = None) -> Tensor:
    """Apply bias [C] over dim 1 of x, leaky ReLU(0.2) times sqrt(2) unless `linear`, then clamp to ±`clamp`."""
    if bias is not None:
        x = x + bias.to(x.dtype).reshape(1, -1, *([1] * (x.ndim - 2)))
    if not linear:
        x = functional.leaky_relu(x, SLOPE) * GAIN
    return x if clamp is None else x.clamp(-clamp, clamp)
