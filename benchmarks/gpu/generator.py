"""A whole StyleGAN2 synthesis network, beside the same in eager torch and as the paper has it.

The eager one is `stylegan2.Synthesis`: weights shared by the batch, channels-last memory, and an operation for each
part of a layer.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from benchmarks.gpu.case import Case, Judge, pure
from benchmarks.textbook_stylegan2 import textbook_synthesis
from impasto.generators.stylegan2 import StyleGAN2
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.generators.stylegan2_kernels import KernelSynthesis
from impasto.kernels import routing

CLAMP = 256.0
PSNR = {torch.float32: 90.0, torch.float16: 55.0, torch.bfloat16: 38.0}
"""What pictures must reach against float64, in decibels."""


def synthesis(n: int, dtype: torch.dtype, device: torch.device, resolution: int, channel_base: int) -> Case:
    """The network with random weights; its pictures are of the usual range."""
    torch.manual_seed(resolution)
    # Eager too has 16 bits at all resolutions, but for the first.
    config = StyleGAN2Config(resolution, channel_base=channel_base, conv_clamp=CLAMP, num_fp16_res=16)
    generator = _generator(config).to(device)
    ws = torch.randn(n, config.num_ws, config.w_dim, device=device)
    noise = torch.randn(n, config.noise_size, device=device)
    network = KernelSynthesis(generator.synthesis, dtype, device, routing.table_of(device))

    def ours(of: slice) -> Tensor:
        return network(ws[of], noise[of])

    def expected(of: slice) -> tuple[Tensor]:
        return (textbook_synthesis(copy.deepcopy(generator).double(), ws[of].double(), noise[of].double()),)

    half = None if dtype is torch.float32 else dtype
    textbook, arguments = copy.deepcopy(generator).to(dtype), (ws.to(dtype), noise.to(dtype))
    rivals = {
        "eager": lambda: generator.synthesis(ws, noise, half=half),
        "textbook": lambda: textbook_synthesis(textbook, *arguments),
    }
    moved, operations = _work(config, n, torch.finfo(dtype).bits // 8)
    return Case(n, {"": pure(ours, judge=_psnr_above(PSNR[dtype]))}, expected, rivals, moved, operations)


def _generator(config: StyleGAN2Config) -> StyleGAN2:
    generator = StyleGAN2(config).eval().requires_grad_(False)
    for name, parameter in generator.synthesis.named_parameters():
        if name.endswith(("noise_strength", "bias")):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        elif name.endswith("torgb.weight"):
            parameter.mul_(0.5 / math.sqrt(len(config.resolutions)))
    return generator


def _psnr_above(limit: float) -> Judge:
    def judge(found: Tensor, expected: Tensor) -> str | None:
        error = (found.double() - expected).square().mean().item()
        psnr = 10 * math.log10(2.0**2 / error) if error > 0 else math.inf
        return None if psnr >= limit else f"PSNR {psnr:.1f} dB, wanted {limit:g}"

    return judge


def _work(config: StyleGAN2Config, n: int, size: int) -> tuple[int, int]:
    """Bytes read and written at least, weights once, features and noise of every layer; and operations."""
    moved = operations = 0
    before = config.channels(4)
    for side in config.resolutions:
        channels = config.channels(side)
        layers = [(channels, side)] if side == 4 else [(before, side // 2), (channels, side)]
        for inputs, in_side in layers:
            moved += (9 * inputs * channels + n * (inputs * in_side**2 + channels * side**2)) * size
            moved += 4 * n * side**2
            operations += 2 * 9 * inputs * channels * n * in_side**2
        # toRGB reads the features once more, and the picture is read at half the side and written.
        moved += n * (channels * side**2 * size + 4 * config.img_channels * (side**2 + (side // 2) ** 2))
        operations += 2 * channels * config.img_channels * n * side**2
        before = channels
    return moved, operations
