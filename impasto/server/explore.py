"""Explore, the method of GenerationService for interactive use: frames while their parameters change."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, Callable
from typing import Any, NamedTuple

import grpc

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.errors import InvalidRequest, Unavailable
from impasto.server.config import ServerConfig
from impasto.server.generation import SERVICE
from impasto.server.host import ModelHost
from impasto.server.interceptor import Guard, Handlers, Refusal
from impasto.server.orders import Orders, data_of
from impasto.server.requests import check_model
from impasto.server.wire import explore_parts, join

Context = grpc.aio.ServicerContext[Any, Any]
Refuse = Callable[[Exception, str, str], Refusal]

METHOD = "Explore"


class Asked(NamedTuple):
    """A request, when it came, and how many since the one taken before it were replaced."""

    message: pb.ExploreRequest
    arrived: float
    skipped: int


class NewestRequest:
    """The one request of a call that waits: a newer one replaces it. Remembers the model that the call is about."""

    def __init__(self) -> None:
        self.model = self.version = ""
        self._waiting: Asked | None = None
        self._skipped = 0
        self._ended = False
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    def put(self, message: pb.ExploreRequest) -> None:
        """The caller has sent this request."""
        if self._waiting:
            self._skipped += 1
        if not self.model:
            self._choose_model(message.request)
        self._waiting = Asked(message, time.monotonic(), self._skipped)
        self._changed.set()

    def end(self, error: Exception | None = None) -> None:
        """No more will come; with an error, what waits is not to be answered either."""
        self._ended, self._error = True, error
        self._changed.set()

    async def read(self, messages: AsyncIterable[pb.ExploreRequest]) -> None:
        """Put every message, until their end or an error of theirs."""
        try:
            async for message in messages:
                self.put(message)
            self.end()
        except Exception as error:
            self.end(error)

    async def take(self) -> Asked | None:
        """The request that waits, or the next one; None once no more will come. Raises the error of the end."""
        await self._changed.wait()
        if self._error:
            raise self._error
        asked, self._waiting, self._skipped = self._waiting, None, 0
        if not self._ended:
            self._changed.clear()
        return asked

    def complete(self, request: pb.GenerateRequest) -> pb.GenerateRequest:
        """The request with the call's model named. InvalidRequest if it names another."""
        if not self.model:
            return request
        for field, chosen in (("model", self.model), ("version", self.version)):
            named = getattr(request, field)
            if named not in ("", chosen):
                allowed = f"nothing, or {chosen!r}, which the call began with" if chosen else "nothing in this call"
                raise InvalidRequest(field, named, allowed)
            setattr(request, field, chosen)
        return request

    def _choose_model(self, request: pb.GenerateRequest) -> None:
        with contextlib.suppress(InvalidRequest):
            check_model(request.model, request.version)
            self.model, self.version = request.model, request.version


class Explore:
    """Answers each call's newest request, one after the other. `refuse` gives what a caller sees of an error.

    A frame's place in the queue and its slot are free before its reply is written, and the next frame waits for that:
    a caller that reads slowly, or not at all, holds one reply and no more.
    """

    def __init__(self, host: ModelHost, config: ServerConfig, refuse: Refuse) -> None:
        self._host = host
        self._orders = Orders(host, config)
        self._refuse = refuse
        self._calls: set[NewestRequest] = set()

    def add_to(self, guard: Guard) -> None:
        """Register the method."""
        parse = pb.ExploreRequest.FromString
        handlers: Handlers = {METHOD: grpc.stream_stream_rpc_method_handler(self.explore, parse)}
        guard.add_registered_method_handlers(SERVICE, handlers)

    def drain(self) -> None:
        """End every call after the frame under way: one that its caller keeps open would never end."""
        for newest in self._calls:
            newest.end(_shutting_down())

    async def explore(self, messages: AsyncIterable[pb.ExploreRequest], context: Context) -> None:
        """Writes serialised ExploreReplies."""
        if self._host.draining:
            raise _shutting_down()
        newest = NewestRequest()
        self._calls.add(newest)
        reading = asyncio.create_task(newest.read(messages))
        try:
            while asked := await newest.take():
                await context.write(await self._answer(asked, newest, context))
        finally:
            reading.cancel()
            self._calls.discard(newest)

    async def _answer(self, asked: Asked, newest: NewestRequest, context: Context) -> bytes:
        """A serialised ExploreReply."""
        reply = pb.ExploreReply(id=asked.message.id, skipped=asked.skipped)
        try:
            order = await self._orders.read(newest.complete(asked.message.request), max_pictures=1)
            self._orders.check_size(order)
            with order.submit(context) as job:
                (made,) = await job.all()
        except Exception as error:
            code, message, retry_after_ms = self._refuse(error, newest.model, METHOD)
            number, _ = code.value
            reply.error.CopyFrom(pb.ExploreError(code=number, message=message, retry_after_ms=retry_after_ms or 0))
            reply.latency_ms = _ms_since(asked.arrived)
            return reply.SerializeToString()
        reply.latency_ms = _ms_since(asked.arrived)
        return await join(explore_parts(reply, order.picture(0, made), data_of(made)))


def _shutting_down() -> Unavailable:
    return Unavailable("the server is shutting down")


def _ms_since(moment: float) -> float:
    return (time.monotonic() - moment) * 1000
