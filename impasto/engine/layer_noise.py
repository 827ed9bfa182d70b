"""The noise of a StyleGAN2's layers in a batch: what each row asks for, and the values where a backend wants them."""

from __future__ import annotations

import dataclasses

import numpy as np

from impasto.generation import NoiseMode
from impasto.images.pixels import Floats
from impasto.kernels import philox


@dataclasses.dataclass(frozen=True, eq=False)
class Noise:
    """Row n is `stored` [noise_size] where `modes[n]` is "const", drawn from `seeds[n]` if "random", zero if "none"."""

    modes: tuple[NoiseMode, ...]
    seeds: tuple[int, ...]
    stored: Floats

    def rows(self) -> Floats:
        """The values, [N, noise_size]; not to be written to."""
        if self.modes == ("const",):
            return self.stored[None]
        rows = np.zeros((len(self.modes), len(self.stored)), np.float32)
        for row, mode, seed in zip(rows, self.modes, self.seeds, strict=True):
            if mode == "const":
                row[:] = self.stored
            elif mode == "random":
                row[:] = philox.normal(seed, len(row))
        return rows
