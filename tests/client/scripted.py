"""A real gRPC server whose GenerationService answers as a test tells it."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import numpy as np

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import (
    GenerationServiceServicer,
    add_GenerationServiceServicer_to_server,
)

WIDTH, HEIGHT = 5, 4


@dataclasses.dataclass
class Failure:
    """What a call is answered with instead of pictures."""

    code: grpc.StatusCode
    details: str = "not now"
    retry_after_ms: int | None = None


def pixels(seed: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.RandomState(seed).randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def header(seed: int) -> pb.Picture:
    metadata = json.dumps({"model": "scripted", "seed": seed})
    return pb.Picture(seed=seed, format=pb.IMAGE_FORMAT_RAW_UINT8, width=WIDTH, height=HEIGHT, metadata=metadata)


def chunk(index: int, offset: int, data: bytes, *, seed: int | None = None, total: int = 60) -> pb.GenerateEvent:
    """A chunk of picture `index`; with `seed` its first."""
    picture = None if seed is None else header(seed)
    return pb.GenerateEvent(chunk=pb.ImageChunk(index=index, picture=picture, offset=offset, total=total, data=data))


class Scripted(GenerationServiceServicer):
    """Fails as `failures` say, one call each, then answers; streams play `events` where there are any.

    Explore answers each request of one seed; `first_id` is its first reply's; `left` is set when its caller is gone.
    """

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.events: list[pb.GenerateEvent] = []
        self.requests: list[pb.GenerateRequest] = []
        self.first_id = 1
        self.answered = 0
        self.left = threading.Event()

    def Generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> pb.GenerateResponse:
        self._begin(request, context)
        pictures = [header(seed) for seed in request.seeds]
        for picture in pictures:
            picture.data = pixels(picture.seed).tobytes()
        return pb.GenerateResponse(pictures=pictures)

    def GenerateStream(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateEvent]:
        self._begin(request, context)
        yield from self.events
        if self.failures:
            self._fail(context)

    def Explore(
        self, request_iterator: Iterator[pb.ExploreRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ExploreReply]:
        context.add_callback(self.left.set)
        for request in request_iterator:
            self._begin(request.request, context)
            (seed,) = request.request.seeds
            picture = header(seed)
            picture.data = pixels(seed).tobytes()
            yield pb.ExploreReply(id=request.id + self.first_id - 1, picture=picture, latency_ms=1.5)
            self.answered += 1

    def _begin(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        if self.failures and not self.events:
            self._fail(context)

    def _fail(self, context: grpc.ServicerContext) -> None:
        failure = self.failures.pop(0)
        if failure.retry_after_ms is not None:
            context.set_trailing_metadata((("retry-after-ms", str(failure.retry_after_ms)),))
        context.abort(failure.code, failure.details)


@contextmanager
def serving(service: Scripted) -> Iterator[str]:
    """The address where the service answers."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_GenerationServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
