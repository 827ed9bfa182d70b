"""From a gRPC status back to the error that the server raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import grpc

from impasto.api.impasto.v1.generation_pb2 import ExploreError
from impasto.errors import (
    Cancelled,
    DeadlineExceeded,
    ImpastoError,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    Unavailable,
)

RETRY_AFTER = "retry-after-ms"

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_ERRORS: dict[grpc.StatusCode, Callable[[str], ImpastoError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest.received,
    grpc.StatusCode.NOT_FOUND: ModelNotFound.received,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded.received,
    grpc.StatusCode.CANCELLED: Cancelled.received,
    grpc.StatusCode.INTERNAL: InternalError.received,
}


def error_of(failure: grpc.RpcError, target: str) -> ImpastoError:
    """The Impasto error of a failed call to `target`; of a status that Impasto does not send, one that names it."""
    # Every RpcError that a call raises is a Call too; the library's types do not say so.
    status = cast(grpc.Call, failure)
    return _error(status.code(), status.details() or "", retry_after(status), target)


def error_in(reply: ExploreError, target: str) -> ImpastoError:
    """The Impasto error that ended one request of a call which goes on."""
    code = _CODES.get(reply.code, grpc.StatusCode.UNKNOWN)
    return _error(code, reply.message, reply.retry_after_ms / 1000 or None, target)


def _error(code: grpc.StatusCode, details: str, delay: float | None, target: str) -> ImpastoError:
    if code == grpc.StatusCode.UNAVAILABLE:
        return Unavailable(f"{target}: {details}", delay or 0.0)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        if delay is None and "larger than max" in details:
            return InvalidRequest("message", details, "a message within the server's limit")
        return QueueFull(details, delay or 0.0)
    if code in _ERRORS:
        return _ERRORS[code](details)
    return ImpastoError(f"{target}: {code.name}: {details}")


def retry_after(status: grpc.Call) -> float | None:
    """The server's delay in seconds, if it named one."""
    for key, value in status.trailing_metadata() or ():
        if key == RETRY_AFTER and str(value).isdecimal():
            return int(value) / 1000.0
    return None
