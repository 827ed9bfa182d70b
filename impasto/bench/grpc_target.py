"""A server over gRPC: Impasto's own service, or anything that speaks the Open Inference Protocol.

Requests are serialised here and sent as bytes, and of a reply only what is asked of it is read, so that the client
stays out of the measurement as far as it can.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, cast

import grpc
import numpy as np

from impasto.api.impasto.v1 import generation_pb2, models_pb2
from impasto.api.impasto.v1.models_pb2_grpc import ModelServiceStub
from impasto.api.inference import grpc_service_pb2 as oip
from impasto.api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from impasto.bench.processes import listeners
from impasto.bench.result import Model
from impasto.bench.result import Protocol as WireProtocol
from impasto.bench.target import Counters, Done, Reply
from impasto.bench.traffic import Order
from impasto.client.channel import channel_options
from impasto.client.messages import read_pictures
from impasto.client.statuses import error_of
from impasto.errors import ImpastoError, InternalError, InvalidRequest, ModelNotFound
from impasto.generation import NoiseMode
from impasto.images.pixels import Bytes

_NOISE: Mapping[NoiseMode | None, generation_pb2.NoiseMode.ValueType] = {
    None: generation_pb2.NOISE_MODE_UNSPECIFIED,
    "const": generation_pb2.NOISE_MODE_CONST,
    "random": generation_pb2.NOISE_MODE_RANDOM,
    "none": generation_pb2.NOISE_MODE_NONE,
}
SHORT = 10.0
"""Seconds for a call that makes no picture."""


class Wire(Protocol):
    """A protocol's way to ask for an order's pictures and to read the reply."""

    protocol: WireProtocol
    method: str

    def request(self, order: Order) -> bytes: ...

    def reply(self, data: bytes) -> Reply: ...

    def pictures(self, data: bytes) -> list[Bytes]: ...


class ImpastoWire:
    """`impasto.v1`: raw uint8 pictures; the reply tells of its stages."""

    protocol: WireProtocol = "impasto.v1"
    method = "/impasto.v1.GenerationService/Generate"

    def __init__(self, noise_mode: NoiseMode | None = None) -> None:
        self._noise_mode = _NOISE[noise_mode]

    def request(self, order: Order) -> bytes:
        entry = order.entry
        message = generation_pb2.GenerateRequest(
            model=entry.model,
            seeds=[order.seed],
            count=entry.batch if entry.batch > 1 else None,
            format=generation_pb2.IMAGE_FORMAT_RAW_UINT8,
            priority=entry.priority,
            noise_mode=self._noise_mode,
        )
        for name in ("steps", "width", "height"):
            if (value := getattr(entry, name)) is not None:
                setattr(message.denoising, name, value)
        return message.SerializeToString()

    def reply(self, data: bytes) -> Reply:
        message = generation_pb2.GenerateResponse.FromString(data)
        timing = message.timing
        stages = {"queue": timing.queue_ms, "execute": timing.execute_ms, "encode": timing.encode_ms}
        return Reply(len(message.pictures), stages)

    def pictures(self, data: bytes) -> list[Bytes]:
        return [picture.array for picture in read_pictures(generation_pb2.GenerateResponse.FromString(data))]


class InferenceWire:
    """The Open Inference Protocol: `seed` INT64 [N, 1] to `image` UINT8 [N, H, W, 3], in raw contents.

    `noise_mode` is sent as a request parameter, which other servers take no notice of.
    """

    protocol: WireProtocol = "open-inference"
    method = "/inference.GRPCInferenceService/ModelInfer"

    def __init__(self, noise_mode: NoiseMode | None = None) -> None:
        self._noise_mode = noise_mode

    def request(self, order: Order) -> bytes:
        entry, rows = order.entry, order.entry.batch
        if entry.width is not None or entry.height is not None:
            raise InvalidRequest("mix", "width or height", "neither over the Open Inference Protocol")
        message = oip.ModelInferRequest(model_name=entry.model)
        message.inputs.add(name="seed", datatype="INT64", shape=[rows, 1])
        message.raw_input_contents.append(np.array(order.seeds, "<i8").tobytes())
        if entry.steps is not None:
            message.inputs.add(name="steps", datatype="INT32", shape=[rows, 1])
            message.raw_input_contents.append(np.full(rows, entry.steps, "<i4").tobytes())
        if entry.priority:
            message.parameters["priority"].int64_param = entry.priority
        if self._noise_mode is not None:
            message.parameters["noise_mode"].string_param = self._noise_mode
        message.outputs.add(name="image")
        return message.SerializeToString()

    def reply(self, data: bytes) -> Reply:
        message = oip.ModelInferResponse.FromString(data)
        return Reply(int(message.outputs[0].shape[0]))

    def pictures(self, data: bytes) -> list[Bytes]:
        message = oip.ModelInferResponse.FromString(data)
        if not message.outputs or message.outputs[0].datatype != "UINT8":
            raise InternalError("reply: found no UINT8 image")
        shape, content = tuple(message.outputs[0].shape), message.raw_output_contents[0]
        if math.prod(shape) != len(content):
            raise InternalError(f"reply: found {len(content)} bytes of image; {list(shape)} takes {math.prod(shape)}")
        return list(np.frombuffer(content, np.uint8).reshape(shape))


class GrpcTarget:
    """A server at "host:port". What it does not tell (statistics, digests) is left empty.

    `settings` are for the result; `pids` its processes, where they are more than the one that listens and its children;
    `model_cpu` counts its CPU seconds inside models' graphs.
    """

    def __init__(
        self,
        address: str,
        wire: Wire,
        system: str = "impasto",
        *,
        settings: Mapping[str, str | int | float] | None = None,
        pids: Sequence[int] = (),
        model_cpu: Callable[[], float] | None = None,
    ) -> None:
        self.address = address
        self.system = system
        self._settings = settings or {}
        self._pids = list(pids)
        self._model_cpu = model_cpu
        self._wire = wire
        self._channel = grpc.insecure_channel(address, channel_options(None))
        self._call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(wire.method)
        self._models = ModelServiceStub(self._channel)
        self._inference = GRPCInferenceServiceStub(self._channel)

    @property
    def protocol(self) -> WireProtocol:
        return self._wire.protocol

    @property
    def settings(self) -> Mapping[str, str | int | float]:
        return self._settings

    def model(self, name: str) -> Model:
        if message := self._described(name):
            return Model(
                name, message.version, message.digest, message.family, width=message.width, height=message.height
            )
        try:
            metadata = self._inference.ModelMetadata(oip.ModelMetadataRequest(name=name), timeout=SHORT)
        except grpc.RpcError as error:
            raise error_of(error, self.address) from error
        shapes = {output.name: output.shape for output in metadata.outputs}
        height, width = ([*shapes.get("image", ()), 0, 0, 0])[1:3]
        return Model(name, ",".join(metadata.versions), width=width, height=height)

    def server_name(self) -> str:
        """What the server calls itself over the Open Inference Protocol; "server" of one that does not say."""
        try:
            metadata = self._inference.ServerMetadata(oip.ServerMetadataRequest(), timeout=SHORT)
        except grpc.RpcError:
            return "server"
        return metadata.name or "server"

    def details(self, name: str) -> Mapping[str, str | int | float]:
        """A model's backend, precision and device, as Impasto's own service tells; nothing of another server."""
        message = self._described(name)
        if message is None:
            return {}
        backend, _, precision = message.backend.partition("-")
        return {"backend": backend, "precision": precision or "fp32", "device": message.device}

    def buckets(self, name: str) -> tuple[int, ...]:
        message = self._described(name)
        return tuple(message.buckets) if message else ()

    def send(self, order: Order, done: Done) -> None:
        deadline = order.entry.deadline_ms
        call = self._call.future(self._wire.request(order), timeout=None if deadline is None else deadline / 1e3)

        def answered(finished: Any) -> None:
            try:
                done(self._wire.reply(finished.result()))
            except grpc.RpcError as error:
                done(error_of(error, self.address))
            except grpc.FutureCancelledError:
                done(ImpastoError(f"{self.address}: the benchmark ended before the answer"))

        call.add_done_callback(answered)

    def pictures(self, order: Order) -> list[Bytes]:
        try:
            return self._wire.pictures(self._call(self._wire.request(order)))
        except grpc.RpcError as error:
            raise error_of(error, self.address) from error

    def counters(self, name: str) -> Counters:
        try:
            reply = self._inference.ModelStatistics(oip.ModelStatisticsRequest(name=name), timeout=SHORT)
        except grpc.RpcError:
            return Counters()
        batches: defaultdict[int, int] = defaultdict(int)
        seconds: defaultdict[str, float] = defaultdict(float)
        counts: defaultdict[str, int] = defaultdict(int)
        for statistics in reply.model_stats:
            for batch in statistics.batch_stats:
                batches[int(batch.batch_size)] += int(batch.compute_infer.count)
            for stage, duration in _STAGES.items():
                told = duration(statistics.inference_stats)
                seconds[stage] += told.ns / 1e9
                counts[stage] += told.count
        return Counters(dict(batches), dict(seconds), dict(counts))

    def pids(self) -> list[int]:
        return self._pids or listeners(self.address)

    def model_cpu_seconds(self) -> float | None:
        return None if self._model_cpu is None else self._model_cpu()

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _described(self, name: str) -> models_pb2.Model | None:
        """What Impasto's own service tells of a model; None of another server. ModelNotFound."""
        try:
            return self._models.GetModel(models_pb2.GetModelRequest(name=name), timeout=SHORT)
        except grpc.RpcError as status:
            error = error_of(status, self.address)
            if isinstance(error, ModelNotFound) or cast(grpc.Call, status).code() is grpc.StatusCode.UNAVAILABLE:
                raise error from status
            return None


def open_server(address: str, model: str, wire: Wire) -> GrpcTarget:
    """A target at "host:port" that knows the server's name, and of a server of Impasto's the model's backend.

    ImpastoError if nothing answers there, or it has no such model.
    """
    with GrpcTarget(address, wire) as asked:
        asked.model(model)
        system = asked.server_name()
        settings = asked.details(model)
    return GrpcTarget(address, wire, system, settings=settings)


_STAGES: Mapping[str, Callable[[oip.InferStatistics], oip.StatisticDuration]] = {
    "queue": lambda statistics: statistics.queue,
    "execute": lambda statistics: statistics.compute_infer,
}


def wait_until_ready(address: str, model: str, seconds: float, alive: Callable[[], bool] = lambda: True) -> None:
    """Return once the server at `address` says over the Open Inference Protocol that the model is ready.

    ImpastoError after `seconds`, or as soon as its process is no longer `alive`.
    """
    end = time.monotonic() + seconds
    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        while time.monotonic() < end and alive():
            with contextlib.suppress(grpc.RpcError):
                if stub.ModelReady(oip.ModelReadyRequest(name=model), timeout=1.0).ready:
                    return
            time.sleep(0.1)
    raise ImpastoError(f"{address}: {model} was not ready within {seconds:g} s")
