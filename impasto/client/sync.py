"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc

from impasto.api.impasto.v1 import models_pb2
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.api.impasto.v1.models_pb2_grpc import ModelServiceStub
from impasto.api.inference import grpc_service_pb2 as inference_pb
from impasto.api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from impasto.client.channel import Tls, channel_options, check_address
from impasto.client.frames import Frames
from impasto.client.messages import HEALTH_CHECK, HEALTH_REQUEST, HEALTH_SERVING, generate_request, read_pictures
from impasto.client.models import ModelInfo, ModelInput, read_inputs, read_model
from impasto.client.retry import DEFAULT_RETRIES, Retries, RetryPolicy
from impasto.client.session import Session
from impasto.client.statuses import error_of
from impasto.client.stream import StreamReader
from impasto.errors import DeadlineExceeded, Unavailable
from impasto.events import Event, Finished, OnProgress
from impasto.generation import Parameters, generation
from impasto.images import Picture

T = TypeVar("T")
_HEALTH_POLL = 0.2


class Client:
    """A connection to a server at `target`, "host:port". May be used from several threads at once.

    `timeout` in seconds bounds each call and its retries, unless the call has its own; None: no limit. Every method
    raises the errors of `impasto.errors`; Unavailable and QueueFull only after the tries of `retries`.
    """

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
            self._channel = grpc.secure_channel(target, tls.credentials(), options)
        else:
            self._channel = grpc.insecure_channel(target, options)
        self._generation = GenerationServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)
        self._inference = GRPCInferenceServiceStub(self._channel)

    def generate(
        self,
        model: str,
        *,
        version: str = "",
        priority: int = 0,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
        **parameters: Unpack[Parameters],
    ) -> list[Picture]:
        """Make pictures with a loaded model; the keywords are those of `impasto.generation.Parameters`.

        `priority` 1 is the most urgent, 0 the server's default. With `on_progress` the pictures come as a stream, and
        it is called with every event of `impasto.events` as it arrives.
        """
        if on_progress is not None:
            pictures: dict[int, Picture] = {}
            for event in self.generate_stream(model, version=version, priority=priority, timeout=timeout, **parameters):
                if isinstance(event, Finished):
                    pictures[event.index] = event.picture
                on_progress(event)
            return [pictures[index] for index in sorted(pictures)]
        request = generate_request(model, version, priority, generation(**parameters))
        return read_pictures(self._call(lambda left: self._generation.Generate(request, timeout=left), timeout))

    def generate_stream(
        self,
        model: str,
        *,
        version: str = "",
        priority: int = 0,
        timeout: float | None = None,
        **parameters: Unpack[Parameters],
    ) -> Iterator[Event]:
        """As `generate`, but each event as it arrives, pictures in the order they are done. Closing it cancels.

        Tried again only while nothing has arrived.
        """
        wanted = generation(**parameters)
        request = generate_request(model, version, priority, wanted)
        retries = self._retries(timeout)
        while True:
            started = False
            call = self._generation.GenerateStream(request, timeout=retries.remaining())
            reader = StreamReader(wanted.count)
            try:
                for message in call:
                    started = True
                    if (event := reader.read(message)) is not None:
                        yield event
                reader.end()
                return
            except grpc.RpcError as status:
                error = error_of(status, self.target)
                if started:
                    raise error from status
                delay = retries.delay_after(error)
            finally:
                call.cancel()
            time.sleep(delay)

    def explore(self, model: str, *, version: str = "", priority: int = 0, timeout: float | None = None) -> Session:
        """A session for interactive use: send parameters as they change, and take frames; see `Session`.

        `timeout` in seconds bounds the whole session; None: no limit, whatever the client's own. Nothing is tried
        again.
        """
        frames = Frames(model, version, priority, self.target)
        return Session(self._generation.Explore, frames, self.target, timeout)

    def models(self) -> list[ModelInfo]:
        """All models of the server, loaded or not."""
        request = models_pb2.ListModelsRequest()
        reply = self._call(lambda left: self._models.ListModels(request, timeout=left))
        return [read_model(model) for model in reply.models]

    def model(self, name: str, version: str = "") -> ModelInfo:
        """One model; ModelNotFound lists those there are."""
        request = models_pb2.GetModelRequest(name=name, version=version)
        return read_model(self._call(lambda left: self._models.GetModel(request, timeout=left)))

    def inputs(self, name: str, version: str = "") -> tuple[ModelInput, ...]:
        """What a loaded model takes: seed, z, latent, image and so on, as its bundle's manifest lists them."""
        request = inference_pb.ModelMetadataRequest(name=name, version=version)
        return read_inputs(self._call(lambda left: self._inference.ModelMetadata(request, timeout=left)))

    def load_model(self, name: str, version: str = "") -> ModelInfo:
        """Load or reload a model; returns when it is warm."""
        request = models_pb2.LoadModelRequest(name=name, version=version)
        return read_model(self._call(lambda left: self._models.LoadModel(request, timeout=left)))

    def unload_model(self, name: str, version: str = "") -> None:
        """Unload a model once what it has accepted is done."""
        request = models_pb2.UnloadModelRequest(name=name, version=version)
        self._call(lambda left: self._models.UnloadModel(request, timeout=left))

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return once the server answers and all its models are warm. DeadlineExceeded after `timeout` seconds."""
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(HEALTH_CHECK)
        retries = Retries(DEFAULT_RETRIES, timeout)
        state = "no answer"
        while left := retries.remaining():
            try:
                if check(HEALTH_REQUEST, timeout=min(left, 5.0)) == HEALTH_SERVING:
                    return
                state = "not serving yet"
            except grpc.RpcError as status:
                error = error_of(status, self.target)
                if not isinstance(error, Unavailable | DeadlineExceeded):
                    raise error from status
                state = str(error)
            time.sleep(min(_HEALTH_POLL, retries.remaining() or 0.0))
        raise DeadlineExceeded(f"{self.target}: not ready after {timeout:g} s: {state}")

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, attempt: Callable[[float | None], T], timeout: float | None = None) -> T:
        """Try with the seconds that are left, until it succeeds or `Retries` gives up."""
        retries = self._retries(timeout)
        while True:
            try:
                return attempt(retries.remaining())
            except grpc.RpcError as status:
                delay = retries.delay_after(error_of(status, self.target))
            time.sleep(delay)

    def _retries(self, timeout: float | None) -> Retries:
        return Retries(self._policy, self._timeout if timeout is None else timeout)
