"""The encoder that gives crops their latents while a generator is trained: the recognition model of a VAE."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from impasto.training.discriminator import Block, Conv

SIDE = 32


class Encoder(nn.Module):
    """Pictures [N, 3, R, R] to mean and log variance, [N, z_dim] each, of their latents (Kingma and Welling 2014).

    It looks at 32² pixels at most: a latent holds the layout, single strokes are left to the noise.
    """

    def __init__(self, z_dim: int, channels: int):
        super().__init__()
        self.from_rgb = Conv(3, channels, 1)
        self.blocks = nn.Sequential(*(Block(channels, channels) for _ in range(3)))
        self.out = nn.Linear(channels * 16, 2 * z_dim)
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias[z_dim:].fill_(-2.0)

    def forward(self, pictures: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        x = functional.interpolate(pictures, size=(SIDE, SIDE), mode="area").to(dtype)
        x = self.blocks(self.from_rgb(x.contiguous(memory_format=torch.channels_last)))
        mean, log_variance = self.out(x.float().flatten(1)).chunk(2, dim=1)
        return mean, log_variance.clamp(-8.0, 2.0)
