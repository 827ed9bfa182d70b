"""The latent space of a model: what a seed is there, and how `generate` is asked for a point of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from impasto.errors import InvalidRequest
from impasto.generation import Parameters
from impasto.images.pixels import Floats
from impasto.kernels import philox

FIRST_NOISE = 1
"""Row of the counter that a diffusion model's first noise is drawn from."""


class Input(Protocol):
    """An input as a manifest names it; the first axis of its shape is the batch."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclasses.dataclass(frozen=True)
class Space:
    """`of_seed` gives the point that a picture of that seed is made from; `parameters` those of points' pictures."""

    of_seed: Callable[[int], Floats]
    parameters: Callable[[Sequence[Floats]], Parameters]

    @classmethod
    def z(cls, z_dim: int) -> Space:
        """Where RandomState(seed).randn(1, z_dim) is a seed's latent."""

        def of_seed(seed: int) -> Floats:
            return np.asarray(np.random.RandomState(seed).randn(1, z_dim)[0], np.float32)

        return cls(of_seed, lambda points: {"z": np.stack(points)})

    @classmethod
    def noise(cls, shape: tuple[int, ...], seed: int) -> Space:
        """That of a diffusion model's first noise [C, h, w]; what it draws later is drawn from `seed`."""

        def of_seed(own: int) -> Floats:
            return philox.normal(own, math.prod(shape), row=FIRST_NOISE).reshape(shape)

        return cls(of_seed, lambda points: {"seeds": [seed] * len(points), "latent": np.stack(points)})

    @classmethod
    def ws(cls, of_seed: Callable[[int], Floats]) -> Space:
        """The styles [num_ws, w_dim] that `of_seed` maps a seed to."""
        return cls(of_seed, lambda points: {"ws": np.stack(points)})

    @classmethod
    def of_inputs(cls, inputs: Iterable[Input], seed: int) -> Space:
        """That of a model with these inputs; `seed` is that of the walk. InvalidRequest if it takes no latent."""
        shapes = {each.name: each.shape for each in inputs}
        if {"seed", "z"} <= shapes.keys():
            return cls.z(math.prod(shapes["z"][1:]))
        if "latent" in shapes:
            return cls.noise(shapes["latent"][1:], seed)
        raise InvalidRequest("model", "one that no seed has a latent of", "a model that takes seeds, and z or a latent")
