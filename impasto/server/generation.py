"""GenerationService: pictures in one reply, or as a stream of events. Its third method is in `explore`."""

from __future__ import annotations

from typing import Any

import grpc

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.server.config import ServerConfig
from impasto.server.encoding import Data
from impasto.server.host import Job, Made, ModelHost
from impasto.server.interceptor import Guard, Handlers
from impasto.server.job import Previewed, StepDone
from impasto.server.orders import Orders, data_of
from impasto.server.wire import chunk_event, join, preview_parts, response_parts

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name


class GenerationService:
    """Makes pictures with the host's models, a request at a time. Its replies are serialised already: see `wire`."""

    def __init__(self, host: ModelHost, config: ServerConfig) -> None:
        self._orders = Orders(host, config)
        self._chunk_bytes = config.limits.stream_chunk_kib * 1024

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
        order = await self._orders.read(message)
        self._orders.check_size(order)
        with order.submit(context) as job:
            made = await job.all()
        pictures = [order.picture(*item) for item in enumerate(made)]
        return await join(response_parts(zip(pictures, map(data_of, made), strict=True), _timing(job)))

    async def generate_stream(self, message: pb.GenerateRequest, context: Context) -> None:
        """Writes serialised GenerateEvents: queued, steps and previews, each picture in chunks as it is ready, done."""
        order = await self._orders.read(message)
        model = order.model
        with order.submit(context, progress=True) as job:
            queued = pb.Queued(position=model.position(job), estimated_wait_ms=model.estimated_wait(job) * 1000)
            await context.write(pb.GenerateEvent(queued=queued).SerializeToString())
            async for index, item in job:
                match item:
                    case StepDone(step, steps):
                        event = pb.GenerateEvent(step=pb.Step(index=index, step=step, steps=steps))
                        await context.write(event.SerializeToString())
                    case Previewed(made):
                        await context.write(await join(preview_parts(index, order.picture(index, made), data_of(made))))
                    case Made():
                        await self._write_picture(index, order.picture(index, item), data_of(item), context)
        await context.write(pb.GenerateEvent(done=pb.Done(timing=_timing(job))).SerializeToString())

    async def _write_picture(self, index: int, picture: pb.Picture, data: Data, context: Context) -> None:
        view = memoryview(data).cast("B")
        step = self._chunk_bytes
        first = pb.ImageChunk(index=index, picture=picture, total=len(view))
        await context.write(chunk_event(first, view[:step]))
        for offset in range(step, len(view), step):
            chunk = pb.ImageChunk(index=index, offset=offset, total=len(view))
            await context.write(chunk_event(chunk, view[offset : offset + step]))


def _timing(job: Job) -> pb.Timing:
    return pb.Timing(
        queue_ms=job.queue_seconds * 1000,
        execute_ms=job.execute_seconds * 1000,
        encode_ms=job.encode_seconds * 1000,
        batch_sizes=job.batch_sizes,
    )
