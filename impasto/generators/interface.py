"""What a request to a model may hold and what comes back, as a family states it. Needs no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Spec:
    """An input or output: dtype as the Open Inference Protocol writes it, shape with -1 for what is free, meaning."""

    name: str
    dtype: Literal["BYTES", "FP32", "INT32", "INT64", "UINT8"]
    shape: tuple[int, ...]
    meaning: str


@dataclasses.dataclass(frozen=True)
class Interface:
    """What a model takes and gives, the size of its pictures in pixels (the usual one), and a request's defaults."""

    width: int
    height: int
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)


SEED = Spec("seed", "INT64", (-1, 1), "z = RandomState(seed).randn(1, z_dim)")
PSI = Spec("psi", "FP32", (-1, 1), "what z is multiplied by: 1 as drawn, 0 the average picture")


def latent(z_dim: int, meaning: str = "latent, standard normal") -> Spec:
    """z of so many numbers."""
    return Spec("z", "FP32", (-1, z_dim), meaning)


def classes(c_dim: int) -> tuple[Spec, ...]:
    """A class of a conditional model; nothing of an unconditional one, with c_dim 0."""
    if not c_dim:
        return ()
    return (
        Spec("label", "INT64", (-1, 1), "class index"),
        Spec("c", "FP32", (-1, c_dim), "class vector"),
    )


def input_pictures(width: int, height: int) -> tuple[Spec, ...]:
    """A picture to be made again, another one, and how far to go from the one to the other."""
    shape = (-1, height, width, 3)
    return (
        Spec("image", "UINT8", shape, "picture to encode, instead of a latent"),
        Spec("image_to", "UINT8", shape, "second picture, between which and the first the latent is interpolated"),
        Spec("blend", "FP32", (-1, 1), "0 the first picture, 1 the second"),
    )


def free_pictures() -> tuple[Spec, ...]:
    """The same of pictures that have the size of the one they were made from."""
    return output_pictures(-1, -1)


def output_pictures(width: int, height: int) -> tuple[Spec, ...]:
    """The picture as bytes and as floats."""
    return (
        Spec("image", "UINT8", (-1, height, width, 3), "clamp(127.5·image_float + 128)"),
        Spec("image_float", "FP32", (-1, 3, height, width), "nominally in [-1, 1], not clamped"),
    )
