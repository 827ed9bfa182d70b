"""Generators with weights drawn at random, every one of which shows in the picture."""

from __future__ import annotations

import dataclasses

import torch

from impasto.generators.stylegan2 import StyleGAN2
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.generators.stylegan3 import StyleGAN3
from impasto.generators.stylegan3_config import StyleGAN3Config

TINY = StyleGAN2Config(resolution=8, z_dim=4, w_dim=4, mapping_layers=2, channel_base=32, channel_max=4)
TINY3 = StyleGAN3Config(16, z_dim=8, w_dim=8, channel_base=128, channel_max=8, num_layers=4)
TINY3_R = dataclasses.replace(TINY3, conv_kernel=1, radial_filters=True)


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


def random_stylegan3(config: StyleGAN3Config, seed: int = 0) -> StyleGAN3:
    """A generator with pictures of the usual range; its pose, biases, magnitudes and mean of w are not trivial."""
    torch.manual_seed(seed)
    generator = StyleGAN3(config).eval().requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.startswith("mapping.fc") and name.endswith("bias"):
            parameter.normal_(std=0.1 / config.mapping_lr_multiplier)
        elif name.endswith("bias"):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        elif name == "synthesis.input.affine.weight":
            parameter.normal_(std=0.2)
    for layer in generator.synthesis.layers:
        layer.magnitude_ema.fill_(0.5).add_(torch.rand([]))
    generator.synthesis.get_submodule(config.layers[-1].name).get_parameter("weight").mul_(4.0)
    generator.mapping.w_avg.normal_(std=0.3)
    return generator
