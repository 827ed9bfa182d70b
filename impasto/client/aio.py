"""The asynchronous client: the same calls as the synchronous one, on an event loop."""

# ruff: noqa: ASYNC109  (timeouts go to the server as the deadline of the call, and bound its retries)

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc

from impasto.api.impasto.v1 import models_pb2
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.api.impasto.v1.models_pb2_grpc import ModelServiceStub
from impasto.api.inference import grpc_service_pb2 as inference_pb
from impasto.api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from impasto.client.aio_session import AsyncSession
from impasto.client.channel import Tls, channel_options, check_address
from impasto.client.frames import Frames
from impasto.client.messages import HEALTH_CHECK, HEALTH_REQUEST, HEALTH_SERVING, generate_request, read_pictures
from impasto.client.models import ModelInfo, ModelInput, read_inputs, read_model
from impasto.client.retry import DEFAULT_RETRIES, Retries, RetryPolicy
from impasto.client.statuses import error_of
from impasto.client.stream import StreamReader
from impasto.errors import DeadlineExceeded, Unavailable
from impasto.events import Event, Finished, OnProgress
from impasto.generation import Parameters, generation
from impasto.images import Picture

T = TypeVar("T")
_HEALTH_POLL = 0.2


class AsyncClient:
    """As `impasto.Client`, with coroutines. Make and use it on one event loop; cancelling a call cancels it there."""

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | None = None,
        timeout: float | None = None,
        retries: RetryPolicy = DEFAULT_RETRIES,
    ) -> None:
        self.target = check_address(target)
        self._timeout = timeout
        self._policy = retries
        options = channel_options(tls)
        if tls:
            self._channel = grpc.aio.secure_channel(target, tls.credentials(), options)
        else:
            self._channel = grpc.aio.insecure_channel(target, options)
        self._generation = GenerationServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)
        self._inference = GRPCInferenceServiceStub(self._channel)

    async def generate(
        self,
        model: str,
        *,
        version: str = "",
        priority: int = 0,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
        **parameters: Unpack[Parameters],
    ) -> list[Picture]:
        """See `Client.generate`."""
        if on_progress is not None:
            pictures: dict[int, Picture] = {}
            events = self.generate_stream(model, version=version, priority=priority, timeout=timeout, **parameters)
            async for event in events:
                if isinstance(event, Finished):
                    pictures[event.index] = event.picture
                on_progress(event)
            return [pictures[index] for index in sorted(pictures)]
        request = generate_request(model, version, priority, generation(**parameters))
        return read_pictures(await self._call(lambda left: self._generation.Generate(request, timeout=left), timeout))

    async def generate_stream(
        self,
        model: str,
        *,
        version: str = "",
        priority: int = 0,
        timeout: float | None = None,
        **parameters: Unpack[Parameters],
    ) -> AsyncIterator[Event]:
        """See `Client.generate_stream`."""
        wanted = generation(**parameters)
        request = generate_request(model, version, priority, wanted)
        retries = self._retries(timeout)
        while True:
            started = False
            call = self._generation.GenerateStream(request, timeout=retries.remaining())
            reader = StreamReader(wanted.count)
            try:
                async for message in call:
                    started = True
                    if (event := reader.read(message)) is not None:
                        yield event
                reader.end()
                return
            except grpc.aio.AioRpcError as status:
                error = error_of(status, self.target)
                if started:
                    raise error from status
                delay = retries.delay_after(error)
            finally:
                call.cancel()
            await asyncio.sleep(delay)

    def explore(
        self, model: str, *, version: str = "", priority: int = 0, timeout: float | None = None
    ) -> AsyncSession:
        """See `Client.explore`."""
        frames = Frames(model, version, priority, self.target)
        return AsyncSession(self._generation.Explore, frames, self.target, timeout)

    async def models(self) -> list[ModelInfo]:
        """See `Client.models`."""
        request = models_pb2.ListModelsRequest()
        reply = await self._call(lambda left: self._models.ListModels(request, timeout=left))
        return [read_model(model) for model in reply.models]

    async def model(self, name: str, version: str = "") -> ModelInfo:
        """See `Client.model`."""
        request = models_pb2.GetModelRequest(name=name, version=version)
        return read_model(await self._call(lambda left: self._models.GetModel(request, timeout=left)))

    async def inputs(self, name: str, version: str = "") -> tuple[ModelInput, ...]:
        """See `Client.inputs`."""
        request = inference_pb.ModelMetadataRequest(name=name, version=version)
        return read_inputs(await self._call(lambda left: self._inference.ModelMetadata(request, timeout=left)))

    async def load_model(self, name: str, version: str = "") -> ModelInfo:
        """See `Client.load_model`."""
        request = models_pb2.LoadModelRequest(name=name, version=version)
        return read_model(await self._call(lambda left: self._models.LoadModel(request, timeout=left)))

    async def unload_model(self, name: str, version: str = "") -> None:
        """See `Client.unload_model`."""
        request = models_pb2.UnloadModelRequest(name=name, version=version)
        await self._call(lambda left: self._models.UnloadModel(request, timeout=left))

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """See `Client.wait_until_ready`."""
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(HEALTH_CHECK)
        retries = Retries(DEFAULT_RETRIES, timeout)
        state = "no answer"
        while left := retries.remaining():
            try:
                if await check(HEALTH_REQUEST, timeout=min(left, 5.0)) == HEALTH_SERVING:
                    return
                state = "not serving yet"
            except grpc.aio.AioRpcError as status:
                error = error_of(status, self.target)
                if not isinstance(error, Unavailable | DeadlineExceeded):
                    raise error from status
                state = str(error)
            await asyncio.sleep(min(_HEALTH_POLL, retries.remaining() or 0.0))
        raise DeadlineExceeded(f"{self.target}: not ready after {timeout:g} s: {state}")

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, attempt: Callable[[float | None], Awaitable[T]], timeout: float | None = None) -> T:
        retries = self._retries(timeout)
        while True:
            try:
                return await attempt(retries.remaining())
            except grpc.aio.AioRpcError as status:
                delay = retries.delay_after(error_of(status, self.target))
            await asyncio.sleep(delay)

    def _retries(self, timeout: float | None) -> Retries:
        return Retries(self._policy, self._timeout if timeout is None else timeout)
