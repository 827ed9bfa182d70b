"""A session of the asynchronous client."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self, Unpack

import grpc

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.client.frames import Frame, Frames
from impasto.client.newest import AsyncNewest
from impasto.client.statuses import error_of
from impasto.errors import Cancelled, ImpastoError
from impasto.generation import Parameters


class AsyncSession:
    """As `impasto.client.Session`, on an event loop; one task may send while another takes frames."""

    def __init__(
        self,
        explore: grpc.aio.StreamStreamMultiCallable[pb.ExploreRequest, pb.ExploreReply],
        frames: Frames,
        target: str,
        timeout: float | None,
    ) -> None:
        self._frames = frames
        self._target = target
        self._error: ImpastoError | None = None
        self._requests: AsyncNewest[pb.ExploreRequest] = AsyncNewest()
        self._replies: AsyncNewest[pb.ExploreReply] = AsyncNewest()
        self._call = explore(aiter(self._requests), timeout=timeout)
        self._receiver = asyncio.get_running_loop().create_task(self._receive())

    def send(self, **parameters: Unpack[Parameters]) -> int:
        """See `Session.send`; it does not wait either."""
        request = self._frames.request(**parameters)
        if not self._requests.put(request):
            raise self._error or Cancelled("explore: the session takes no more requests")
        return request.id

    async def latest(self, timeout: float | None = None) -> Frame | None:  # noqa: ASYNC109 (as the synchronous one)
        """See `Session.latest`."""
        reply = await self._replies.take(timeout)
        if reply is not None:
            return self._frames.frame(reply)
        if self._replies.closed and self._error:
            raise self._error
        return None

    def finish(self) -> None:
        """See `Session.finish`."""
        self._requests.close()

    async def close(self) -> None:
        """See `Session.close`."""
        self._requests.close()
        self._call.cancel()
        self._receiver.cancel()
        await asyncio.wait([self._receiver])

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        frame = await self.latest()
        if frame is None:
            raise StopAsyncIteration
        return frame

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _receive(self) -> None:
        try:
            async for reply in self._call:
                self._replies.put(reply)
        except grpc.aio.AioRpcError as status:
            self._error = error_of(status, self._target)
        except asyncio.CancelledError:
            self._error = Cancelled("explore: the session was closed")
            raise
        finally:
            self._requests.close()
            self._replies.close()
