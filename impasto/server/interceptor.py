"""Between gRPC and the services: routes calls, and maps Impasto's errors to gRPC status in one place."""

from __future__ import annotations

import asyncio
import math
import operator
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple, cast

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
_MODEL_FIELDS = ("model", "model_name", "name", "request.model")


class Refusal(NamedTuple):
    """What the caller sees of an error; `retry_after_ms` where trying again helps."""

    code: grpc.StatusCode
    details: str
    retry_after_ms: int | None


class _Parser:
    """Parses the messages of a call; `model` is the first that one of them names."""

    __slots__ = ("_model_of", "_parse", "model")

    def __init__(self, parse: Callable[[bytes], Message], model_of: Callable[[Message], str]) -> None:
        self.model = ""
        self._parse = parse
        self._model_of = model_of

    def one(self, data: bytes) -> Message:
        try:
            message = self._parse(data)
        except DecodeError as error:
            raise InvalidRequest("request", f"{len(data)} bytes", f"a serialised message ({error})") from error
        self.model = self.model or self._model_of(message)
        return message

    async def each(self, stream: AsyncIterable[bytes]) -> AsyncIterator[Message]:
        async for data in stream:
            yield self.one(data)


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
    an id. Calls are counted by model, method and status, and those in flight. A method takes one request, or all of a
    stream with `async for`, and writes a stream of replies with `context.write`.
    """

    def __init__(self, router: Router, metrics: Metrics, is_model: Callable[[str], bool]) -> None:
        self.calls = 0
        """Those that have come so far."""
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

    def refusal(self, error: Exception, model: str, method: str) -> Refusal:
        """What the caller sees of an error that ended a request to the method. It is counted."""
        shown = _shown(error, method)
        self._metrics.rejected(self._label(model), type(shown).__name__)
        code = next(code for kind, code in _STATUS.items() if isinstance(shown, kind))
        delay = math.ceil(shown.retry_after * 1000) if isinstance(shown, QueueFull | Unavailable) else None
        return Refusal(code, str(shown)[:MAX_DETAILS], delay)

    def _guarded(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        streams, streamed = handler.request_streaming, handler.response_streaming
        kind = f"{'stream' if streams else 'unary'}_{'stream' if streamed else 'unary'}"
        behaviour = cast(Behaviour, getattr(handler, kind))
        parse = cast(Callable[[bytes], Message], handler.request_deserializer)
        model_of = _model_getter(parse)

        async def call(received: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            self.calls += 1
            self.in_flight += 1
            parser, status = _Parser(parse, model_of), "OK"
            try:
                request = parser.each(received) if streams else parser.one(received)
                return await behaviour(request, context)
            except asyncio.CancelledError:
                status = "CANCELLED"
                raise
            except Exception as error:
                refusal = self.refusal(error, parser.model, method)
                status = refusal.code.name
                await context.abort(refusal.code, refusal.details, _trailing(refusal))
            finally:
                self._metrics.answered(self._label(parser.model), method, status)
                self.in_flight -= 1
                if self._emptied and not self.in_flight and not self._emptied.done():
                    self._emptied.set_result(None)

        make_handler = getattr(grpc, f"{kind}_rpc_method_handler")
        return cast("grpc.RpcMethodHandler[Any, Any]", make_handler(call, None, handler.response_serializer))

    def _label(self, model: str) -> str:
        # What callers make up must not become series of their own.
        return model if not model or self._is_model(model) else UNKNOWN


def _model_getter(parse: Callable[[bytes], Message]) -> Callable[[Message], str]:
    """What finds the model's name in a method's requests; `parse` is the FromString of their class."""
    fields = parse.__self__.DESCRIPTOR.fields_by_name  # type: ignore[attr-defined]
    named = [path for path in _MODEL_FIELDS if path.partition(".")[0] in fields]
    return operator.attrgetter(named[0]) if named else lambda request: ""


def _shown(error: Exception, method: str) -> ImpastoError:
    """The error as the client may see it."""
    if isinstance(error, ImpastoError) and isinstance(error, tuple(_STATUS)):
        return error
    return internal_error(method, error)


def _trailing(refusal: Refusal) -> tuple[tuple[str, str], ...]:
    return () if refusal.retry_after_ms is None else ((RETRY_AFTER, str(refusal.retry_after_ms)),)
