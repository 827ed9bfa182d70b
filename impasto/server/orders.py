"""From a GenerateRequest to a job of the model that it names, and from what the job made to Pictures."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import grpc

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.engine.picture import PictureRequest
from impasto.engine.sizes import made_size
from impasto.errors import InvalidRequest
from impasto.images import metadata_text
from impasto.server.config import MEBIBYTE, ServerConfig
from impasto.server.encoding import Data, encoder_for
from impasto.server.host import Job, LoadedModel, Made, ModelHost
from impasto.server.pictures import brings_pictures
from impasto.server.requests import check_model, picture_requests

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """A message that has been read: its model and the pictures that it asks for."""

    message: pb.GenerateRequest
    model: LoadedModel
    requests: list[PictureRequest]

    def submit(self, context: Context, *, progress: bool = False) -> Job:
        """The job, within the call's deadline; use it in a `with` block at once. Errors as `LoadedModel.submit`."""
        encoder = encoder_for(self.message.format or pb.IMAGE_FORMAT_PNG, self.message.quality)
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        return self.model.submit(
            self.requests, priority=self.message.priority, deadline=deadline, encoder=encoder, progress=progress
        )

    def picture(self, index: int, made: Made) -> pb.Picture:
        """The message of picture `index`, without its data."""
        width, height = made.pixels.size
        return pb.Picture(
            seed=self.requests[index].seed or 0,
            format=self.message.format or pb.IMAGE_FORMAT_PNG,
            width=width,
            height=height,
            metadata=metadata_text(made.metadata),
        )

    def raw_size(self) -> int:
        """Bytes of one picture without a file's compression."""
        first = self.requests[0]
        width, height = made_size(self.model.engine.manifest, first.denoising, first.image)
        bytes_a_value = 4 if self.message.format == pb.IMAGE_FORMAT_RAW_FLOAT32 else 1
        return width * height * 3 * bytes_a_value


class Orders:
    """Reads requests for the host's models."""

    def __init__(self, host: ModelHost, config: ServerConfig) -> None:
        self._host = host
        self._max_pictures = config.most_pictures
        self._max_reply = config.limits.send_mib * MEBIBYTE

    async def read(self, message: pb.GenerateRequest, max_pictures: int | None = None) -> Order:
        """What the message asks for, of at most so many pictures (None: as the server is set up).

        InvalidRequest, ModelNotFound, or Unavailable while the model is loading or the server drains.
        """
        check_model(message.model, message.version)
        model = self._host.get(message.model, message.version)
        read = (message, model.engine.manifest, max_pictures or self._max_pictures)
        if brings_pictures(message):
            # Decoding takes milliseconds, which all other calls would wait for.
            return Order(message, model, await asyncio.to_thread(picture_requests, *read))
        return Order(message, model, picture_requests(*read))

    def check_size(self, order: Order) -> None:
        """InvalidRequest unless the order's pictures go into one reply."""
        pictures, allowed = len(order.requests), self._max_reply // order.raw_size()
        if pictures > allowed:
            remedy = f"at most {allowed} of this size and format in one reply; GenerateStream has no such limit"
            raise InvalidRequest("seeds, z, ws", f"{pictures} pictures", remedy)


def data_of(made: Made) -> Data:
    """The data of a picture whose job has an encoder."""
    assert made.data is not None, "the job has an encoder"
    return made.data
