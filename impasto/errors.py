"""The errors that users of Impasto see. The server maps each class to one gRPC status, the client maps it back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self


class ImpastoError(Exception):
    """Base of all errors that Impasto raises on purpose."""

    @classmethod
    def received(cls, message: str) -> Self:
        """The error as a server told it, its message as it stands."""
        error = cls.__new__(cls)
        Exception.__init__(error, message)
        return error


class InvalidRequest(ImpastoError):
    """A field of a request is out of range: names the field, what was found and what is allowed."""

    def __init__(self, field: str, found: object, allowed: str) -> None:
        super().__init__(f"{field}: found {_shortened(found)}; allowed is {allowed}")

    @property
    def field(self) -> str:
        """The field's name."""
        return str(self).partition(":")[0]

    def renamed(self, field: str) -> InvalidRequest:
        """The same of a field that whoever asked knows by another name."""
        return InvalidRequest.received(field + str(self).removeprefix(self.field))


class ModelNotFound(ImpastoError):
    """No model of that name (and version); lists those there are."""

    def __init__(self, name: str, available: Iterable[str]) -> None:
        listed = ", ".join(sorted(available)) or "none"
        super().__init__(f"model: found no {_shortened(name)}; there are: {listed}")


class QueueFull(ImpastoError):
    """The queue of a priority is at its limit; try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class DeadlineExceeded(ImpastoError):
    """The deadline has passed, or cannot be met."""


class Cancelled(ImpastoError):
    """The caller went away or cancelled."""


class Unavailable(ImpastoError):
    """The server is starting, draining or out of reach; try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class CheckpointError(ImpastoError):
    """A foreign checkpoint cannot be read: names what was found."""


class BundleError(ImpastoError):
    """A bundle on disk is missing, broken or does not match its manifest."""


class ExportError(ImpastoError):
    """A graph breaks a rule of the export, or differs from its reference."""


class BackendUnavailable(ImpastoError):
    """The backend or device asked for is not there; says what is missing and the remedy."""


class InternalError(ImpastoError):
    """A fault of Impasto's own; its id is also in the server's log."""


def _shortened(found: object, limit: int = 80) -> str:
    text = found if isinstance(found, str) else repr(found)
    shown = repr(found) if isinstance(found, str) else text
    return shown if len(shown) <= limit else f"{shown[:limit]}… ({len(text)} characters)"
