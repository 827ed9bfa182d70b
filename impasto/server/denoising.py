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
from impasto.images import decode
from impasto.images.pixels import Bytes, Floats
from impasto.server.config import MEBIBYTE

_NOISE_SOURCES: dict[int, NoiseSource] = {pb.NOISE_SOURCE_IMPASTO: "impasto", pb.NOISE_SOURCE_TORCH: "torch"}
_BYTES_A_PIXEL = 8
"""Of the largest picture files: 16 bits in each of four channels."""


def read_denoising(message: pb.Denoising, manifest: Manifest, pictures: int) -> list[Denoising] | None:
    """One for each of the pictures; None if no field is set. InvalidRequest names the first field that is wrong."""
    given: dict[str, Any] = {descriptor.name: value for descriptor, value in message.ListFields()}
    if "noise" in given:
        given["noise"] = _noise(message.noise)
    sizes = Sizes.of(manifest)
    for field in ("image", "mask"):
        if field in given:
            given[field] = _pixels(f"denoising.{field}", given[field], sizes.most)
    if not given:
        return None
    wanted = Denoising(**given | {"latent": None})
    try:
        sizes.check_sides(wanted)
        if message.latent:
            wanted = dataclasses.replace(wanted, latent=_latents(message, manifest, sizes.asked(wanted), pictures))
        wanted.check()
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


def _pixels(field: str, file: bytes, largest: Size) -> Bytes:
    """uint8 [H, W, 3] of a file that can be no larger than the model's largest picture."""
    most = largest.width * largest.height
    if len(file) > most * _BYTES_A_PIXEL + MEBIBYTE:
        raise InvalidRequest(field, f"{len(file)} bytes", f"a file of at most {most * _BYTES_A_PIXEL + MEBIBYTE} bytes")
    try:
        return decode(file, most)
    except InvalidRequest as error:
        raise error.renamed(field) from error
