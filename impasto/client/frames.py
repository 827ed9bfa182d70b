"""What a session asks for and gets, without its connection: shared by both clients."""

from __future__ import annotations

import dataclasses
from typing import Unpack

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.client.messages import generate_request, read_picture
from impasto.client.statuses import error_in
from impasto.errors import ImpastoError, InternalError, InvalidRequest
from impasto.generation import Parameters, generation
from impasto.images import Picture


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """The answer to request `id`: a picture, or the error that there is instead of one.

    `skipped` requests since the frame before it got none, as newer ones replaced them, here or at the server;
    `latency_ms` is the time that the server took for it from when the request was there.
    """

    id: int
    outcome: Picture | ImpastoError
    skipped: int
    latency_ms: float

    @property
    def picture(self) -> Picture:
        """The picture; raises the error if there is none."""
        if isinstance(self.outcome, ImpastoError):
            raise self.outcome
        return self.outcome

    @property
    def error(self) -> ImpastoError | None:
        """Why there is no picture; None if there is one."""
        return self.outcome if isinstance(self.outcome, ImpastoError) else None


class Frames:
    """Numbers the requests of a session, from 1 on, and reads its replies. For one sender and one reader."""

    def __init__(self, model: str, version: str, priority: int, target: str) -> None:
        self._model = model
        self._version = version
        self._priority = priority
        self._target = target
        self._sent = 0
        self._read = 0

    def request(self, **parameters: Unpack[Parameters]) -> pb.ExploreRequest:
        """The next request. InvalidRequest unless the parameters are of one picture."""
        wanted = generation(**parameters)
        if wanted.count != 1:
            raise InvalidRequest("seeds, z, ws", f"{wanted.count} pictures", "exactly one for a frame")
        request = generate_request(self._model, self._version, self._priority, wanted)
        self._sent += 1
        return pb.ExploreRequest(id=self._sent, request=request)

    def frame(self, reply: pb.ExploreReply) -> Frame:
        """The frame of a reply that is later than those before. InternalError if it answers none of the requests."""
        if not self._read < reply.id <= self._sent:
            raise InternalError(
                f"explore: found a reply to {reply.id}; next is one of {self._read + 1} to {self._sent}"
            )
        skipped = reply.id - self._read - 1
        self._read = reply.id
        return Frame(reply.id, self._outcome(reply), skipped, reply.latency_ms)

    def _outcome(self, reply: pb.ExploreReply) -> Picture | ImpastoError:
        if reply.WhichOneof("outcome") == "error":
            return error_in(reply.error, self._target)
        return read_picture(reply.picture, bytearray(reply.picture.data))
