"""A convolutional encoder and decoder with residual blocks, which autoencoders of several families share.

As in latent diffusion's first stage (Rombach et al. 2022, appendix E.1, without attention): group normalisation, SiLU,
3×3 convolutions; strided ones halve the side, nearest-neighbour ones double it.
"""

from __future__ import annotations

import itertools
import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from impasto.generators.limits import MAX_WIDTH, check_power_of_two, check_range

MAX_BLOCKS = 8
GROUPS = 8
VECTOR_SIDE = 4
"""Side of the feature map from which a latent of one place is made, by a convolution of all of it."""


class AutoencoderConfig(Protocol):
    """What shapes the networks.

    Pictures [img_channels, R, R] and latents [latent_channels, latent_side, latent_side] of which 1 is a plain vector;
    `channel_base` channels at the picture's side, twice as many at each half of it, up to `channel_max`; so many
    residual `blocks` at each side.
    """

    @property
    def resolution(self) -> int: ...

    @property
    def img_channels(self) -> int: ...

    @property
    def latent_channels(self) -> int: ...

    @property
    def latent_side(self) -> int: ...

    @property
    def channel_base(self) -> int: ...

    @property
    def channel_max(self) -> int: ...

    @property
    def blocks(self) -> int: ...


def check_shape(config: AutoencoderConfig) -> None:
    """ValueError that names the hyperparameter which is out of range."""
    check_power_of_two("resolution", config.resolution, 8)
    check_power_of_two("latent_side", config.latent_side, 1, config.resolution // 2)
    for name in ("latent_channels", "channel_base", "channel_max"):
        check_range(name, getattr(config, name), 1, MAX_WIDTH)
    check_range("blocks", config.blocks, 1, MAX_BLOCKS)
    if config.img_channels not in (1, 3):
        raise ValueError(f"img_channels: found {config.img_channels}; allowed is 1 or 3")


def z_dim(config: AutoencoderConfig) -> int:
    """Numbers in a latent."""
    return config.latent_channels * config.latent_side**2


def as_map(z: Tensor, config: AutoencoderConfig) -> Tensor:
    """z [N, z_dim], row-major → [N, latent_channels, latent_side, latent_side]."""
    return z.reshape(-1, config.latent_channels, config.latent_side, config.latent_side)


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))); begins as the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm0, self.norm1 = _norm(channels), _norm(channels)
        self.conv0, self.conv1 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv1.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] → [N, C, H, W]."""
        changed = self.conv0(functional.silu(self.norm0(x)))
        changed = self.conv1(functional.silu(self.norm1(changed)))
        added: Tensor = x + changed
        return added


class Encoder(nn.Module):
    """Pictures [N, img_channels, R, R] → [N, outputs, latent_side, latent_side]."""

    def __init__(self, config: AutoencoderConfig, outputs: int):
        super().__init__()
        widths = _widths(config)
        layers: list[nn.Module] = [nn.Conv2d(config.img_channels, widths[0], 3, padding=1)]
        for here, below in itertools.pairwise(widths):
            layers += _blocks(here, config)
            layers.append(nn.Conv2d(here, below, 3, stride=2, padding=1))
        layers += [*_blocks(widths[-1], config), _norm(widths[-1]), nn.SiLU()]
        if config.latent_side == 1:
            layers.append(nn.Conv2d(widths[-1], outputs, VECTOR_SIDE))
        else:
            layers.append(nn.Conv2d(widths[-1], outputs, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        encoded: Tensor = self.layers(pictures)
        return encoded


class Decoder(nn.Module):
    """Latents [N, latent_channels, latent_side, latent_side] → pictures [N, img_channels, R, R], not clamped."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = _widths(config)[::-1]
        layers: list[nn.Module]
        if config.latent_side == 1:
            layers = [nn.ConvTranspose2d(config.latent_channels, widths[0], VECTOR_SIDE)]
        else:
            layers = [nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)]
        for here, above in itertools.pairwise(widths):
            layers += _blocks(here, config)
            layers += [nn.Upsample(scale_factor=2.0), nn.Conv2d(here, above, 3, padding=1)]
        layers += [*_blocks(widths[-1], config), _norm(widths[-1]), nn.SiLU()]
        layers.append(nn.Conv2d(widths[-1], config.img_channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        pictures: Tensor = self.layers(latents)
        return pictures


def random_pictures(rows: int, side: int) -> Tensor:
    """Smooth pictures [rows, 3, side, side] on [-1, 1] of the seeds 0, 1, …: what an encoder is compared on."""
    coarse = [torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in range(rows)]
    return functional.interpolate(torch.stack(coarse), (side, side), mode="bilinear")


def _widths(config: AutoencoderConfig) -> list[int]:
    """Channels from the picture's side down to that of the latent, or to VECTOR_SIDE where it is a vector."""
    lowest = VECTOR_SIDE if config.latent_side == 1 else config.latent_side
    halvings = int(math.log2(config.resolution // lowest))
    return [min(config.channel_base * 2**level, config.channel_max) for level in range(halvings + 1)]


def _blocks(channels: int, config: AutoencoderConfig) -> list[nn.Module]:
    return [ResidualBlock(channels) for _ in range(config.blocks)]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
