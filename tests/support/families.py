"""Small generators of the families that one file each describes, with weights every one of which shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from impasto.export.publish_family import publish_family
from impasto.generators.families import family_of
from impasto.generators.gan import GANConfig
from impasto.generators.vae import VAEConfig
from impasto.generators.vq import VQConfig

TINY_GAN = GANConfig(16, z_dim=8, c_dim=3, channel_base=8, attention=8)
TINY_VAE = VAEConfig(16, latent_channels=2, latent_side=8, channel_base=8)
TINY_VQ = VQConfig(16, latent_channels=4, latent_side=8, channel_base=8, codes=16)
TINY: dict[str, Any] = {"gan": TINY_GAN, "vae": TINY_VAE, "vq": TINY_VQ}


def random_module(family: str, config: Any, seed: int = 0) -> Any:
    """A generator with pictures of the usual range, whose gains, biases and stored statistics are not trivial."""
    torch.manual_seed(seed)
    module: nn.Module = family_of(family).build(config).eval().requires_grad_(False)
    for name, tensor in module.named_parameters():
        if tensor.ndim == 4:
            # Of a transposed convolution, a place gets a quarter of the taps of each input, but for the first.
            inputs = tensor[:, 0].numel() / 4 if family == "gan" else tensor[0].numel()
            tensor.normal_(std=2.0 * inputs**-0.5)
        elif name != "codebook":
            tensor.add_(torch.randn_like(tensor), alpha=0.3)
    for tensor in module.buffers():
        tensor.add_(torch.rand_like(tensor))
    return module


def write_tiny_family(models: Path, family: str) -> Path:
    """The bundle of TINY's model of that family, of the same name."""
    config = TINY[family]
    return publish_family(family, config, random_module(family, config).state_dict(), family, models)
