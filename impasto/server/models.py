"""ModelService: which models there are, loading and unloading them."""

from __future__ import annotations

from typing import Any

import grpc

from impasto.api.impasto.v1 import models_pb2 as pb
from impasto.api.impasto.v1 import models_pb2_grpc
from impasto.server.host import ModelHost, ModelState, ModelStatus
from impasto.server.requests import check_model

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = pb.DESCRIPTOR.services_by_name["ModelService"].full_name
_STATES = {
    ModelState.UNLOADED: pb.MODEL_STATE_UNLOADED,
    ModelState.LOADING: pb.MODEL_STATE_LOADING,
    ModelState.READY: pb.MODEL_STATE_READY,
    ModelState.UNLOADING: pb.MODEL_STATE_UNLOADING,
    ModelState.FAILED: pb.MODEL_STATE_FAILED,
}


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """Tells of the host's models, and has it load and unload them."""

    def __init__(self, host: ModelHost) -> None:
        self._host = host

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=map(_message, self._host.list()))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        check_model(request.name, request.version)
        return _message(self._host.status(request.name, request.version))

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.Model:
        check_model(request.name, request.version)
        model = await self._host.load(request.name, request.version)
        return _message(self._host.status(model.name, model.version))

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        check_model(request.name, request.version)
        await self._host.unload(request.name, request.version)
        return pb.UnloadModelResponse()


def _message(status: ModelStatus) -> pb.Model:
    message = pb.Model(name=status.name, version=status.version, state=_STATES[status.state], reason=status.reason)
    manifest = status.manifest
    if manifest is None:
        return message
    shapes = {spec.name: spec.shape for spec in manifest.inputs}
    num_ws, w_dim = shapes.get("ws", (-1, 0, 0))[1:]
    message.MergeFrom(
        pb.Model(
            family=manifest.family,
            digest=manifest.digest,
            width=manifest.width,
            height=manifest.height,
            z_dim=shapes.get("z", (-1, 0))[1],
            w_dim=w_dim,
            num_ws=num_ws,
            num_classes=manifest.num_classes,
            buckets=manifest.buckets,
            licence=manifest.licence,
            class_names=manifest.class_names,
        )
    )
    if status.loaded:
        message.backend = status.loaded.engine.backend
        message.device = status.loaded.engine.device
    return message
