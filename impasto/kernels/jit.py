"""Triton where it is installed. Without it there are the torch references, and nothing is launched."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    tl: Any
    triton: Any
else:
    try:
        import triton
        import triton.language as tl
    except ImportError:
        triton = tl = None


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit`, or the function as it stands where there is no Triton."""
    return function if triton is None else triton.jit(function)
