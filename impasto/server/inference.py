"""The Open Inference Protocol v2: pictures as tensors, so that `tritonclient` and its tools work unchanged."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import grpc

import impasto
from impasto.api.inference import grpc_service_pb2 as pb
from impasto.engine.sizes import made_size
from impasto.errors import InvalidRequest, ModelNotFound, Unavailable
from impasto.server.config import ServerConfig
from impasto.server.host import LoadedModel, ModelHost, ModelState, ModelStatus
from impasto.server.inference_model import model_config, model_metadata, model_statistics
from impasto.server.inference_requests import picture_requests, read_parameters
from impasto.server.interceptor import Guard
from impasto.server.requests import check_model
from impasto.server.tensors import check_reply_size, encoder_of, reply_parts, requested_outputs
from impasto.server.wire import join

Context = grpc.aio.ServicerContext[Any, Any]

_SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
SERVICE = _SERVICE.full_name
EXTENSIONS = ("model_configuration", "model_repository", "parameters", "schedule_policy", "statistics")
_STATES = {
    ModelState.UNLOADED: "UNAVAILABLE",
    ModelState.LOADING: "LOADING",
    ModelState.READY: "READY",
    ModelState.UNLOADING: "UNLOADING",
    ModelState.FAILED: "UNAVAILABLE",
}


class InferenceService:
    """GRPCInferenceService over the host's models, with Triton's configuration, statistics and repository calls."""

    def __init__(self, host: ModelHost, config: ServerConfig) -> None:
        self._host = host
        self._config = config
        self._max_pictures = config.most_pictures

    def add_to(self, guard: Guard) -> None:
        """Register every method of the service; ModelInfer's replies are serialised already, see `wire`."""
        handlers = {}
        for method in _SERVICE.methods:
            request, response = getattr(pb, method.input_type.name), getattr(pb, method.output_type.name)
            serialise = None if method.name == "ModelInfer" else response.SerializeToString
            behaviour = getattr(self, method.name)
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(behaviour, request.FromString, serialise)
        guard.add_registered_method_handlers(SERVICE, handlers)

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._host.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        try:
            self._model(request.name, request.version)
        except (ModelNotFound, Unavailable):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="impasto", version=impasto.__version__, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        model = self._model(request.name, request.version)
        return model_metadata(model, [other.version for other in self._host.loaded(model.name)])

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        model = self._model(request.name, request.version)
        return pb.ModelConfigResponse(config=model_config(model, self._config))

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        if request.version:
            models = [self._model(request.name, request.version)]
        elif request.name:
            models = self._host.loaded(self._model(request.name, "").name)
        else:
            models = self._host.loaded()
        return pb.ModelStatisticsResponse(model_stats=map(model_statistics, models))

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> bytes:
        """A serialised ModelInferResponse."""
        model = self._model(request.model_name, request.model_version)
        manifest = model.engine.manifest
        parameters = read_parameters(request.parameters)
        outputs = requested_outputs(request, manifest.outputs)
        pictures = picture_requests(request, parameters, manifest, self._max_pictures)
        size = made_size(manifest, pictures[0].denoising, pictures[0].image)
        check_reply_size(outputs, size, len(pictures), self._config.limits)
        deadline = _deadline(context.time_remaining(), parameters.timeout)
        encoder = encoder_of(outputs)
        submitted = model.submit(
            pictures, priority=parameters.priority, deadline=deadline, encoder=encoder, described=False
        )
        with submitted as job:
            made = await job.all()
        header = pb.ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id)
        return await join(reply_parts(header, outputs, [item.pixels for item in made]))

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        _check_repository(request.repository_name)
        index = [_index(status) for status in self._host.list() if status.loaded or not request.ready]
        return pb.RepositoryIndexResponse(models=index)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        _check_repository(request.repository_name)
        _check_parameters(request.parameters, ())
        check_model(request.model_name, "")
        await self._host.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        _check_repository(request.repository_name)
        # Every tritonclient sends it; no model has dependents.
        _check_parameters(request.parameters, ("unload_dependents",))
        check_model(request.model_name, "")
        await self._host.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def _model(self, name: str, version: str) -> LoadedModel:
        check_model(name, version)
        return self._host.get(name, version)


def _deadline(remaining: float | None, timeout: float | None) -> float | None:
    """The earlier of the call's deadline and the request's timeout, of time.monotonic()."""
    limits = [seconds for seconds in (remaining, timeout) if seconds is not None]
    return time.monotonic() + min(limits) if limits else None


def _index(status: ModelStatus) -> pb.RepositoryIndexResponse.ModelIndex:
    reason = status.reason or ("unloaded" if status.state is ModelState.UNLOADED else "")
    return pb.RepositoryIndexResponse.ModelIndex(
        name=status.name, version=status.version, state=_STATES[status.state], reason=reason
    )


def _check_repository(name: str) -> None:
    if name:
        raise InvalidRequest("repository_name", name, "none: there is one repository")


def _check_parameters(given: Iterable[str], allowed: Iterable[str]) -> None:
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise InvalidRequest("parameters", ", ".join(unknown), ", ".join(allowed) or "none")
