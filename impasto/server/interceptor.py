"""Between gRPC and the services: routes calls, and maps Impasto's errors to gRPC status in one place."""

from __future__ import annotations

import asyncio
import math
import operator
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError, Message

from impasto.errors import (
    BackendUnavailable,
    BundleError,
    Cancelled,
    DeadlineExceeded,
    ImpastoError,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    Unavailable,
)
from impasto.server.faults import internal_error
from impasto.server.metrics import UNKNOWN, Metrics

Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]
Handlers = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]

RETRY_AFTER = "retry-after-ms"
"""Key of the trailing metadata that holds the retry delay, whole milliseconds in decimal."""
MAX_DETAILS = 1000
"""Characters of a status message: it travels in a header, which has a limit."""
_STATUS: dict[type[ImpastoError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    BackendUnavailable: grpc.StatusCode.FAILED_PRECONDITION,
    BundleError: grpc.StatusCode.FAILED_PRECONDITION,
    Cancelled: grpc.StatusCode.CANCELLED,
    InternalError: grpc.StatusCode.INTERNAL,
}
_MODEL_FIELDS = ("model", "model_name", "name")


class Router(grpc.GenericRpcHandler):
    """Finds a call's handler in one dictionary. The generated add_..._to_server functions take it for a server.

    A server waits for each method that is registered with it on its own: every one makes every call a bit slower.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._handlers.get(handler_call_details.method)

    def add(self, add_to_server: Callable[..., None], servicer: object) -> None:
        """Register a servicer with its generated add_..._to_server."""
        add_to_server(servicer, self)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Nothing: the same handlers come through add_registered_method_handlers."""

    def add_registered_method_handlers(self, service: str, handlers: Handlers) -> None:
        self._handlers.update({f"/{service}/{method}": handler for method, handler in handlers.items()})


class Guard:
    """Takes services for a router, as the router does, and guards their methods.

    Impasto's errors become their status, with the retry delay in the trailing metadata; any other becomes INTERNAL with
    an id. Calls are counted by model, method and status, and those in flight. A method takes one request, and writes
    a stream of replies with `context.write`.
    """

    def __init__(self, router: Router, metrics: Metrics, is_model: Callable[[str], bool]) -> None:
        self.in_flight = 0
        self._router = router
        self._metrics = metrics
        self._is_model = is_model
        self._emptied: asyncio.Future[None] | None = None

    def add(self, add_to_server: Callable[..., None], servicer: object) -> None:
        """Register a servicer with its generated add_..._to_server."""
        add_to_server(servicer, self)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Nothing: see Router."""

    def add_registered_method_handlers(self, service: str, handlers: Handlers) -> None:
        guarded = {method: self._guarded(method, handler) for method, handler in handlers.items()}
        self._router.add_registered_method_handlers(service, guarded)

    async def empty(self) -> None:
        """Return when no call is in flight."""
        while self.in_flight:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    def _guarded(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        behaviour = cast(Behaviour, handler.unary_stream if handler.response_streaming else handler.unary_unary)
        parse = cast(Callable[[bytes], Message], handler.request_deserializer)
        model_of = _model_getter(parse)

        async def call(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            self.in_flight += 1
            model, status = "", "OK"
            try:
                request = parse(data)
                model = model_of(request)
                return await behaviour(request, context)
            except asyncio.CancelledError:
                status = "CANCELLED"
                raise
            except Exception as error:
                shown = _shown(error, method, data)
                code = next(code for kind, code in _STATUS.items() if isinstance(shown, kind))
                status = code.name
                self._metrics.rejected(self._label(model), type(shown).__name__)
                await context.abort(code, str(shown)[:MAX_DETAILS], _retry_after(shown))
            finally:
                self._metrics.answered(self._label(model), method, status)
                self.in_flight -= 1
                if self._emptied and not self.in_flight and not self._emptied.done():
                    self._emptied.set_result(None)

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(call, None, handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(call, None, handler.response_serializer)

    def _label(self, model: str) -> str:
        # What callers make up must not become series of their own.
        return model if not model or self._is_model(model) else UNKNOWN


def _model_getter(parse: Callable[[bytes], Message]) -> Callable[[Message], str]:
    """What finds the model's name in a method's requests; `parse` is the FromString of their class."""
    fields = parse.__self__.DESCRIPTOR.fields_by_name  # type: ignore[attr-defined]
    named = [name for name in _MODEL_FIELDS if name in fields]
    return operator.attrgetter(named[0]) if named else lambda request: ""


def _shown(error: Exception, method: str, data: bytes) -> ImpastoError:
    """The error as the client may see it."""
    if isinstance(error, ImpastoError) and isinstance(error, tuple(_STATUS)):
        return error
    if isinstance(error, DecodeError):
        return InvalidRequest("request", f"{len(data)} bytes", f"a serialised message ({error})")
    return internal_error(method, error)


def _retry_after(error: Exception) -> tuple[tuple[str, str], ...]:
    if isinstance(error, QueueFull | Unavailable):
        return ((RETRY_AFTER, str(math.ceil(error.retry_after * 1000))),)
    return ()
