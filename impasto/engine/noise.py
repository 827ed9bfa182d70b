"""The noise of a diffusion request: ours, or what diffusers makes of the same seed."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from impasto.engine.picture import Floats
from impasto.errors import InvalidRequest
from impasto.kernels import philox

FIRST, POSTERIOR = 1, 2
"""Third word of the counter of what is drawn before the first step; the steps' own is 0."""


class NoiseStream(Protocol):
    """Standard normal noise of one request, float32 [C, h, w]."""

    def first(self, shape: tuple[int, ...]) -> Floats:
        """What the latent starts from."""

    def posterior(self, shape: tuple[int, ...]) -> Floats | None:
        """For the sample of an encoded image; None: take the mean."""

    def of_call(self, shape: tuple[int, ...]) -> Floats | None:
        """For the call that comes next; None: philox.normal of the seed and the call."""


class PhiloxNoise:
    """Counter-based: a number depends on nothing but the seed, the call and its index."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def first(self, shape: tuple[int, ...]) -> Floats:
        return philox.normal(self._seed, int(np.prod(shape)), row=FIRST).reshape(shape)

    def posterior(self, shape: tuple[int, ...]) -> Floats | None:
        return None

    def of_call(self, shape: tuple[int, ...]) -> Floats | None:
        return None


class TorchNoise:
    """What diffusers draws, in its order, with torch.Generator("cpu").manual_seed(seed) for each picture."""

    def __init__(self, seed: int) -> None:
        try:
            import torch
        except ImportError as error:
            raise InvalidRequest("noise", "torch", "impasto; torch is not installed where the model runs") from error
        self._torch = torch
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def first(self, shape: tuple[int, ...]) -> Floats:
        drawn: Floats = self._torch.randn((1, *shape), generator=self._generator)[0].numpy()
        return drawn

    posterior = first
    of_call = first
