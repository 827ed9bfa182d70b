"""Small image-to-image models, and pictures for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from impasto.export.publish_family import publish_family
from impasto.generators.families import family_of
from impasto.generators.residual import ResidualConfig
from impasto.generators.spade import SPADEConfig
from impasto.images.pixels import Bytes
from tests.support.published import published

TINY_RESIDUAL = ResidualConfig(channels=4, blocks=1)
TINY_SPADE = SPADEConfig(classes=5, channels=4, ups=2, hidden=8, z_dim=3)
TINY: dict[str, Any] = {"residual": TINY_RESIDUAL, "spade": TINY_SPADE}
PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (20, 30, 40), (255, 255, 255))


def random_model(family: str, config: Any) -> Any:
    """A generator whose pictures have the usual range, with biases and stored statistics that show."""
    torch.manual_seed(0)
    module = family_of(family).build(config).eval().requires_grad_(False)
    for name, tensor in module.named_parameters():
        tensor.normal_(std=0.3) if tensor.ndim == 1 else tensor.normal_(std=tensor[0].numel() ** -0.5)
        if family == "residual" and tensor.ndim == 4:
            _smooth(tensor, transposed=name.startswith("up") and not config.resizes)
    for name, tensor in module.named_buffers():
        if name.startswith("palette"):
            tensor.copy_(torch.tensor(PALETTE))
        else:
            tensor.uniform_(0.5, 1.5)
    return module


def _smooth(kernel: torch.Tensor, *, transposed: bool) -> None:
    """Make a convolution blur somewhat, so that a seam would show in its pictures; a transposed one interpolates."""
    one_tap = kernel.mean(dim=(2, 3), keepdim=True) * kernel[0, 0].numel() ** 0.5
    tent = torch.tensor([0.5, 1.0, 0.5])
    kernel.mul_(0.6).add_(0.4 * one_tap * (tent[:, None] * tent if transposed else torch.ones(kernel.shape[2:])))


def write_tiny_model(models: Path, family: str) -> Path:
    """The bundle of TINY's model of that family, of the same name, with tiles of 64 pixels that overlap by half."""
    config = TINY[family]

    def publish(to: Path) -> Path:
        weights = random_model(family, config).state_dict()
        return publish_family(family, config, weights, family, to, defaults={"tile": 64, "overlap": 32})

    return published(models, family, "1", config, publish)


def scene(width: int, height: int) -> Bytes:
    """A picture with something of every size in it: a slope of colour, discs, and grain."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    slope = np.stack([80 + 90 * x / width, 120 - 60 * y / height, 60 + 100 * y / height], axis=-1)
    rng = np.random.default_rng(0)
    for _ in range(width * height // 500):
        centre, radius, colour = rng.uniform(0, (width, height)), rng.uniform(3, 14), rng.uniform(0, 255, 3)
        slope[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = colour
    pixels: Bytes = np.clip(slope + rng.normal(0, 8, slope.shape), 0, 255).astype(np.uint8)
    return pixels


def label_map(width: int, height: int) -> Bytes:
    """Patches of all classes in the colours of PALETTE."""
    patches = np.random.default_rng(0).integers(0, len(PALETTE), (height // 11 + 1, width // 11 + 1))
    labels = patches.repeat(11, axis=0).repeat(11, axis=1)[:height, :width]
    return np.array(PALETTE, np.uint8)[labels]
