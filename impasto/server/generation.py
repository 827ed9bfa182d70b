"""GenerationService: pictures in one reply, or as a stream of events."""

from __future__ import annotations

import time
from typing import Any

import grpc

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.engine.picture import PictureRequest
from impasto.errors import InvalidRequest
from impasto.export.bundle import Manifest
from impasto.images import metadata_text
from impasto.server.config import MEBIBYTE, ServerConfig
from impasto.server.encoding import Data, encoder_for
from impasto.server.host import Job, LoadedModel, Made, ModelHost
from impasto.server.interceptor import Guard, Handlers
from impasto.server.requests import check_model, picture_requests
from impasto.server.wire import chunk_event, join, response_parts

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name


class GenerationService:
    """Makes pictures with the host's models. Its replies are serialised already: see `wire`."""

    def __init__(self, host: ModelHost, config: ServerConfig) -> None:
        self._host = host
        self._limits = config.limits
        self._max_pictures = config.most_pictures

    def add_to(self, guard: Guard) -> None:
        """Register both methods."""
        parse = pb.GenerateRequest.FromString
        handlers: Handlers = {
            "Generate": grpc.unary_unary_rpc_method_handler(self.generate, parse),
            "GenerateStream": grpc.unary_stream_rpc_method_handler(self.generate_stream, parse),
        }
        guard.add_registered_method_handlers(SERVICE, handlers)

    async def generate(self, message: pb.GenerateRequest, context: Context) -> bytes:
        """A serialised GenerateResponse."""
        model, requests = self._read(message)
        self._check_size(message.format, model.engine.manifest, len(requests))
        with self._submit(model, requests, message, context) as job:
            made = await job.all()
        pictures = [_picture(message, model.engine.manifest, *item) for item in zip(requests, made, strict=True)]
        return await join(response_parts(zip(pictures, map(_data, made), strict=True), _timing(job)))

    async def generate_stream(self, message: pb.GenerateRequest, context: Context) -> None:
        """Writes serialised GenerateEvents: queued, each picture in chunks as it gets ready, done."""
        model, requests = self._read(message)
        with self._submit(model, requests, message, context) as job:
            queued = pb.Queued(position=model.position(job), estimated_wait_ms=model.estimated_wait(job) * 1000)
            await context.write(pb.GenerateEvent(queued=queued).SerializeToString())
            async for index, made in job:
                picture = _picture(message, model.engine.manifest, requests[index], made)
                await self._write_picture(index, picture, _data(made), context)
        await context.write(pb.GenerateEvent(done=pb.Done(timing=_timing(job))).SerializeToString())

    def _read(self, message: pb.GenerateRequest) -> tuple[LoadedModel, list[PictureRequest]]:
        check_model(message.model, message.version)
        model = self._host.get(message.model, message.version)
        return model, picture_requests(message, model.engine.manifest, self._max_pictures)

    def _check_size(self, format: int, manifest: Manifest, pictures: int) -> None:
        bytes_a_value = 4 if format == pb.IMAGE_FORMAT_RAW_FLOAT32 else 1
        allowed = self._limits.send_mib * MEBIBYTE // (manifest.width * manifest.height * 3 * bytes_a_value)
        if pictures > allowed:
            remedy = f"at most {allowed} of this size and format in one reply; GenerateStream has no such limit"
            raise InvalidRequest("seeds, z, ws", f"{pictures} pictures", remedy)

    def _submit(
        self, model: LoadedModel, requests: list[PictureRequest], message: pb.GenerateRequest, context: Context
    ) -> Job:
        encoder = encoder_for(message.format or pb.IMAGE_FORMAT_PNG, message.quality)
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        return model.submit(requests, priority=message.priority, deadline=deadline, encoder=encoder)

    async def _write_picture(self, index: int, picture: pb.Picture, data: Data, context: Context) -> None:
        view = memoryview(data).cast("B")
        step = self._limits.stream_chunk_kib * 1024
        first = pb.ImageChunk(index=index, picture=picture, total=len(view))
        await context.write(chunk_event(first, view[:step]))
        for offset in range(step, len(view), step):
            chunk = pb.ImageChunk(index=index, offset=offset, total=len(view))
            await context.write(chunk_event(chunk, view[offset : offset + step]))


def _picture(message: pb.GenerateRequest, manifest: Manifest, request: PictureRequest, made: Made) -> pb.Picture:
    return pb.Picture(
        seed=request.seed or 0,
        format=message.format or pb.IMAGE_FORMAT_PNG,
        width=manifest.width,
        height=manifest.height,
        metadata=metadata_text(made.metadata),
    )


def _data(made: Made) -> Data:
    assert made.data is not None, "the job has an encoder"
    return made.data


def _timing(job: Job) -> pb.Timing:
    return pb.Timing(
        queue_ms=job.queue_seconds * 1000,
        execute_ms=job.execute_seconds * 1000,
        encode_ms=job.encode_seconds * 1000,
        batch_sizes=job.batch_sizes,
    )
