"""The gRPC server that the services run on: grpc.aio's, which here asks for several calls at a time."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

AHEAD = 8
"""Calls that the server asks gRPC for before they come."""
_OVERRIDDEN = ("_make_request_call_future", "_start_shutting_down")
_replacing = threading.Lock()


def new_grpc_server(handlers: Sequence[grpc.GenericRpcHandler], options: Sequence[tuple[str, Any]]) -> grpc.aio.Server:
    """As grpc.aio.server. For the event loop.

    grpc.aio asks for one call, waits until the event loop has it, and asks for the next: from call to call an event
    passes through two more threads, and callers with short requests wait for nothing else. Which of its methods ask and
    stop is not part of its interface; where a version has none of these names, this is grpc.aio.server.
    """
    with _replacing:
        usual = getattr(cygrpc, "AioServer", None)
        if not all(hasattr(usual, name) for name in _OVERRIDDEN):
            return grpc.aio.server(handlers=handlers, options=options)
        cygrpc.AioServer = _asking_ahead(usual)
        try:
            return grpc.aio.server(handlers=handlers, options=options)
        finally:
            cygrpc.AioServer = usual


def _asking_ahead(usual: Any) -> Any:
    class AskingAhead(usual):  # type: ignore[misc]
        """A server that has AHEAD calls asked for whenever it waits for the next."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._asked: defaultdict[bytes | None, deque[asyncio.Task[Any]]] = defaultdict(deque)

        def _make_request_call_future(self, method: bytes | None) -> Any:
            asked = self._asked[method]
            while len(asked) < AHEAD:
                asked.append(super()._make_request_call_future(method))
                asked[-1].add_done_callback(_retrieve_error)
            return asked.popleft()

        async def _start_shutting_down(self) -> None:
            try:
                await super()._start_shutting_down()
            finally:
                self._asked.clear()  # a call among them that nobody has taken ends when it is freed

    return AskingAhead


def _retrieve_error(task: asyncio.Task[Any]) -> None:
    """gRPC answers what is still asked for with one when the server stops; asyncio logs those that nobody retrieves."""
    if not task.cancelled():
        task.exception()
