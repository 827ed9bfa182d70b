"""Faults of our own: the log has them whole, the client an id."""

from __future__ import annotations

import logging
import uuid

from impasto.errors import InternalError

log = logging.getLogger(__name__)


def internal_error(what: str, error: BaseException) -> InternalError:
    """Log an unforeseen error with its traceback and a new id; the error to show names only the id."""
    fault = uuid.uuid4().hex[:12]
    log.error("fault %s: %s failed", fault, what, exc_info=error)
    return InternalError(f"{what} failed; the server's log has it as fault {fault}")
