"""Adaptive discriminator augmentation, light: differentiable colour changes and shifts (Karras et al. 2020, ADA)."""

from __future__ import annotations

import torch
from torch import Tensor

TARGET = 0.6
MAX_PROBABILITY = 0.7


def augment(pictures: Tensor, probability: float, rng: torch.Generator) -> Tensor:
    """Change brightness, contrast, saturation and position of pictures [N, 3, H, W], each with `probability`."""
    if probability <= 0.0:
        return pictures
    n, _, height, width = pictures.shape

    def amount(scale: float) -> Tensor:
        chosen = torch.rand(n, 1, 1, 1, generator=rng) < probability
        return torch.where(chosen, torch.randn(n, 1, 1, 1, generator=rng) * scale, torch.zeros(()))

    pictures = pictures + amount(0.2)
    pictures = pictures * torch.exp2(amount(0.4))
    grey = pictures.mean(dim=1, keepdim=True)
    pictures = grey + (pictures - grey) * torch.exp2(amount(0.6))
    reach = width // 8
    padded = torch.nn.functional.pad(pictures, (reach, reach, reach, reach), mode="reflect")
    shifted = []
    for index in range(n):
        top, left = reach, reach
        if torch.rand((), generator=rng) < probability:
            top, left = torch.randint(0, 2 * reach + 1, (2,), generator=rng).tolist()
        shifted.append(padded[index, :, top : top + height, left : left + width])
    return torch.stack(shifted)


def adapt(probability: float, real_sign: float, pictures: int, *, horizon: int = 100_000) -> float:
    """The next probability: up while the discriminator's mean sign on real pictures exceeds TARGET, else down.

    `pictures` were seen since the last change; from 0 to 1 takes `horizon` pictures.
    """
    step = pictures / horizon if real_sign > TARGET else -pictures / horizon
    return min(max(probability + step, 0.0), MAX_PROBABILITY)
