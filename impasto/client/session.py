"""A session of the synchronous client: frames while their parameters change."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self, Unpack

import grpc

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.client.frames import Frame, Frames
from impasto.client.newest import Newest
from impasto.client.statuses import error_of
from impasto.errors import Cancelled, ImpastoError
from impasto.generation import Parameters


class Session:
    """Send parameters whenever they change, and iterate for frames: of both the newest replaces the one that waits.

    One thread may send while another takes frames. A request that is refused has its error in its `Frame`, and the
    session goes on; what ends the session is raised by `send` and `latest`: Unavailable, DeadlineExceeded, Cancelled.
    Leaving the `with` block ends it at once, `finish` after the last frame.
    """

    def __init__(
        self,
        explore: grpc.StreamStreamMultiCallable[pb.ExploreRequest, pb.ExploreReply],
        frames: Frames,
        target: str,
        timeout: float | None,
    ) -> None:
        self._frames = frames
        self._target = target
        self._error: ImpastoError | None = None
        self._requests: Newest[pb.ExploreRequest] = Newest()
        self._replies: Newest[pb.ExploreReply] = Newest()
        self._call = explore(iter(self._requests), timeout=timeout)
        self._receiver = threading.Thread(target=self._receive, name="impasto-explore", daemon=True)
        self._receiver.start()

    def send(self, **parameters: Unpack[Parameters]) -> int:
        """Ask for a frame of these parameters, complete in themselves; returns its id at once.

        The keywords are those of `Client.generate`, for exactly one picture. A request that has not left yet is
        replaced. InvalidRequest, or the error that ended the session; Cancelled after `finish` or `close`.
        """
        request = self._frames.request(**parameters)
        if not self._requests.put(request):
            raise self._error or Cancelled("explore: the session takes no more requests")
        return request.id

    def latest(self, timeout: float | None = None) -> Frame | None:
        """The newest frame that was not taken yet, or the next one.

        None if there is none within `timeout` seconds (0: that has arrived; None: no limit), or any more.
        """
        reply = self._replies.take(timeout)
        if reply is not None:
            return self._frames.frame(reply)
        if self._replies.closed and self._error:
            raise self._error
        return None

    def finish(self) -> None:
        """Send no more: the last request gets its frame, and the iteration ends."""
        self._requests.close()

    def close(self) -> None:
        """End it now; the server drops the frame under way."""
        self._requests.close()
        self._call.cancel()
        self._receiver.join()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        frame = self.latest()
        if frame is None:
            raise StopIteration
        return frame

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> None:
        try:
            for reply in self._call:
                self._replies.put(reply)
        except grpc.RpcError as status:
            self._error = error_of(status, self._target)
        finally:
            self._requests.close()
            self._replies.close()
