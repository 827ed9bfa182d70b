"""What a server says about its models."""

from __future__ import annotations

import dataclasses

from impasto.api.impasto.v1 import models_pb2 as pb
from impasto.api.inference import grpc_service_pb2 as inference_pb

_STATE_PREFIX = "MODEL_STATE_"


@dataclasses.dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model of a server. `state` is unloaded, loading, ready, unloading or failed, the last with its `reason`.

    `class_names` are those of its classes, by their index; none where it has no names for them.
    """

    name: str
    version: str
    state: str
    reason: str
    family: str
    digest: str
    width: int
    height: int
    z_dim: int
    w_dim: int
    num_ws: int
    num_classes: int
    buckets: tuple[int, ...]
    backend: str
    device: str
    licence: str
    class_names: tuple[str, ...]


def read_model(message: pb.Model) -> ModelInfo:
    """The message as a plain object."""
    return ModelInfo(
        name=message.name,
        version=message.version,
        state=pb.ModelState.Name(message.state).removeprefix(_STATE_PREFIX).lower(),
        reason=message.reason,
        family=message.family,
        digest=message.digest,
        width=message.width,
        height=message.height,
        z_dim=message.z_dim,
        w_dim=message.w_dim,
        num_ws=message.num_ws,
        num_classes=message.num_classes,
        buckets=tuple(message.buckets),
        backend=message.backend,
        device=message.device,
        licence=message.licence,
        class_names=tuple(message.class_names),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class ModelInput:
    """What a model takes: dtype as the Open Inference Protocol writes it, and shape, in which -1 is free."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def read_inputs(message: inference_pb.ModelMetadataResponse) -> tuple[ModelInput, ...]:
    """The inputs in the message as plain objects."""
    return tuple(ModelInput(each.name, each.datatype, tuple(each.shape)) for each in message.inputs)
