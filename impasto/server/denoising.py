"""From a Denoising message to the parameters of diffusion. What only the engine knows, its `check` refuses later."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.denoising import Denoising, NoiseSource
from impasto.engine.sizes import Size, Sizes
from impasto.errors import InvalidRequest
from impasto.export.bundle import Manifest
from impasto.images.pixels import Bytes, Floats
from impasto.server.pictures import read_picture

_NOISE_SOURCES: dict[int, NoiseSource] = {pb.NOISE_SOURCE_IMPASTO: "impasto", pb.NOISE_SOURCE_TORCH: "torch"}


def read_denoising(
    message: pb.Denoising, image: Bytes | None, manifest: Manifest, pictures: int
) -> list[Denoising] | None:
    """One for each of the pictures that start from `image`; None if no field is set.

    InvalidRequest names the first field that is wrong.
    """
    given: dict[str, Any] = {descriptor.name: value for descriptor, value in message.ListFields()}
    if "noise" in given:
        given["noise"] = _noise(message.noise)
    sizes = Sizes.of(manifest)
    if "mask" in given:
        given["mask"] = read_picture("denoising.mask", given["mask"], manifest)
    if not given:
        return None
    wanted = Denoising(**given | {"latent": None})
    try:
        sizes.check_sides(wanted)
        if message.latent:
            wanted = dataclasses.replace(
                wanted, latent=_latents(message, manifest, sizes.asked(wanted, image), pictures)
            )
        wanted.check(image)
        return wanted.split(pictures)
    except InvalidRequest as error:
        raise error.renamed(f"denoising.{error.field}") from None


def _noise(source: int) -> NoiseSource:
    if source not in _NOISE_SOURCES:
        raise InvalidRequest("denoising.noise", source, ", ".join(pb.NoiseSource.keys()))
    return _NOISE_SOURCES[source]


def _latents(message: pb.Denoising, manifest: Manifest, size: Size, pictures: int) -> Floats:
    """float32 [N, C, h, w] for pictures of that size. Lengths are checked before anything of that length is made."""
    usual = next((spec.shape[1:] for spec in manifest.inputs if spec.name == "latent"), None)
    if usual is None:
        raise InvalidRequest("latent", f"{len(message.latent)} latents", "nothing; this model takes none")
    if len(message.latent) > pictures:
        raise InvalidRequest("latent", f"{len(message.latent)} latents", f"at most one a picture, {pictures}")
    shape = Sizes.of(manifest).latent(usual, size)
    for latent in message.latent:
        if len(latent.values) != math.prod(shape):
            written = " · ".join(map(str, shape))
            raise InvalidRequest("latent", f"{len(latent.values)} values", f"C · h · w = {written} values")
    return np.array([latent.values for latent in message.latent], np.float32).reshape(-1, *shape)
