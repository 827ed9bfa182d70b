"""Kernels that read their input once or twice and write as much: the memory's speed is their limit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.case import EVERY_ROW, Case, Form, pure, within
from impasto.generators import stylegan3_filters
from impasto.kernels import (
    ada_norm,
    bias_act,
    filtered_lrelu,
    geglu,
    group_norm_silu,
    philox,
    philox_normal,
    to_image,
    upfirdn,
)

GROUPS = 32


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, layout: str = "NCHW") -> Tensor:
    torch.manual_seed(sum(shape))
    x = torch.randn(shape, device=device).to(dtype)
    return x if layout == "NCHW" else x.contiguous(memory_format=torch.channels_last)


def _case(
    x: Tensor, kernel: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor], *, size: int, terms: int = 1
) -> Case:
    """Of functions of x alone, which need no more; `size` is the values of the output."""
    forms = {"": pure(lambda of: kernel(x[of]), terms=terms)}
    moved = (x.numel() + size) * x.element_size()
    return Case(len(x), forms, lambda of: (reference(x[of].double()),), {"eager": lambda: reference(x)}, moved)


def bias_activation(
    n: int, dtype: torch.dtype, device: torch.device, channels: int, height: int, width: int, layout: str
) -> Case:
    """Bias, leaky ReLU, gain and clamp."""
    x = _random((n, channels, height, width), dtype, device, layout)
    bias = torch.randn(channels, device=device)
    kernel = functools.partial(bias_act.bias_act, bias=bias, clamp=2.0)
    return _case(x, kernel, functools.partial(bias_act.reference, bias=bias, clamp=2.0), size=x.numel())


def group_norm(
    n: int, dtype: torch.dtype, device: torch.device, channels: int, height: int, width: int, layout: str
) -> Case:
    """Group normalisation in up to 32 groups, and SiLU. It reads x twice, though the second time may be from cache."""
    x = _random((n, channels, height, width), dtype, device, layout)
    weight, bias = torch.randn(2, channels, device=device)
    groups = min(GROUPS, channels // 2)
    options: dict[str, Any] = {"weight": weight, "bias": bias, "groups": groups}
    kernel = functools.partial(group_norm_silu.group_norm_silu, **options)
    reference = functools.partial(group_norm_silu.reference, **options)
    return _case(x, kernel, reference, size=x.numel(), terms=x[0].numel() // groups)


def gated(n: int, dtype: torch.dtype, device: torch.device, tokens: int, width: int) -> Case:
    """GEGLU of [N, tokens, 2·width]."""
    x = _random((n, tokens, 2 * width), dtype, device)
    return _case(x, geglu.geglu, geglu.reference, size=x.numel() // 2)


def adaptive_norm(n: int, dtype: torch.dtype, device: torch.device, tokens: int, channels: int) -> Case:
    """Layer normalisation of [N, tokens, channels] with scale and shift."""
    x = _random((n, tokens, channels), dtype, device)
    scale, shift = torch.randn(2, n, channels, device=device)

    def ours(of: slice) -> Tensor:
        return ada_norm.ada_norm(x[of], scale[of], shift[of])

    def expected(of: slice) -> tuple[Tensor]:
        return (ada_norm.reference(x[of].double(), scale[of].double(), shift[of].double()),)

    eager = {"eager": lambda: ada_norm.reference(x, scale, shift)}
    return Case(n, {"": pure(ours, terms=channels)}, expected, eager, 2 * x.numel() * x.element_size())


def resample(
    n: int, dtype: torch.dtype, device: torch.device, channels: int, height: int, width: int, layout: str
) -> Case:
    """Up-sampling by two with the binomial filter."""
    x = _random((n, channels, height, width), dtype, device, layout)
    options: dict[str, Any] = {"taps": upfirdn.binomial_filter().to(device), "up": 2, "padding": (2, 1), "gain": 4.0}
    kernel = functools.partial(upfirdn.upfirdn, **options)
    return _case(x, kernel, functools.partial(upfirdn.reference, **options), size=4 * x.numel(), terms=4)


def filtered(
    n: int, dtype: torch.dtype, device: torch.device, channels: int, height: int, width: int, down: str
) -> Case:
    """A layer of StyleGAN3 that keeps its size: up by two and down by two, with twelve taps each way."""
    x = _random((n, channels, height, width), dtype, device)
    taps = torch.from_numpy(np.kaiser(12, 6.0)).float().to(device)
    options: dict[str, Any] = {
        "bias": torch.randn(channels, device=device),
        "up_taps": taps / taps.sum(),
        "up": 2,
        "down": 2,
        "padding": (10, 11, 10, 11),
        "clamp": 256.0,
    }
    whole, parts = options["up_taps"], options["up_taps"]
    if down == "radial":
        whole = stylegan3_filters.radial(12, cutoff=1.0, half_width=1.0, rate=8.0).to(device)
        parts = filtered_lrelu.separate(whole)
    kernel = functools.partial(filtered_lrelu.filtered_lrelu, down_taps=parts, **options)
    reference = functools.partial(filtered_lrelu.reference, down_taps=whole, **options)
    return _case(x, kernel, reference, size=x.numel(), terms=144 if parts is whole else 1728)


def pixels(n: int, dtype: torch.dtype, device: torch.device, channels: int, height: int, width: int) -> Case:
    """A picture's floats to bytes, which must be those of the reference."""
    x = _random((n, channels, height, width), dtype, device)

    def ours(of: slice) -> tuple[Tensor, ...]:
        return to_image.to_image(x[of])

    def eager() -> Tensor:
        return (x.float() * 127.5 + 128.0).clamp(0.0, 255.0).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    form = Form(ours, lambda: ours(EVERY_ROW), within(0.0))
    moved = x.numel() * (x.element_size() + 1)
    return Case(n, {"": form}, lambda of: to_image.reference(x[of]), {"eager": eager}, moved)


def noise(n: int, _: torch.dtype, device: torch.device, size: int) -> Case:
    """Normals by seed, step and row, and the words that they are made of; the rival's depend on the batch."""
    seeds = torch.tensor([2**40 + 7 * index for index in range(n)], device=device)
    steps, rows = torch.arange(n, device=device) + 3, torch.arange(n, device=device) * 2

    def ours(of: slice) -> tuple[Tensor, Tensor]:
        streams = seeds[of], steps[of], rows[of]
        return philox_normal.philox_normal(*streams, size), philox_normal.philox_words(*streams, size)

    def expected(of: slice) -> tuple[Tensor, Tensor]:
        streams = seeds[of].cpu(), steps[of].cpu(), rows[of].cpu()
        keys = zip(*(stream.tolist() for stream in streams), strict=True)
        words = torch.stack([_words(seed, step, row, size) for seed, step, row in keys])
        return philox_normal.reference(*streams, size).to(device), words.to(device)

    def judge(found: Tensor, wanted: Tensor) -> str | None:
        return within(1e-6 if found.is_floating_point() else 0.0)(found, wanted)

    form = Form(ours, lambda: philox_normal.philox_normal(seeds, steps, rows, size), judge)
    return Case(n, {"": form}, expected, {"eager": lambda: torch.randn(n, size, device=device)}, 4 * n * size)


def _words(seed: int, step: int, row: int, size: int) -> Tensor:
    """Philox's words as int32 [size]."""
    counter = np.zeros((4, -(-size // 4)), np.uint64)
    counter[0] = np.arange(counter.shape[1])
    counter[1], counter[2] = step, row
    words = philox.words(counter, (seed & 0xFFFFFFFF, seed >> 32)).T.reshape(-1)[:size]
    return torch.from_numpy(words.astype(np.uint32).view(np.int32))
