"""Folders of small textures, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from impasto.images.pixels import Bytes


def texture(seed: int, period: float, side: int = 48) -> Bytes:
    """Waves of a period in pixels, of chance direction, phase and colour, under a little noise."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[:side, :side]
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + phase)
    colours = 128 + wave[..., None] * rng.uniform(40, 80, 3) + 6 * rng.randn(side, side, 3)
    return np.clip(colours, 0, 255).astype(np.uint8)


def write_textures(folder: Path, seeds: range, period: float, side: int = 48) -> Path:
    """A folder of textures, NNN.png by the seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        Image.fromarray(texture(seed, period, side)).save(folder / f"{seed:03}.png")
    return folder
