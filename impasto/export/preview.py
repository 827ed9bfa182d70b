"""A cheap look at a latent: one matrix that turns its channels into colours, fitted to the model's own decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SAMPLES = 8
FIELD_SIDES = (2, 4, 8)
NOISE = 0.3


@torch.inference_mode()
def fit_preview(decoder: nn.Module, latent: tuple[int, int, int]) -> dict[str, list[object]]:
    """`matrix` [C, 3] and `bias` [3] for colours = latent·matrix + bias at each place, by least squares.

    Held against are the decoder's pictures, clamped to [-1, 1] and averaged over each place's pixels, of smooth random
    latents of unit variance: with no pictures at hand, those are the nearest to what a sampler ends with.
    """
    generator = torch.Generator().manual_seed(0)
    rows, colours = [], []
    for sample in range(SAMPLES):
        drawn = _smooth(latent, FIELD_SIDES[sample % len(FIELD_SIDES)], generator)
        picture: Tensor = decoder(drawn).clamp(-1.0, 1.0)
        rows.append(drawn[0].flatten(1).T)
        colours.append(nn.functional.adaptive_avg_pool2d(picture, latent[1:])[0].flatten(1).T)
    wide = torch.cat(rows).double()
    wide = torch.cat([wide, torch.ones(len(wide), 1, dtype=torch.float64)], dim=1)
    fitted = torch.linalg.lstsq(wide, torch.cat(colours).double()).solution
    rounded = [[round(value, 6) for value in row] for row in fitted.tolist()]
    return {"matrix": rounded[:-1], "bias": rounded[-1]}


def _smooth(latent: tuple[int, int, int], side: int, generator: torch.Generator) -> Tensor:
    """Broad patches with some noise, [1, C, h, w], of unit variance."""
    coarse = torch.randn(1, latent[0], side, side, generator=generator)
    broad = nn.functional.interpolate(coarse, size=latent[1:], mode="bilinear")
    noisy = broad + NOISE * torch.randn(1, *latent, generator=generator)
    return noisy / noisy.std()
