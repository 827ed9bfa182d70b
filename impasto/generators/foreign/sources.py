"""Named tensors as a file has them, and a network's state dict once every one of them is checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from impasto.errors import CheckpointError
from impasto.generators.foreign.plain_values import shown
from impasto.generators.foreign.torch_archive import StoredTensor

MAX_WIDTH = 2**15
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

Sources = Mapping[str, StoredTensor | Tensor]
Config = TypeVar("Config")


def stated_config(kind: type[Config], values: Mapping[str, object]) -> Config:
    """The config of hyperparameters that a file states; CheckpointError names one that is unknown or out of range.

    `kind` is a dataclass whose fields are of the types int, bool, float (then positive) and `float | None`.
    """
    known = {field.name: field.type for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # any dataclass
    for name, value in values.items():
        if name not in known:
            raise CheckpointError(f"found the hyperparameter {shown(name)}; allowed are {', '.join(sorted(known))}")
        _check_value(name, value, str(known[name]))
    numbers: dict[str, Any] = dict(values)
    required = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in numbers]:
        raise CheckpointError(f"found hyperparameters without {', '.join(missing)}")
    try:
        return kind(**numbers)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def take_state(network: nn.Module, sources: Sources, file_bytes: int) -> dict[str, Tensor]:
    """The state dict of `network`, which is on the meta device, in float32.

    CheckpointError names what is missing, too much or wrong.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    _refuse("tensors are missing", [name for name in expected if name not in sources])
    _refuse(f"tensors are unknown to {type(network).__name__}", [name for name in sources if name not in expected])
    for name, allowed in expected.items():
        source = sources[name]
        if tuple(source.shape) != allowed:
            raise CheckpointError(f"{name}: found the shape {list(source.shape)}; allowed is {list(allowed)}")
        if source.dtype not in FLOATS:
            raise CheckpointError(f"{name}: found {source.dtype}; allowed are floating-point numbers")
    stored = [source for source in sources.values() if isinstance(source, StoredTensor)]
    if sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in stored) > file_bytes:
        raise CheckpointError("found tensors that share their numbers: together they are larger than the file")
    return {name: _read(name, sources[name]) for name in expected}


def shape_of(sources: Sources, name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there, with so many dimensions."""
    if name not in sources:
        raise CheckpointError(f"{name}: found none; such a generator has it")
    shape = tuple(sources[name].shape)
    if len(shape) != rank:
        raise CheckpointError(f"{name}: found the shape {list(shape)}; allowed are {rank} dimensions")
    return shape


def check_width(*features: int) -> None:
    """Refuse a layer of more than MAX_WIDTH features."""
    if (widest := max(features)) > MAX_WIDTH:
        raise CheckpointError(f"found a layer of {widest} features; allowed are {MAX_WIDTH}")


def _check_value(name: str, value: object, kind: str) -> None:
    if kind == "bool":
        if not isinstance(value, bool):
            raise CheckpointError(f"{name}: found {shown(value)}; allowed is True or False")
    elif kind == "int":
        if type(value) is not int or not 0 <= value < 2**31:
            raise CheckpointError(f"{name}: found {shown(value)}; allowed is an integer, 0 or more")
    else:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
        if not number and not (value is None and kind == "float | None"):
            raise CheckpointError(f"{name}: found {shown(value)}; allowed is a positive number")


def _refuse(fault: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise CheckpointError(f"{fault}: {', '.join(shown(name) for name in sorted(names)[:3])}{more}")


def _read(name: str, source: StoredTensor | Tensor) -> Tensor:
    tensor = (source.read() if isinstance(source, StoredTensor) else source).float().contiguous()
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{name}: found NaN or infinite numbers; allowed are finite ones")
    return tensor
