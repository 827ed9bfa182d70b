"""From a ModelInferRequest to the pictures to make. What only the engine knows, its `check` refuses afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from impasto.api.inference.grpc_service_pb2 import InferParameter, ModelInferRequest
from impasto.engine.picture import NOISE_MODES, NoiseMode, PictureRequest, check_seed
from impasto.errors import InvalidRequest
from impasto.export.bundle import Manifest
from impasto.server.tensors import read_inputs

SOURCES = ("seed", "z", "ws")
"""Inputs that a picture can be made from; a request has one of them."""
Row = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Parameters:
    """A request's parameters: 0 and None are the defaults; `timeout` is in seconds."""

    noise_mode: NoiseMode | None = None
    psi_cutoff: int | None = None
    priority: int = 0
    timeout: float | None = None


def picture_requests(
    message: ModelInferRequest, parameters: Parameters, manifest: Manifest, max_pictures: int
) -> list[PictureRequest]:
    """One request a row. InvalidRequest names the first tensor that is wrong, what was found and what is allowed."""
    arrays = read_inputs(message, manifest.inputs, max_pictures)
    _check_exclusive(arrays, [spec.name for spec in manifest.inputs])
    return [
        PictureRequest(
            cutoff=parameters.psi_cutoff,
            noise_mode=parameters.noise_mode,
            **{name: _VALUES[name](f"inputs.{name}[{index}]", array[index]) for name, array in arrays.items()},
        )
        for index in range(len(next(iter(arrays.values()))))
    ]


def read_parameters(parameters: Mapping[str, InferParameter]) -> Parameters:
    """The request's parameters. InvalidRequest for one that there is not, or that has another type."""
    values = {name: _parameter(name, parameter) for name, parameter in parameters.items()}
    timeout = values.pop("timeout", 0)
    return Parameters(timeout=timeout / 1e6 if timeout else None, **values)


def _check_exclusive(arrays: Mapping[str, Row], known: list[str]) -> None:
    sources = [name for name in SOURCES if name in known]
    given = [name for name in sources if name in arrays]
    if len(given) != 1:
        allowed = f"exactly one of {', '.join(sources)}" if len(sources) > 1 else sources[0]
        raise InvalidRequest("inputs", " and ".join(given) or f"none of {', '.join(sources)}", allowed)
    if "label" in arrays and "c" in arrays:
        raise InvalidRequest("inputs", "label and c", "one of them")


def _seed(field: str, row: Row) -> int:
    seed = int(row[0])
    check_seed(field, seed)
    return seed


_VALUES: Mapping[str, Callable[[str, Row], Any]] = {
    "seed": _seed,
    "z": lambda _, row: row,
    "ws": lambda _, row: row,
    "label": lambda _, row: int(row[0]),
    "c": lambda _, row: row,
    "psi": lambda _, row: float(row[0]),
}


def _parameter(name: str, parameter: InferParameter) -> Any:
    field = f"parameters.{name}"
    choice = parameter.WhichOneof("parameter_choice")
    value: Any = getattr(parameter, choice) if choice else None
    if name == "noise_mode":
        if value not in NOISE_MODES:
            raise InvalidRequest(field, value, f"a string, one of {', '.join(NOISE_MODES)}")
    elif name in ("psi_cutoff", "priority", "timeout"):
        if choice not in ("int64_param", "uint64_param") or value < 0:
            raise InvalidRequest(field, value, "an integer of 0 or more")
    else:
        raise InvalidRequest("parameters", name, "noise_mode, psi_cutoff, priority, timeout")
    return value
