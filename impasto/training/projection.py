"""Projection: the latent from which a generator makes a given picture, found by gradient descent.

After Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN", §5 and appendix D: Adam from the mean
of w, with noise on w that fades and a learning rate that rises and falls. The distance is that of the pixels at several
scales, which needs no other network, and each layer gets a style of its own (Abdal et al. 2019, "Image2StyleGAN").
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from impasto.errors import InvalidRequest
from impasto.images.pixels import Bytes, Floats, to_float, to_uint8
from impasto.training.projectable import Projectable

MAX_STEPS = 100_000
WARM_UP, COOL_DOWN = 0.05, 0.3
"""Parts of the run in which the learning rate rises and falls."""
FADED = 0.5
"""Part of the run after which there is no noise on the latent."""
SMALLEST = 4
"""Side of the coarsest view that pictures are compared in."""
SMALLEST_NOISE = 8
"""Side of the coarsest view of a noise map that is held to be noise."""


@dataclasses.dataclass(frozen=True)
class ProjectionPlan:
    """`learning_rate` and `exploration` (noise on the latent) are in standard deviations of the latent.

    With `find_noise` the noise maps are found too, at `noise_rate` in theirs, and `noise_weight` is the weight of their
    being noise.
    """

    steps: int = 300
    learning_rate: float = 0.2
    exploration: float = 0.5
    find_noise: bool = False
    noise_rate: float = 0.5
    noise_weight: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MAX_STEPS:
            raise InvalidRequest("steps", self.steps, f"1 to {MAX_STEPS}")


@dataclasses.dataclass(frozen=True)
class Progress:
    """`step` of `steps` is done; `psnr` in dB is that of its picture."""

    step: int
    steps: int
    psnr: float


@dataclasses.dataclass(frozen=True, eq=False)
class Projection:
    """The latent as `generate` takes it, and the picture [H, W, 3] that it makes; `psnr` in dB.

    `start` is the picture that the search began at; `noise` [noise_size] are the maps of all layers where they were to
    be found.
    """

    latent: Floats
    picture: Bytes
    start: Bytes
    psnr: float
    noise: Floats | None


def project(
    model: Projectable,
    picture: Bytes,
    plan: ProjectionPlan,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Projection:
    """Find the picture, uint8 [H, W, 3] of the model's size (see `fitted`). The same arguments find the same.

    `report` is called after every step. InvalidRequest if the picture has another size, or if the model has no noise
    that could be found.
    """
    target = torch.from_numpy(to_float(picture))[None]
    if picture.shape != (model.manifest.height, model.manifest.width, 3):
        allowed = f"{model.manifest.width}×{model.manifest.height}"
        raise InvalidRequest("picture", f"{picture.shape[1]}×{picture.shape[0]} pixels", allowed)
    if plan.find_noise and model.noise is None:
        raise InvalidRequest("find_noise", True, "nothing; this model has no noise")
    rng = torch.Generator().manual_seed(plan.seed)
    offset = torch.zeros_like(model.start, requires_grad=True)
    noise, learnt = model.noise, [{"params": [offset], "peak": plan.learning_rate}]
    if plan.find_noise:
        assert model.noise is not None
        # From none: strokes that random noise has put in a place keep it.
        noise = torch.zeros_like(model.noise, requires_grad=True)
        learnt.append({"params": [noise], "peak": plan.noise_rate})
    optimiser = torch.optim.Adam(learnt)
    for step in range(plan.steps):
        done = step / plan.steps
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * _ramp(done, 1.0 / plan.steps)
        jitter = plan.exploration * max(0.0, 1.0 - done / FADED) ** 2
        latent = offset + jitter * torch.randn(offset.shape, generator=rng)
        made = model.pictures(model.start + model.spread * latent, noise)
        loss = picture_distance(made, target)
        if plan.find_noise and noise is not None:
            loss = loss + plan.noise_weight * noise_regularity(noise, model.noise_sides)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        report(Progress(step + 1, plan.steps, psnr(to_uint8(made[0].detach().numpy()), picture)))
    return _found(model, offset.detach(), noise, picture, plan)


def fitted(picture: Image.Image, width: int, height: int) -> Bytes:
    """The middle of a picture, scaled to the size, as uint8 [H, W, 3]; a picture of that size as it is."""
    if picture.size == (width, height):
        return np.asarray(picture.convert("RGB"))
    return np.asarray(ImageOps.fit(picture.convert("RGB"), (width, height), Image.Resampling.LANCZOS))


def picture_distance(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared differences of pictures [N, 3, H, W], summed over views of halved sides down to SMALLEST."""
    distance = functional.mse_loss(made, wanted)
    while min(made.shape[2:]) // 2 >= SMALLEST:
        made, wanted = functional.avg_pool2d(made, 2), functional.avg_pool2d(wanted, 2)
        distance = distance + functional.mse_loss(made, wanted)
    return distance


def noise_regularity(noise: Tensor, sides: tuple[int, ...]) -> Tensor:
    """How far noise [1, noise_size] is from noise: the squared mean products of each map's neighbours.

    Summed over rows and columns, and views of halved sides down to SMALLEST_NOISE (Karras et al. 2020, appendix D).
    """
    total = noise.new_zeros(())
    for values in _maps(noise, sides):
        view = values
        while True:
            for axis in (2, 3):
                total = total + (view * view.roll(1, axis)).mean().square()
            if view.shape[-1] <= SMALLEST_NOISE:
                break
            # Twice the mean of four has the variance of one.
            view = 2.0 * functional.avg_pool2d(view, 2)
    return total


def psnr(found: Bytes, wanted: Bytes) -> float:
    """10·log₁₀(255² / mean squared difference) in dB; infinite for equal pictures."""
    error = float(np.mean(np.square(found.astype(np.float64) - wanted)))
    return math.inf if error == 0.0 else 10.0 * math.log10(255.0**2 / error)


def _found(
    model: Projectable, offset: Tensor, noise: Tensor | None, picture: Bytes, plan: ProjectionPlan
) -> Projection:
    with torch.no_grad():
        latent = model.start + model.spread * offset
        start, array = (to_uint8(model.pictures(each, noise)[0].numpy()) for each in (model.start, latent))
    maps = noise[0].detach().numpy() if plan.find_noise and noise is not None else None
    return Projection(latent[0].numpy(), array, start, psnr(array, picture), maps)


def _ramp(done: float, least: float) -> float:
    """The learning rate's part of its height: a line up, then level, then a cosine down."""
    down = min(1.0, (1.0 - done) / COOL_DOWN)
    return min(1.0, done / WARM_UP + least) * (0.5 - 0.5 * math.cos(math.pi * down))


def _maps(noise: Tensor, sides: tuple[int, ...]) -> list[Tensor]:
    """Views [1, 1, R, R] of each map in noise [1, noise_size]."""
    parts = torch.split(noise, [side * side for side in sides], dim=1)
    return [part.view(1, 1, side, side) for part, side in zip(parts, sides, strict=True)]
