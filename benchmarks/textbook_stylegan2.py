"""The textbook StyleGAN2 in eager torch: every sample convolved with its own modulated weights.

This is the form of the paper (Karras et al. 2020, §2.2) and of most code that people run: weights W·s·d for each sample
of the batch, one grouped convolution with groups = N. It shares no arithmetic with impasto.kernels, so that it serves
twice: in float64 as the reference of the tests, in float32 as the baseline of the benchmarks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from impasto.generators.stylegan2 import StyleGAN2, SynthesisLayer, ToRGB

EPSILON = 1e-8


def textbook_mapping(generator: StyleGAN2, z: Tensor, c: Tensor | None = None) -> Tensor:
    """z [N, z_dim], and for a conditional generator c [N, c_dim], to w [N, w_dim], not truncated."""
    mapping, rate = generator.mapping, generator.config.mapping_lr_multiplier
    x = z * torch.rsqrt(torch.mean(z**2, dim=1, keepdim=True) + EPSILON)
    if c is not None:
        embed = mapping.embed
        y = functional.linear(c, embed.weight / math.sqrt(embed.weight.shape[1]), embed.bias)
        x = torch.cat([x, y * torch.rsqrt(torch.mean(y**2, dim=1, keepdim=True) + EPSILON)], dim=1)
    for index in range(generator.config.mapping_layers):
        layer = getattr(mapping, f"fc{index}")
        x = functional.linear(x, layer.weight * (rate / math.sqrt(layer.weight.shape[1])), layer.bias * rate)
        x = functional.leaky_relu(x, 0.2) * math.sqrt(2.0)
    return x


def textbook_synthesis(generator: StyleGAN2, ws: Tensor, noise: Tensor) -> Tensor:
    """ws [N, num_ws, w_dim] and flat noise [N or 1, noise_size] to pictures [N, C, R, R], in the dtype of ws."""
    clamp = generator.config.conv_clamp
    binomial = ws.new_ones(4)
    binomial[1:3] = 3.0
    # Sum 1 over both axes, times the gain 4 of up-sampling by two.
    taps = torch.outer(binomial, binomial) / 16.0
    x = generator.synthesis.get_parameter("b4.const")[None].repeat(ws.shape[0], 1, 1, 1)
    picture = None
    row = start = 0
    for resolution, block in generator.synthesis.blocks:
        for layer in [block.conv1] if resolution == 4 else [block.conv0, block.conv1]:
            plane = noise[:, start : start + resolution**2].reshape(-1, 1, resolution, resolution)
            x = _styled_convolution(layer, x, ws[:, row], plane, taps, clamp)
            start += resolution**2
            row += 1
        rgb = _to_rgb(block.torgb, x, ws[:, row], clamp)
        picture = rgb if picture is None else _upsample(picture, taps) + rgb
    assert picture is not None
    return picture


def _styled_convolution(
    layer: SynthesisLayer, x: Tensor, w: Tensor, noise: Tensor, taps: Tensor, clamp: float | None
) -> Tensor:
    """A layer of x [N, I, H, W]: modulate, demodulate, convolve, add noise and bias, leaky ReLU·√2, clamp."""
    weights = layer.weight[None] * _styles(layer, w)[:, None, :, None, None]
    weights = weights * torch.rsqrt(weights.square().sum(dim=(2, 3, 4), keepdim=True) + EPSILON)
    x = _blur(_per_sample_transposed_convolution(x, weights), taps) if layer.up else _per_sample_convolution(x, weights)
    x = functional.leaky_relu(x + noise * layer.noise_strength + layer.bias[:, None, None], 0.2) * math.sqrt(2.0)
    return x if clamp is None else x.clamp(-clamp, clamp)


def _to_rgb(layer: ToRGB, x: Tensor, w: Tensor, clamp: float | None) -> Tensor:
    """Features [N, I, H, W] to their part of the picture [N, C, H, W]: modulated, not demodulated."""
    styles = _styles(layer, w) / math.sqrt(x.shape[1])
    x = _per_sample_convolution(x, layer.weight[None] * styles[:, None, :, None, None]) + layer.bias[:, None, None]
    return x if clamp is None else x.clamp(-clamp, clamp)


def _styles(layer: SynthesisLayer | ToRGB, w: Tensor) -> Tensor:
    affine = layer.affine
    return functional.linear(w, affine.weight / math.sqrt(affine.weight.shape[1]), affine.bias)


def _per_sample_convolution(x: Tensor, weights: Tensor) -> Tensor:
    """x [N, I, H, W] with weights [N, O, I, k, k], same padding, as one convolution of N groups."""
    n, out_channels, in_channels, size, _ = weights.shape
    height, width = x.shape[2:]
    grouped = x.reshape(1, n * in_channels, height, width)
    weights = weights.reshape(n * out_channels, in_channels, size, size)
    return functional.conv2d(grouped, weights, padding=size // 2, groups=n).reshape(n, out_channels, height, width)


def _per_sample_transposed_convolution(x: Tensor, weights: Tensor) -> Tensor:
    """x [N, I, H, W] with weights [N, O, I, k, k], stride 2, no padding: [N, O, 2H + 1, 2W + 1] for k = 3."""
    n, out_channels, in_channels, size, _ = weights.shape
    height, width = x.shape[2:]
    grouped = x.reshape(1, n * in_channels, height, width)
    weights = weights.transpose(1, 2).reshape(n * in_channels, out_channels, size, size)
    y = functional.conv_transpose2d(grouped, weights, stride=2, groups=n)
    return y.reshape(n, out_channels, *y.shape[2:])


def _blur(x: Tensor, taps: Tensor) -> Tensor:
    """x [N, C, H, W] padded by one and filtered with `taps` [4, 4]: one pixel smaller on each axis."""
    channels = x.shape[1]
    return functional.conv2d(x, taps.repeat(channels, 1, 1, 1), padding=1, groups=channels)


def _upsample(picture: Tensor, taps: Tensor) -> Tensor:
    """Twice the size: a zero after every sample, padding (2, 1) on both axes, filter with `taps` [4, 4]."""
    n, channels, height, width = picture.shape
    stuffed = picture.new_zeros(n, channels, 2 * height, 2 * width)
    stuffed[:, :, ::2, ::2] = picture
    padded = functional.pad(stuffed, (2, 1, 2, 1))
    return functional.conv2d(padded, taps.repeat(channels, 1, 1, 1), groups=channels)
