"""Generators with weights drawn at random, every one of which shows in the picture."""

from __future__ import annotations

import torch

from impasto.generators.stylegan2 import StyleGAN2
from impasto.generators.stylegan2_config import StyleGAN2Config

TINY = StyleGAN2Config(resolution=8, z_dim=4, w_dim=4, mapping_layers=2, channel_base=32, channel_max=4)


def random_generator(config: StyleGAN2Config, seed: int = 0) -> StyleGAN2:
    """A generator with pictures of the usual range; its biases, noise strengths and mean of w are not zero."""
    torch.manual_seed(seed)
    generator = StyleGAN2(config).eval().requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.2).mul_(torch.randn([]))
        elif name.endswith("bias"):
            lr = config.mapping_lr_multiplier if name.startswith("mapping.fc") else 1.0
            parameter.add_(torch.randn_like(parameter), alpha=0.1 / lr)
        elif name.endswith("torgb.weight"):
            parameter.mul_(0.5 / len(config.resolutions) ** 0.5)
    generator.mapping.w_avg.normal_(std=0.3)
    return generator
