"""StyleGAN2: mapping network and synthesis network (Karras et al. 2020), written from the published formulas.

Parameter and buffer names are those of the official PyTorch checkpoints, so that importing one is a rename of nothing.
Noise is an input: one flat row [noise_size] a picture, the maps of all layers one after another, row-major.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from impasto.generators.mapped_config import MappedConfig
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.kernels import bias_act, modulated_conv, upfirdn

__all__ = ["Mapping", "StyleGAN2", "StyleGAN2Config", "Synthesis", "normalise", "split_noise", "truncate"]


class Linear(nn.Module):
    """Fully connected, with equalised learning rate: y = x·(W·lr/√in)ᵀ + b·lr, then leaky ReLU·√2 if `activate`."""

    def __init__(
        self, in_features: int, out_features: int, *, lr: float = 1.0, bias: float = 0.0, activate: bool = False
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr)
        self.bias = nn.Parameter(torch.full((out_features,), bias / lr))
        self.lr = lr
        self.activate = activate

    def scaled(self) -> tuple[Tensor, Tensor]:
        """The weight [out, in] and bias [out] with their gains multiplied in."""
        return self.weight * (self.lr / math.sqrt(self.weight.shape[1])), self.bias * self.lr

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.scaled()
        return bias_act.reference(nn.functional.linear(x, weight, bias), None, linear=not self.activate)


def normalise(x: Tensor) -> Tensor:
    """x · (mean x² + 1e-8)^-½ over dim 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """z [N, z_dim] and class vector c [N, c_dim] to w [N, w_dim]."""

    w_avg: Tensor

    def __init__(self, config: MappedConfig):
        super().__init__()
        self.config = config
        features = config.z_dim
        if config.c_dim:
            self.embed = Linear(config.c_dim, config.w_dim)
            features += config.w_dim
        for index in range(config.mapping_layers):
            layer = Linear(features, config.w_dim, lr=config.mapping_lr_multiplier, activate=True)
            setattr(self, f"fc{index}", layer)
            features = config.w_dim
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    @property
    def layers(self) -> Iterator[Linear]:
        for index in range(self.config.mapping_layers):
            yield getattr(self, f"fc{index}")

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        x = normalise(z)
        if self.config.c_dim:
            if c is None:
                raise ValueError(f"c: found none; this generator takes a class vector of {self.config.c_dim} values")
            x = torch.cat([x, normalise(self.embed(c))], dim=1)
        for layer in self.layers:
            x = layer(x)
        return x


def truncate(w: Tensor, w_avg: Tensor, psi: Tensor) -> Tensor:
    """w [N, w_dim] and psi [N, num_ws], one a layer, to ws [N, num_ws, w_dim]: w_avg + psi·(w − w_avg)."""
    return w_avg + psi[:, :, None] * (w - w_avg)[:, None, :]


class SynthesisLayer(nn.Module):
    """A modulated 3×3 convolution with its epilogue: demodulate, noise, bias, leaky ReLU·√2, clamp."""

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(self, in_channels: int, out_channels: int, resolution: int, config: StyleGAN2Config, *, up: bool):
        super().__init__()
        self.up = up
        self.clamp = config.conv_clamp
        self.affine = Linear(config.w_dim, in_channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", _filter_2d())

    def forward(self, x: Tensor, w: Tensor, noise: Tensor, up_form: str = "transposed") -> Tensor:
        """x [N, I, H, W], w [N, w_dim], noise [N or 1, 1, R, R] → [N, O, R, R]."""
        y = modulated_conv.reference(x, self.weight, self.affine(w), up=up_form if self.up else None)
        y = y + (noise * self.noise_strength).to(y.dtype)
        return bias_act.reference(y, self.bias, clamp=self.clamp)


class ToRGB(nn.Module):
    """A modulated 1×1 convolution to the picture's channels: no demodulation, no noise, no activation."""

    def __init__(self, in_channels: int, config: StyleGAN2Config):
        super().__init__()
        self.clamp = config.conv_clamp
        self.affine = Linear(config.w_dim, in_channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(config.img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(config.img_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w) / math.sqrt(self.weight.shape[1])
        y = modulated_conv.reference(x, self.weight, styles, demodulate=False)
        return bias_act.reference(y, self.bias, linear=True, clamp=self.clamp)


class SynthesisBlock(nn.Module):
    """One resolution: conv0 (up-sampling; absent at 4×4), conv1 and toRGB, with the skip picture."""

    const: nn.Parameter
    resample_filter: Tensor

    def __init__(self, resolution: int, config: StyleGAN2Config):
        super().__init__()
        out_channels = config.channels(resolution)
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(out_channels, 4, 4))
        else:
            self.conv0 = SynthesisLayer(config.channels(resolution // 2), out_channels, resolution, config, up=True)
        self.conv1 = SynthesisLayer(out_channels, out_channels, resolution, config, up=False)
        self.torgb = ToRGB(out_channels, config)
        self.register_buffer("resample_filter", _filter_2d())


class Synthesis(nn.Module):
    """ws [N, num_ws, w_dim] and noise [N or 1, noise_size] to pictures [N, C, R, R], nominally in [-1, 1]."""

    def __init__(self, config: StyleGAN2Config):
        super().__init__()
        self.config = config
        for resolution in config.resolutions:
            setattr(self, f"b{resolution}", SynthesisBlock(resolution, config))

    @property
    def blocks(self) -> Iterator[tuple[int, SynthesisBlock]]:
        for resolution in self.config.resolutions:
            yield resolution, getattr(self, f"b{resolution}")

    def constant_noise(self) -> Tensor:
        """The stored noise maps as one flat row [noise_size], not yet scaled by each layer's strength."""
        maps = []
        for resolution, block in self.blocks:
            if resolution > 4:
                maps.append(block.conv0.noise_const)
            maps.append(block.conv1.noise_const)
        return torch.cat([noise.flatten() for noise in maps])

    def forward(
        self, ws: Tensor, noise: Tensor, *, half: torch.dtype | None = None, up_form: str = "transposed"
    ) -> Tensor:
        """Make the pictures; with `half` the highest `num_fp16_res` resolutions compute in that dtype."""
        maps = iter(split_noise(noise, self.config))
        taps = upfirdn.binomial_filter(ws.dtype, ws.device)
        picture: Tensor | None = None
        x = ws.new_empty(0)
        for index, (resolution, block) in enumerate(self.blocks):
            dtype = half if half is not None and self.config.runs_in_half(resolution) else ws.dtype
            if resolution == 4:
                x = block.const.to(dtype).expand(ws.shape[0], -1, -1, -1)
                x = x.contiguous(memory_format=torch.channels_last)
                x = block.conv1(x, ws[:, 0], next(maps))
            else:
                x = block.conv0(x.to(dtype), ws[:, 2 * index - 1], next(maps), up_form)
                x = block.conv1(x, ws[:, 2 * index], next(maps))
            rgb = block.torgb(x, ws[:, 2 * index + 1]).to(ws.dtype)
            picture = rgb if picture is None else upfirdn.upsample2(picture, taps) + rgb
        assert picture is not None
        return picture


class StyleGAN2(nn.Module):
    """Mapping and synthesis together, with the state dict of an official `G_ema`."""

    def __init__(self, config: StyleGAN2Config):
        super().__init__()
        self.config = config
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)

    def forward(
        self, z: Tensor, c: Tensor | None = None, psi: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Pictures [N, C, R, R] for z [N, z_dim]; psi [N, num_ws] defaults to 1, noise to the stored maps."""
        if psi is None:
            psi = z.new_ones(z.shape[0], self.config.num_ws)
        if noise is None:
            noise = self.synthesis.constant_noise()[None]
        ws = truncate(self.mapping(z, c), self.mapping.w_avg, psi)
        pictures: Tensor = self.synthesis(ws, noise)
        return pictures


def split_noise(noise: Tensor, config: StyleGAN2Config) -> list[Tensor]:
    """The flat noise [N, noise_size] as one map [N, 1, R, R] a layer."""
    maps, start = [], 0
    for side in config.noise_shapes:
        maps.append(noise[:, start : start + side * side].reshape(-1, 1, side, side))
        start += side * side
    return maps


def _filter_2d() -> Tensor:
    taps = upfirdn.binomial_filter()
    return torch.outer(taps, taps)
