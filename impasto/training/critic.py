"""The discriminator of DCGAN, or critic where it scores without bound, for pictures of classes where wanted.

Strided 4×4 convolutions as in Radford, Metz and Chintala 2016, with spectral normalisation (Miyato et al. 2018) or,
without it, layer normalisation in place of batch normalisation: a gradient penalty is of each picture alone (Gulrajani
et al. 2017, §4). A class's score is added by projection (Miyato and Koyama 2018), and self-attention stands where the
generator has it (Zhang et al. 2019).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from impasto.generators.gan import GANConfig, SelfAttention

SLOPE = 0.2

Layer = TypeVar("Layer", bound=nn.Module)


class Critic(nn.Module):
    """Scores pictures [N, img_channels, R, R], of classes c [N, c_dim] if conditional: [N], higher is more real.

    As wide at each resolution as the generator of `config` is.
    """

    def __init__(self, config: GANConfig, *, spectral: bool) -> None:
        super().__init__()
        self.spectral = spectral
        layers: list[nn.Module] = []
        inputs, resolution = config.img_channels, config.resolution
        while resolution > 4:
            resolution //= 2
            outputs = config.channels(resolution)
            layers.append(self._normalised(nn.Conv2d(inputs, outputs, 4, 2, 1)))
            if not spectral and inputs != config.img_channels:
                layers.append(nn.GroupNorm(1, outputs))
            layers.append(nn.LeakyReLU(SLOPE))
            if resolution == config.attention:
                layers.append(self._attention(outputs))
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.features = self._normalised(nn.Conv2d(inputs, inputs, 4))
        self.score = self._normalised(nn.Linear(inputs, 1))
        self.projection = self._normalised(nn.Linear(config.c_dim, inputs, bias=False)) if config.c_dim else None

    def forward(self, pictures: Tensor, c: Tensor | None = None) -> Tensor:
        features = functional.leaky_relu(self.features(self.layers(pictures)), SLOPE).flatten(1).float()
        scores: Tensor = self.score(features).squeeze(1)
        if self.projection is not None:
            scores = scores + (self.projection(c) * features).sum(dim=1)
        return scores

    def _attention(self, channels: int) -> SelfAttention:
        attention = SelfAttention(channels)
        for convolution in (attention.query, attention.key, attention.value, attention.output):
            self._normalised(convolution)
        return attention

    def _normalised(self, layer: Layer) -> Layer:
        if self.spectral:
            spectral_norm(layer)
        return layer


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, c: Tensor | None, rng: torch.Generator) -> Tensor:
    """E(|∇D(x)| − 1)² at points x between pictures and fakes of the same classes, [N, C, R, R] both.

    Gulrajani et al. 2017, "Improved training of Wasserstein GANs", eq. 3.
    """
    blend = torch.rand(len(real), 1, 1, 1, generator=rng).to(real.device)
    between = real.detach().lerp(fake.detach(), blend).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between, c).sum(), between, create_graph=True)
    penalty: Tensor = (gradient.flatten(1).norm(dim=1) - 1.0).square().mean()
    return penalty
