"""Modulated convolution with weights shared by the whole batch (StyleGAN2).

    y[n] = d[n] ⊙ conv(x[n] ⊙ s[n], W)         x [N, I, H, W], s [N, I], W [O, I, k, k]
    d[n, o] = (Σ_i s[n, i]² · Σ_k W[o, i, k]² + 1e-8)^-½

which equals convolving each sample with its own weights W·s·d (Karras et al. 2020, §2.2) without making them.
Up-sampling by two is a transposed convolution, stride 2, followed by the binomial filter; it has two exact forms:

- `transposed`: conv_transpose2d, zero-pad 1, blur. 9 multiplications an input pixel and channel pair, then the blur.
- `folded`: the filter folded into four 3×3 phases, one ordinary convolution with 4·O outputs and a pixel shuffle.
  36 multiplications, and nothing but a convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from impasto.kernels import upfirdn

EPSILON = 1e-8


def squared_weights(weight: Tensor) -> Tensor:
    """The table Σ_k W² of demodulation, [O, I], for weight [O, I, k, k]."""
    return weight.square().sum(dim=(2, 3))


def demodulation(styles: Tensor, squares: Tensor) -> Tensor:
    """d [N, O] for styles [N, I] and the table of `squared_weights` [O, I], in the dtype of `styles`."""
    return (styles.square() @ squares.t() + EPSILON).rsqrt()


def prenormalise(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Scale W [O, I, k, k] and s [N, I] into the range of fp16; demodulation cancels the change.

    W ← W / (√(I·k²) · max|W_o|), s ← s / max|s_n|. Only for demodulated layers.
    """
    fan_in = weight[0].numel()
    scale = weight.abs().amax(dim=(1, 2, 3), keepdim=True) * fan_in**0.5
    return weight / scale, styles / styles.abs().amax(dim=1, keepdim=True)


def reference(x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool = True, up: str | None = None) -> Tensor:
    """Modulated convolution of x [N, I, H, W], same padding; `up` is None, "transposed" or "folded" (twice the size).

    Styles and demodulation are computed in their own dtype (float32 or more); x may be of lower precision, and then
    weights and styles are pre-normalised.
    """
    if demodulate and x.dtype in (torch.float16, torch.bfloat16):
        weight, styles = prenormalise(weight, styles)
    x = x * styles.to(x.dtype)[:, :, None, None]
    y = convolve(x, weight, up)
    if demodulate:
        y = y * demodulation(styles, squared_weights(weight)).to(y.dtype)[:, :, None, None]
    return y


def convolve(x: Tensor, weight: Tensor, up: str | None) -> Tensor:
    """The plain convolution of x [N, I, H, W] with weight [O, I, k, k], same padding, up-sampled by two if asked."""
    if up is None:
        return functional.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2)
    if up == "transposed":
        y = functional.conv_transpose2d(x, weight.to(x.dtype).transpose(0, 1), stride=2)
        return upfirdn.reference(y, upfirdn.binomial_filter(weight.dtype).to(y), padding=(1, 1), gain=4.0)
    if up == "folded":
        y = functional.conv2d(x, fold_up_weight(weight).to(x.dtype), padding=1)
        return functional.pixel_shuffle(y, 2)
    raise ValueError(f'up: found {up!r}; allowed are None, "transposed" and "folded"')


def fold_up_weight(weight: Tensor) -> Tensor:
    """Fold the binomial filter into weight [O, I, 3, 3]: [4·O, I, 3, 3], outputs ordered (o, phase y, phase x)."""
    axis = _fold_axis(weight)
    folded = torch.einsum("pak,qbl,oikl->opqiab", axis, axis, weight)
    out_channels, in_channels = weight.shape[:2]
    return folded.reshape(4 * out_channels, in_channels, 3, 3)


def _fold_axis(like: Tensor) -> Tensor:
    """[phase, tap on x[i-1..i+1], tap of w] for one axis: where tap k of w lands after stride 2 and the filter g."""
    g0, g1, g2, g3 = (2.0 * tap / sum(upfirdn.BINOMIAL) for tap in upfirdn.BINOMIAL)
    even = [[0.0, g0, g1], [g1, g2, g3], [g3, 0.0, 0.0]]
    odd = [[0.0, 0.0, g0], [g0, g1, g2], [g2, g3, 0.0]]
    return torch.tensor([even, odd], dtype=like.dtype, device=like.device)
