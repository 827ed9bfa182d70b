"""How a diffusion model is asked to make a picture: the same parameters in-process and over gRPC."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping
from typing import Any, Literal, TypedDict, get_args

import numpy as np
from numpy.typing import ArrayLike

from impasto.errors import InvalidRequest
from impasto.images.pixels import Bytes, Floats
from impasto.input_pictures import PictureLike, pixels_of

NoiseSource = Literal["impasto", "torch"]
NOISE_SOURCES: tuple[NoiseSource, ...] = get_args(NoiseSource)
MAX_STEPS = 1000
MAX_PROMPT = 10_000
MAX_GUIDANCE = 100.0
MAX_SIDE = 65_536


class DenoisingParameters(TypedDict, total=False):
    """The keywords of `generate` that only diffusion models take; what is left out has the model's default.

    prompt, negative_prompt: texts, of a model that has a text encoder.
    steps: 1 to 1000.  sampler: a name of `impasto.sampling.SAMPLERS`.  eta: of "ddim", 0 (the default) to 1.
    guidance_scale: classifier-free guidance, 1 none; guidance_rescale: 0 to 1, back to the unguided contrast.
    width, height: pixels, of models that make more sizes than their usual one; the image's where there is one.
    strength: how much of the image is made anew, above 0 to 1; mask: a picture, white where the image is made anew.
    latent: the noise to start from instead of the seed's, float32 [C, h, w] or [N, C, h, w], standard normal.
    noise: "impasto" (the same on every device and in every batch), or "torch": what diffusers makes of a seed.
    preview_every: a picture of how it looks so far every so many model calls, in the events; 0: none.
    """

    prompt: str | None
    negative_prompt: str | None
    steps: int | None
    sampler: str | None
    eta: float | None
    guidance_scale: float | None
    guidance_rescale: float | None
    width: int | None
    height: int | None
    strength: float | None
    mask: PictureLike | None
    latent: ArrayLike | None
    noise: NoiseSource | None
    preview_every: int


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Denoising:
    """The parameters in one form: pictures as uint8 [H, W, 3], latents float32 [N, C, h, w]; None: the default."""

    prompt: str | None = None
    negative_prompt: str | None = None
    steps: int | None = None
    sampler: str | None = None
    eta: float | None = None
    guidance_scale: float | None = None
    guidance_rescale: float | None = None
    width: int | None = None
    height: int | None = None
    strength: float | None = None
    mask: Bytes | None = None
    latent: Floats | None = None
    noise: NoiseSource | None = None
    preview_every: int = 0

    def check(self, image: Bytes | None) -> None:
        """InvalidRequest names the first field that no model takes beside this image."""
        for field in ("prompt", "negative_prompt"):
            text = getattr(self, field)
            if text is not None and len(text) > MAX_PROMPT:
                raise InvalidRequest(field, f"{len(text)} characters", f"at most {MAX_PROMPT}")
        if self.steps is not None and not 1 <= self.steps <= MAX_STEPS:
            raise InvalidRequest("steps", self.steps, f"1 to {MAX_STEPS}")
        _check_range("eta", self.eta, 0.0, 1.0)
        _check_range("guidance_scale", self.guidance_scale, 0.0, MAX_GUIDANCE)
        _check_range("guidance_rescale", self.guidance_rescale, 0.0, 1.0)
        _check_range("strength", self.strength, 0.0, 1.0)
        if self.strength == 0.0:
            raise InvalidRequest("strength", 0.0, "above 0, to 1")
        for field in ("width", "height"):
            side = getattr(self, field)
            if side is not None and not 1 <= side <= MAX_SIDE:
                raise InvalidRequest(field, side, f"1 to {MAX_SIDE}")
        if self.noise is not None and self.noise not in NOISE_SOURCES:
            raise InvalidRequest("noise", self.noise, f"one of {', '.join(NOISE_SOURCES)}")
        if not 0 <= self.preview_every <= MAX_STEPS:
            raise InvalidRequest("preview_every", self.preview_every, f"0 to {MAX_STEPS}")
        for field in ("strength", "mask"):
            if getattr(self, field) is not None and image is None:
                raise InvalidRequest(field, "it without an image", "it beside an image")
        if self.latent is not None and not np.isfinite(self.latent).all():
            raise InvalidRequest("latent", "NaN or infinity", "finite numbers")

    def split(self, pictures: int) -> list[Denoising]:
        """One for each of the pictures, with its own latent [1, C, h, w] or the only one; InvalidRequest otherwise."""
        if self.latent is None or len(self.latent) == 1:
            return [self] * pictures
        if len(self.latent) != pictures:
            allowed = "one" if pictures == 1 else f"one for all, or one for each of {pictures} pictures"
            raise InvalidRequest("latent", f"{len(self.latent)} latents", allowed)
        return [dataclasses.replace(self, latent=row[None]) for row in self.latent]


def refuse_denoising(wanted: Denoising | None) -> None:
    """InvalidRequest names the first field that is set: for models that make a picture in one call."""
    for field in dataclasses.fields(Denoising) if wanted else ():
        value = getattr(wanted, field.name)
        if not (value is None or (isinstance(value, int) and value == field.default)):
            found = "one" if isinstance(value, np.ndarray) else value
            raise InvalidRequest(field.name, found, "nothing; this model makes a picture in one call")


def denoising(parameters: Mapping[str, Any], image: Bytes | None) -> Denoising | None:
    """Bring the keywords of DenoisingParameters beside that image into one form; None if there are none.

    InvalidRequest names the field.
    """
    given = {
        name: value
        for name, value in parameters.items()
        if name in DenoisingParameters.__annotations__ and value is not None
    }
    if not given:
        return None
    for name in ("steps", "width", "height", "preview_every"):
        if name in given:
            given[name] = _whole(name, given[name])
    for name in ("eta", "guidance_scale", "guidance_rescale", "strength"):
        if name in given:
            given[name] = _single(given[name])
    if "mask" in given:
        given["mask"] = pixels_of("mask", given["mask"])
    if "latent" in given:
        latent = np.asarray(given["latent"], np.float32, order="C")
        given["latent"] = latent[None] if latent.ndim == 3 else latent
        if given["latent"].ndim != 4:
            raise InvalidRequest("latent", f"shape {list(latent.shape)}", "[C, h, w] or [N, C, h, w]")
    wanted = Denoising(**given)
    wanted.check(image)
    return wanted


def _whole(field: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidRequest(field, value, "an integer") from None


def _single(value: float) -> float:
    """The value as a float32 has it, which is what a message carries."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _check_range(field: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        raise InvalidRequest(field, float(str(np.float32(value))), f"{low:g} to {high:g}")
