"""Requests into messages, replies into pictures. Pure functions, shared by both clients."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.denoising import Denoising, NoiseSource
from impasto.errors import InternalError, InvalidRequest
from impasto.events import Done
from impasto.generation import Generation, NoiseMode, OutputFormat
from impasto.images import FileFormat, Picture, encode
from impasto.images.pixels import Bytes, Floats

# The health protocol's Check: an empty request means the whole server, and this reply that it serves. Two constants
# instead of a package that would have to be installed for them.
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_REQUEST = b""
HEALTH_SERVING = b"\x08\x01"

_FORMATS: dict[OutputFormat, pb.ImageFormat.ValueType] = {
    "uint8": pb.IMAGE_FORMAT_RAW_UINT8,
    "float32": pb.IMAGE_FORMAT_RAW_FLOAT32,
    "png": pb.IMAGE_FORMAT_PNG,
    "jpeg": pb.IMAGE_FORMAT_JPEG,
    "webp": pb.IMAGE_FORMAT_WEBP,
}
_FILE_FORMATS: dict[pb.ImageFormat.ValueType, FileFormat] = {
    pb.IMAGE_FORMAT_PNG: "png",
    pb.IMAGE_FORMAT_JPEG: "jpeg",
    pb.IMAGE_FORMAT_WEBP: "webp",
}
_NOISE_MODES: dict[NoiseMode | None, pb.NoiseMode.ValueType] = {
    None: pb.NOISE_MODE_UNSPECIFIED,
    "const": pb.NOISE_MODE_CONST,
    "random": pb.NOISE_MODE_RANDOM,
    "none": pb.NOISE_MODE_NONE,
}
_NOISE_SOURCES: dict[NoiseSource | None, pb.NoiseSource.ValueType] = {
    None: pb.NOISE_SOURCE_UNSPECIFIED,
    "impasto": pb.NOISE_SOURCE_IMPASTO,
    "torch": pb.NOISE_SOURCE_TORCH,
}


def generate_request(model: str, version: str, priority: int, wanted: Generation) -> pb.GenerateRequest:
    """The message that asks for these pictures. InvalidRequest names a field that fits no message."""
    try:
        request = pb.GenerateRequest(
            model=model,
            version=version,
            seeds=wanted.seeds,
            z=_latents(wanted.z),
            ws=_latents(wanted.ws),
            codes=() if wanted.codes is None else [pb.Codes(values=row.ravel()) for row in wanted.codes],
            label=wanted.label,
            class_vector=None if wanted.class_vector is None else pb.Latent(values=wanted.class_vector),
            psi=wanted.psi,
            psi_cutoff=wanted.psi_cutoff,
            noise_mode=_NOISE_MODES[wanted.noise_mode],
            format=_FORMATS[wanted.format],
            quality=wanted.quality,
            priority=priority,
            rotation=wanted.rotation,
            translation=None if wanted.translation is None else _translation(wanted.translation),
            image=_file(wanted.image),
            image_to=_file(wanted.image_to),
            blend=wanted.blend,
            denoising=None if wanted.denoising is None else _denoising(wanted.denoising),
        )
        if wanted.style_mix is not None:
            seed, first, last = wanted.style_mix
            request.style_mix.CopyFrom(pb.StyleMix(seed=seed, first_layer=first, last_layer=last))
    except ValueError as error:
        raise InvalidRequest("request", str(error), "numbers that fit their fields") from error
    return request


def read_pictures(reply: pb.GenerateResponse) -> list[Picture]:
    """The pictures of a whole reply."""
    return [read_picture(picture, bytearray(picture.data)) for picture in reply.pictures]


def read_picture(message: pb.Picture, data: bytearray) -> Picture:
    """A picture from its message and its bytes, which it keeps. InternalError if the two do not fit."""
    metadata = _metadata(message.metadata)
    if message.format == pb.IMAGE_FORMAT_RAW_UINT8:
        shape: tuple[int, ...] = (message.height, message.width, 3)
        return Picture(metadata, array=np.frombuffer(_sized(data, shape, 1), np.uint8).reshape(shape))
    if message.format == pb.IMAGE_FORMAT_RAW_FLOAT32:
        shape = (3, message.height, message.width)
        image_float: Floats = np.frombuffer(_sized(data, shape, 4), "<f4").reshape(shape)
        return Picture(metadata, image_float=image_float)
    if message.format in _FILE_FORMATS:
        return Picture(metadata, encoded=bytes(data), format=_FILE_FORMATS[message.format])
    raise InternalError(f"reply: found a picture of format {message.format}; this client knows {sorted(_FORMATS)}")


def read_timing(message: pb.Timing) -> Done:
    """The timing that ends a stream."""
    return Done(message.queue_ms, message.execute_ms, message.encode_ms, tuple(message.batch_sizes))


def _translation(wanted: tuple[float, float]) -> pb.Translation:
    x, y = wanted
    return pb.Translation(x=x, y=y)


def _denoising(wanted: Denoising) -> pb.Denoising:
    return pb.Denoising(
        prompt=wanted.prompt,
        negative_prompt=wanted.negative_prompt,
        steps=wanted.steps,
        sampler=wanted.sampler,
        eta=wanted.eta,
        guidance_scale=wanted.guidance_scale,
        guidance_rescale=wanted.guidance_rescale,
        width=wanted.width,
        height=wanted.height,
        strength=wanted.strength,
        mask=_file(wanted.mask),
        latent=_latents(wanted.latent),
        noise=_NOISE_SOURCES[wanted.noise],
        preview_every=wanted.preview_every,
    )


def _file(pixels: Bytes | None) -> bytes | None:
    """A file from which the server reads the same pixels."""
    return None if pixels is None else encode(pixels, "png", {})


def _latents(rows: Floats | None) -> list[pb.Latent]:
    return [] if rows is None else [pb.Latent(values=row.ravel()) for row in rows]


def _metadata(text: str) -> dict[str, Any]:
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise InternalError(f"reply: a picture's metadata is no JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise InternalError("reply: a picture's metadata is no JSON object")
    return metadata


def _sized(data: bytearray, shape: tuple[int, ...], item_size: int) -> bytearray:
    expected = int(np.prod(shape, dtype=np.int64)) * item_size
    if len(data) != expected:
        raise InternalError(f"reply: found {len(data)} bytes of picture; {list(shape)} takes {expected}")
    return data
