"""From a GenerateRequest to the pictures to make. What only the engine knows, its `check` refuses afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.engine.picture import MAX_SEED, NoiseMode, PictureRequest, StyleMix, check_seed
from impasto.errors import InvalidRequest
from impasto.export.bundle import Manifest
from impasto.generation import IMAGE_SEED
from impasto.images.pixels import Floats
from impasto.server.denoising import read_denoising
from impasto.server.pictures import read_pictures

MAX_NAME = 100
MAX_VERSION = 9
MAX_PSI = 10.0

_LATENTS = ("seeds", "z", "ws", "codes")
_NOISE_MODES: dict[int, NoiseMode | None] = {
    pb.NOISE_MODE_UNSPECIFIED: None,
    pb.NOISE_MODE_CONST: "const",
    pb.NOISE_MODE_RANDOM: "random",
    pb.NOISE_MODE_NONE: "none",
}


def check_model(name: str, version: str) -> None:
    """Raise InvalidRequest unless these could be a model's name and version (empty: the highest)."""
    if not 0 < len(name) <= MAX_NAME:
        raise InvalidRequest("model", name, f"a name of 1 to {MAX_NAME} characters")
    if version and not (version.isascii() and version.isdigit() and len(version) <= MAX_VERSION):
        raise InvalidRequest("version", version, f"at most {MAX_VERSION} decimal digits; empty for the highest loaded")


def check_psi(field: str, psi: float) -> float:
    """The truncation psi as it stands. InvalidRequest unless it is finite and within ±MAX_PSI."""
    if not (math.isfinite(psi) and abs(psi) <= MAX_PSI):
        raise InvalidRequest(field, psi, f"a finite number from {-MAX_PSI:g} to {MAX_PSI:g}")
    return psi


def picture_requests(message: pb.GenerateRequest, manifest: Manifest, max_pictures: int) -> list[PictureRequest]:
    """One request a picture. InvalidRequest names the first field that is wrong."""
    given = [(name, len(entries)) for name in _LATENTS if (entries := getattr(message, name))]
    if not given and message.HasField("image"):
        message.seeds.append(IMAGE_SEED)
        given = [("seeds", 1)]
    if len(given) != 1:
        named = " and ".join(name for name, _ in given)
        raise InvalidRequest("seeds, z, ws", named or "none of them", "exactly one of them, not empty")
    field, entries = given[0]
    if entries > max_pictures:
        raise InvalidRequest(field, f"{entries} entries", _up_to(max_pictures))
    if message.HasField("count") and (field != "seeds" or entries != 1):
        raise InvalidRequest("count", f"{message.count} with {entries} {field}", "set only with exactly one seed")
    common = _common(message) | read_pictures(message, manifest)
    if field == "seeds":
        requests = [PictureRequest(seed, **common) for seed in _seeds(message, max_pictures)]
    elif field == "z":
        requests = [PictureRequest(z=_vector("z", latent), **common) for latent in message.z]
    elif field == "ws":
        requests = [PictureRequest(ws=_styles(latent, _shape("ws", manifest)), **common) for latent in message.ws]
    else:
        requests = [PictureRequest(codes=_codes(codes, _shape("codes", manifest)), **common) for codes in message.codes]
    if not message.HasField("denoising"):
        return requests
    wanted = read_denoising(message.denoising, requests[0].image, manifest, len(requests))
    if wanted is None:
        return requests
    return [replace(request, denoising=each) for request, each in zip(requests, wanted, strict=True)]


def _seeds(message: pb.GenerateRequest, max_pictures: int) -> Iterable[int]:
    for seed in message.seeds:
        check_seed("seeds", seed)
    if not message.HasField("count"):
        return message.seeds
    if not 1 <= message.count <= max_pictures:
        raise InvalidRequest("count", message.count, _up_to(max_pictures))
    first = message.seeds[0]
    if first + message.count - 1 > MAX_SEED:
        raise InvalidRequest("count", message.count, f"at most {MAX_SEED + 1 - first} from seed {first} on")
    return range(first, first + message.count)


def _up_to(most: int) -> str:
    return "1" if most == 1 else f"1 to {most}"


def _common(message: pb.GenerateRequest) -> dict[str, Any]:
    """What all pictures of a request share, as keywords of PictureRequest; only what was set."""
    common: dict[str, Any] = {}
    if message.noise_mode:
        if message.noise_mode not in _NOISE_MODES:
            raise InvalidRequest("noise_mode", message.noise_mode, ", ".join(pb.NoiseMode.keys()))
        common["noise_mode"] = _NOISE_MODES[message.noise_mode]
    if message.HasField("psi"):
        common["psi"] = check_psi("psi", message.psi)
    if message.HasField("psi_cutoff"):
        common["cutoff"] = message.psi_cutoff
    if message.HasField("label"):
        common["label"] = message.label
    if message.HasField("class_vector"):
        if "label" in common:
            raise InvalidRequest("class_vector", "it and label", "one of them")
        common["c"] = _vector("class_vector", message.class_vector)
    if message.HasField("style_mix"):
        mix = message.style_mix
        check_seed("style_mix.seed", mix.seed)
        common["mix"] = StyleMix(mix.seed, mix.first_layer, mix.last_layer)
    if message.HasField("rotation"):
        common["rotation"] = message.rotation
    if message.HasField("translation"):
        common["translation"] = (message.translation.x, message.translation.y)
    return common


def _vector(field: str, latent: pb.Latent) -> Floats:
    vector = np.array(latent.values, np.float32)
    if not np.isfinite(vector).all():
        raise InvalidRequest(field, f"{np.count_nonzero(~np.isfinite(vector))} NaN or infinite values", "finite values")
    return vector


def _shape(name: str, manifest: Manifest) -> Sequence[int] | None:
    """That of one row of an input, where the model has it."""
    return next((spec.shape[1:] for spec in manifest.inputs if spec.name == name), None)


def _codes(codes: pb.Codes, shape: Sequence[int] | None) -> NDArray[np.int64]:
    indices = np.array(codes.values, np.int64)
    if shape is None:
        return indices
    if indices.size != math.prod(shape):
        raise InvalidRequest("codes", f"{indices.size} values", f"h · w = {shape[0]} · {shape[1]} values")
    return indices.reshape(shape)


def _styles(latent: pb.Latent, shape: Sequence[int] | None) -> Floats:
    vector = _vector("ws", latent)
    if shape is None:
        return vector
    if vector.size != math.prod(shape):
        raise InvalidRequest("ws", f"{vector.size} values", f"num_ws · w_dim = {shape[0]} · {shape[1]} values")
    return vector.reshape(shape)
