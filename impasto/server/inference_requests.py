"""From a ModelInferRequest to the pictures to make. What only the engine knows, its `check` refuses afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from impasto.api.inference.grpc_service_pb2 import InferParameter, ModelInferRequest
from impasto.denoising import NOISE_SOURCES, Denoising, NoiseSource
from impasto.engine.picture import NOISE_MODES, NoiseMode, PictureRequest, check_seed
from impasto.errors import InvalidRequest
from impasto.export.bundle import Manifest
from impasto.generation import IMAGE_SEED
from impasto.input_pictures import check_pictures
from impasto.server.tensors import read_inputs

SOURCES = ("seed", "z", "ws", "codes")
"""Inputs that a picture can be made from; a request has one of them, or an image, which may go without."""
Row = NDArray[Any]


class Parameters(NamedTuple):
    """A request's parameters: 0 and None are the defaults; `timeout` is in seconds."""

    noise_mode: NoiseMode | None = None
    psi_cutoff: int | None = None
    eta: float | None = None
    guidance_rescale: float | None = None
    noise: NoiseSource | None = None
    priority: int = 0
    timeout: float | None = None


def picture_requests(
    message: ModelInferRequest, parameters: Parameters, manifest: Manifest, max_pictures: int
) -> list[PictureRequest]:
    """One request a row. InvalidRequest names the first tensor that is wrong, what was found and what is allowed."""
    arrays = read_inputs(message, manifest.inputs, max_pictures)
    common = {name: value for name in _COMMON if (value := getattr(parameters, name)) is not None}
    if not common and len(arrays) == 1 and "seed" in arrays:
        seeds = [_seed(f"inputs.seed[{index}]", row) for index, row in enumerate(arrays["seed"])]
        cutoff, noise_mode = parameters.psi_cutoff, parameters.noise_mode
        return [PictureRequest(seed, cutoff=cutoff, noise_mode=noise_mode) for seed in seeds]
    _check_exclusive(arrays, manifest)
    return [
        PictureRequest(
            cutoff=parameters.psi_cutoff,
            noise_mode=parameters.noise_mode,
            denoising=_denoising(arrays, index, common),
            **_of_a_picture(arrays, index),
        )
        for index in range(len(next(iter(arrays.values()))))
    ]


def read_parameters(parameters: Mapping[str, InferParameter]) -> Parameters:
    """The request's parameters. InvalidRequest for one that there is not, or that has another type."""
    if not parameters:
        return Parameters()
    values = {name: _parameter(name, parameter) for name, parameter in parameters.items()}
    timeout = values.pop("timeout", 0)
    return Parameters(timeout=timeout / 1e6 if timeout else None, **values)


def _check_exclusive(arrays: Mapping[str, Row], manifest: Manifest) -> None:
    given = [name for name in SOURCES if name in arrays]
    if len(given) > 1 or not (given or "image" in arrays):
        known = {spec.name for spec in manifest.inputs}
        sources = [name for name in (*SOURCES, "image") if name in known]
        allowed = f"exactly one of {', '.join(sources)}" if len(sources) > 1 else sources[0]
        raise InvalidRequest("inputs", " and ".join(given) or f"none of {', '.join(sources)}", allowed)
    if "label" in arrays and "c" in arrays:
        raise InvalidRequest("inputs", "label and c", "one of them")


def _values(readers: Readers, arrays: Mapping[str, Row], index: int) -> dict[str, Any]:
    """What a row of each of these tensors says, where the request has it."""
    return {
        name: readers[name](f"inputs.{name}[{index}]", rows[index]) for name, rows in arrays.items() if name in readers
    }


def _of_a_picture(arrays: Mapping[str, Row], index: int) -> dict[str, Any]:
    """What a row says but for diffusion, as keywords of PictureRequest."""
    rows = _values(_OF_A_PICTURE, arrays, index)
    try:
        check_pictures(rows.get("image"), rows.get("image_to"), rows.get("blend"))
    except InvalidRequest as error:
        raise error.renamed(f"inputs.{error.field}[{index}]") from None
    return rows if any(name in rows for name in SOURCES) else {"seed": IMAGE_SEED, **rows}


def _denoising(arrays: Mapping[str, Row], index: int, common: Mapping[str, Any]) -> Denoising | None:
    """What a row and the parameters ask of a diffusion model; None if nothing."""
    rows = _values(_OF_DENOISING, arrays, index)
    if not rows and not common:
        return None
    wanted = Denoising(**rows, **common)
    try:
        wanted.check(arrays["image"][index] if "image" in arrays else None)
    except InvalidRequest as error:
        at = f"inputs.{error.field}[{index}]" if error.field in rows else f"parameters.{error.field}"
        raise error.renamed(at) from None
    return wanted


def _seed(field: str, row: Row) -> int:
    seed = int(row[0])
    check_seed(field, seed)
    return seed


def _text(field: str, row: Row) -> str:
    element: bytes = row[0]
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(field, f"bytes with 0x{element[error.start]:02x} at {error.start}", "UTF-8 text") from None


Readers = Mapping[str, Callable[[str, Row], Any]]
_OF_A_PICTURE: Readers = {
    "seed": _seed,
    "z": lambda _, row: row,
    "ws": lambda _, row: row,
    "codes": lambda _, row: row,
    "label": lambda _, row: int(row[0]),
    "c": lambda _, row: row,
    "psi": lambda _, row: float(row[0]),
    "image": lambda _, row: row,
    "image_to": lambda _, row: row,
    "blend": lambda _, row: float(row[0]),
}
_OF_DENOISING: Readers = {
    "prompt": _text,
    "negative_prompt": _text,
    "latent": lambda _, row: row[None],
    "steps": lambda _, row: int(row[0]),
    "guidance_scale": lambda _, row: float(row[0]),
    "strength": lambda _, row: float(row[0]),
    "sampler": _text,
}
_COMMON = ("eta", "guidance_rescale", "noise")
"""Parameters of a request that belong to Denoising."""
_WORDS = {"noise_mode": NOISE_MODES, "noise": NOISE_SOURCES}
_WHOLE_NUMBERS = ("psi_cutoff", "priority", "timeout")
_NUMBERS = ("eta", "guidance_rescale")


def _parameter(name: str, parameter: InferParameter) -> Any:
    field = f"parameters.{name}"
    choice = parameter.WhichOneof("parameter_choice")
    value: Any = getattr(parameter, choice) if choice else None
    if words := _WORDS.get(name):
        if value not in words:
            raise InvalidRequest(field, value, f"a string, one of {', '.join(words)}")
    elif name in _WHOLE_NUMBERS:
        if choice not in ("int64_param", "uint64_param") or value < 0:
            raise InvalidRequest(field, value, "an integer of 0 or more")
    elif name in _NUMBERS:
        if choice not in ("double_param", "int64_param", "uint64_param"):
            raise InvalidRequest(field, value, "a number")
        # As a message of impasto.v1 carries it: the same pictures over both protocols.
        return float(np.float32(value))
    else:
        raise InvalidRequest("parameters", name, ", ".join(sorted([*_WORDS, *_WHOLE_NUMBERS, *_NUMBERS])))
    return value
