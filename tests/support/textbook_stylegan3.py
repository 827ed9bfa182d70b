"""StyleGAN3 by the letter of the paper: every sample by itself, filters designed anew, resampling as matrices.

It shares no arithmetic with impasto.kernels or impasto.generators, only the names of the parameters (Karras et al.
2021, "Alias-Free Generative Adversarial Networks", §3 and Appendices C to F).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from impasto.generators.stylegan3 import StyleGAN3

CRITICAL, MARGIN, TAPS = 2, 10, 6


def textbook_mapping(generator: StyleGAN3, z: Tensor, c: Tensor | None = None) -> Tensor:
    """z [N, z_dim], and for a conditional generator c [N, c_dim], to w [N, w_dim], not truncated."""
    mapping, rate = generator.mapping, generator.config.mapping_lr_multiplier
    x = z / torch.sqrt(torch.mean(z**2, dim=1, keepdim=True) + 1e-8)
    if c is not None:
        embed = mapping.embed
        y = functional.linear(c, embed.weight / math.sqrt(embed.weight.shape[1]), embed.bias)
        x = torch.cat([x, y / torch.sqrt(torch.mean(y**2, dim=1, keepdim=True) + 1e-8)], dim=1)
    for index in range(generator.config.mapping_layers):
        layer = getattr(mapping, f"fc{index}")
        x = functional.linear(x, layer.weight * (rate / math.sqrt(layer.weight.shape[1])), layer.bias * rate)
        x = torch.where(x < 0, 0.2 * x, x) * math.sqrt(2.0)
    return x


def textbook_synthesis(generator: StyleGAN3, ws: Tensor, transform: Tensor) -> Tensor:
    """ws [N, num_ws, w_dim] and transform [N, 3, 3] to pictures [N, C, R, R], in the dtype of ws."""
    return torch.stack([_picture(generator, rows, matrix) for rows, matrix in zip(ws, transform, strict=True)])


def _picture(generator: StyleGAN3, ws: Tensor, transform: Tensor) -> Tensor:
    config = generator.config
    count, half = config.num_layers, config.resolution / 2
    steps = [min(i / (count - CRITICAL), 1.0) for i in range(count + 1)]
    cutoffs = [2.0 * (half / 2.0) ** e for e in steps]
    stops = [2**2.1 * (half * 2**0.3 / 2**2.1) ** e for e in steps]
    rates = [2 ** math.ceil(math.log2(min(2 * stop, config.resolution))) for stop in stops]
    widths = [max(stop, rate / 2) - cutoff for stop, rate, cutoff in zip(stops, rates, cutoffs, strict=True)]
    sizes = [rate + 2 * MARGIN for rate in rates[:-2]] + [config.resolution] * 2
    bases = [config.channel_base / 2 / cutoff for cutoff in cutoffs]
    channels = [int(np.rint(min(base, config.channel_max))) for base in bases[:-1]] + [config.img_channels]

    x = _input(generator, ws[0], transform, sizes[0], rates[0], cutoffs[0])
    for i in range(count + 1):
        layer = generator.synthesis.get_submodule(f"L{i}_{sizes[i]}_{channels[i]}")
        before, last = max(i - 1, 0), i == count
        x = _convolution(layer, x, ws[i + 1], torgb=last)
        if last:
            break
        rate = 2 * max(rates[before], rates[i])
        up, down = rate // rates[before], rate // rates[i]
        up_filter = _kaiser(TAPS * up, cutoffs[before], widths[before], rate)
        down_filter = _kaiser(TAPS * down, cutoffs[i], widths[i], rate)
        if config.radial_filters and i < count - CRITICAL:
            down_filter = _jinc(TAPS * down, cutoffs[i], widths[i], rate)
        x = _resampled(x, up_filter, down_filter, up, down, sizes[i], config.conv_clamp)
    bound = config.conv_clamp or math.inf
    return 0.25 * x.clamp(-bound, bound)


def _input(generator: StyleGAN3, w: Tensor, transform: Tensor, size: int, rate: int, cutoff: float) -> Tensor:
    source = generator.synthesis.input
    t = source.affine.weight @ w / math.sqrt(len(w)) + source.affine.bias
    t = t / torch.linalg.vector_norm(t[:2])
    turn = torch.eye(3).to(w)
    turn[0, 0] = turn[1, 1] = t[0]
    turn[1, 0], turn[0, 1] = t[1], -t[1]
    move = torch.eye(3).to(w)
    move[0, 2], move[1, 2] = -t[2], -t[3]
    matrix = turn @ move @ transform
    phases = source.phases + source.freqs @ matrix[:2, 2]
    freqs = source.freqs @ matrix[:2, :2]
    amplitude = (1 - (torch.linalg.vector_norm(freqs, dim=1) - cutoff) / (rate / 2 - cutoff)).clamp(0, 1)
    line = (torch.arange(size).to(w) + 0.5 - size / 2) / rate
    waves = line[None, None, :] * freqs[:, 0, None, None] + line[None, :, None] * freqs[:, 1, None, None]
    waves = torch.sin(2 * math.pi * (waves + phases[:, None, None])) * amplitude[:, None, None]
    return torch.einsum("oc,chw->ohw", source.weight / math.sqrt(len(phases)), waves)


def _convolution(layer: torch.nn.Module, x: Tensor, w: Tensor, *, torgb: bool) -> Tensor:
    style = layer.affine.weight @ w / math.sqrt(len(w)) + layer.affine.bias
    weight = layer.weight
    if torgb:
        weight = weight * (style / math.sqrt(weight[0].numel()))[None, :, None, None]
    else:
        weight = weight / weight.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        weight = weight * (style / style.square().mean().sqrt())[None, :, None, None]
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
    weight = weight / layer.magnitude_ema.sqrt()
    return functional.conv2d(x[None], weight, layer.bias, padding=weight.shape[2] - 1)[0]


def _resampled(
    x: Tensor, up_filter: np.ndarray, down_filter: np.ndarray, up: int, down: int, size: int, clamp: float | None
) -> Tensor:
    """x [C, H, H] up, leaky ReLU, down to [C, size, size]; as much is cut off on one side as the other."""
    needed, whole = (size - 1) * down + len(down_filter), (x.shape[1] - 1) * up + len(up_filter)
    assert (whole - needed) % 2 == 0
    rise = x.new_zeros(whole, x.shape[1])
    for sample in range(x.shape[1]):
        rise[sample * up : sample * up + len(up_filter), sample] = torch.from_numpy(up_filter) * up
    cut = (whole - needed) // 2
    rise = rise[cut : cut + needed]
    t = rise @ x @ rise.T
    t = torch.where(t < 0, 0.2 * t, t) * math.sqrt(2.0)
    if clamp is not None:
        t = t.clamp(-clamp, clamp)
    if down_filter.ndim == 2:
        taps = torch.from_numpy(down_filter[::-1, ::-1].copy()).to(x)
        return functional.conv2d(t[:, None], taps[None, None], stride=down)[:, 0]
    fall = x.new_zeros(size, needed)
    for pixel in range(size):
        fall[pixel, pixel * down : pixel * down + len(down_filter)] = torch.from_numpy(down_filter[::-1].copy())
    return fall @ t @ fall.T


def _kaiser(taps: int, cutoff: float, half_width: float, rate: int) -> np.ndarray:
    t = (np.arange(taps) - (taps - 1) / 2) / rate
    taps_ = np.sin(2 * np.pi * cutoff * t) / (np.pi * t) * _window(taps, half_width, rate)
    return taps_ / taps_.sum()


def _jinc(taps: int, cutoff: float, half_width: float, rate: int) -> np.ndarray:
    t = (np.arange(taps) - (taps - 1) / 2) / rate
    r = np.sqrt(t[:, None] ** 2 + t[None, :] ** 2)
    # J₁(x) = 1/π ∫ cos(θ − x·sin θ) dθ from 0 to π, by the midpoint rule.
    angle = (np.arange(512) + 0.5) * np.pi / 512
    bessel = np.cos(angle - (2 * np.pi * cutoff * r)[..., None] * np.sin(angle)).mean(axis=-1)
    window = _window(taps, half_width, rate)
    taps_ = bessel / r * window[:, None] * window[None, :]
    return taps_ / taps_.sum()


def _window(taps: int, half_width: float, rate: int) -> np.ndarray:
    """Kaiser's window, its β from the attenuation that so many taps reach in a transition of 2·half_width."""
    decibels = 2.285 * (taps - 1) * math.pi * (2 * half_width / (rate / 2)) + 7.95
    if decibels > 50:
        beta = 0.1102 * (decibels - 8.7)
    else:
        beta = 0.5842 * (decibels - 21) ** 0.4 + 0.07886 * (decibels - 21) if decibels > 21 else 0.0
    x = 2 * np.arange(taps) / (taps - 1) - 1
    return np.i0(beta * np.sqrt(1 - x**2)) / np.i0(beta)
