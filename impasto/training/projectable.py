"""The generators that a picture can be projected into, as differentiable functions of a latent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from impasto.engine.layer_noise import Noise
from impasto.engine.torch import load_generator
from impasto.errors import InvalidRequest
from impasto.export.bundle import WEIGHTS, Bundle, Manifest
from impasto.generation import NOISE_MODES, NoiseMode
from impasto.generators.families import FAMILIES, family_of
from impasto.generators.mapped_config import MappedConfig
from impasto.generators.stylegan2 import Mapping
from impasto.generators.stylegan3 import StyleGAN3
from impasto.generators.stylegan3_config import StyleGAN3Config
from impasto.generators.stylegan3_transform import picture_transform

SAMPLES = 1024
"""Of w, for its mean and spread."""


@dataclasses.dataclass(frozen=True, eq=False)
class Projectable:
    """`pictures` makes [1, 3, H, W] of a latent and of noise, shaped as `start` [1, …] and `noise` (None: it has none).

    `name` is the keyword of `generate` that the latent goes to, `spread` its standard deviation, and `noise` what
    `generate` uses beside it, [1, noise_size]; `noise_sides` are the sides of the maps in it.
    """

    manifest: Manifest
    name: Literal["ws", "z"]
    start: Tensor
    spread: float
    pictures: Callable[[Tensor, Tensor | None], Tensor]
    noise: Tensor | None = None
    noise_sides: tuple[int, ...] = ()


def open_projectable(bundle: Bundle, noise_mode: NoiseMode | None = None, label: int | None = None) -> Projectable:
    """A StyleGAN's styles, one for each layer, or the z of another model that makes pictures of seeds, at psi 1.

    InvalidRequest if the model has no such latent, noise or class.
    """
    family = bundle.manifest.family
    if family == "stylegan2":
        return _stylegan2(bundle, noise_mode, label)
    if noise_mode is not None:
        raise InvalidRequest("noise", noise_mode, "nothing; this model has no noise")
    if family == "stylegan3":
        return _stylegan3(bundle, label)
    inputs = {spec.name for spec in bundle.manifest.inputs}
    if FAMILIES.get(family) == "latent" and {"seed", "z"} <= inputs:
        return _of_family(bundle, label)
    raise InvalidRequest("model", f"one of the family {family}", "a StyleGAN, GAN or VAE")


def _stylegan2(bundle: Bundle, noise_mode: NoiseMode | None, label: int | None) -> Projectable:
    generator = load_generator(bundle)
    mode = noise_mode or bundle.manifest.defaults.get("noise_mode", "const")
    if mode not in NOISE_MODES:
        raise InvalidRequest("noise", mode, f"one of {', '.join(NOISE_MODES)}")
    start, spread = _styles(generator.mapping, generator.config, label)
    stored = generator.synthesis.constant_noise().numpy()
    return Projectable(
        bundle.manifest,
        "ws",
        start,
        spread,
        generator.synthesis,
        # Of the seed 0, which `generate` takes where it gets no seed.
        torch.from_numpy(Noise((mode,), (0,), stored).rows()),
        generator.config.noise_shapes,
    )


def _stylegan3(bundle: Bundle, label: int | None) -> Projectable:
    generator = StyleGAN3(StyleGAN3Config(**bundle.manifest.config))
    generator.load_state_dict({key: value.float() for key, value in load_file(bundle.path / WEIGHTS).items()})
    generator.eval().requires_grad_(False)
    start, spread = _styles(generator.mapping, generator.config, label)
    transform = torch.from_numpy(picture_transform())[None]
    return Projectable(bundle.manifest, "ws", start, spread, lambda ws, noise: generator.synthesis(ws, transform))


def _of_family(bundle: Bundle, label: int | None) -> Projectable:
    family = family_of(bundle.manifest.family)
    generator = family.load(family.config(**bundle.manifest.config), load_file(bundle.path / WEIGHTS))
    graph = family.graphs(generator)["decoder"]
    shapes = {spec.name: spec.shape for spec in bundle.manifest.inputs}
    given = _class_vector(shapes.get("c", (-1, 0))[1], label)
    inputs = {} if given is None else {"c": given}
    start = torch.zeros(1, shapes["z"][1])
    return Projectable(bundle.manifest, "z", start, 1.0, lambda z, noise: graph.module(z=z, **inputs))


@torch.no_grad()
def _styles(mapping: Mapping, config: MappedConfig, label: int | None) -> tuple[Tensor, float]:
    """The mean of w for each layer, [1, num_ws, w_dim], and the standard deviation of one of its values."""
    z = torch.from_numpy(np.random.RandomState(0).randn(SAMPLES, config.z_dim)).float()
    vector = _class_vector(config.c_dim, label)
    w = mapping(z, None if vector is None else vector.expand(SAMPLES, -1))
    mean = w.mean(dim=0)
    return mean.expand(1, config.num_ws, -1).clone(), float((w - mean).square().mean().sqrt())


def _class_vector(classes: int, label: int | None) -> Tensor | None:
    """One-hot [1, classes], class 0 unless there is a label; None of a model without classes."""
    if not classes:
        if label is not None:
            raise InvalidRequest("label", label, "nothing; this model is not conditional")
        return None
    if label is not None and not 0 <= label < classes:
        raise InvalidRequest("label", label, f"an integer from 0 to {classes - 1}")
    return nn.functional.one_hot(torch.tensor([label or 0]), classes).float()
