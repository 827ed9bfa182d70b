"""bfloat16 for Triton's interpreter, which holds it as uint16, multiplies that as integers and rounds towards zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray


def repair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make products, matrix products and conversions of bfloat16 what they are on a card, to the end of the test."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast, multiply, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_fmul, InterpreterBuilder.create_dot

    def widened(handle: Any) -> Any:
        return TensorHandle(_to_float32(handle.data), tl.float32) if handle.dtype.scalar == tl.bfloat16 else handle

    def exact_cast(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
            return TensorHandle(_from_float32(source.data), tl.bfloat16)
        return cast(self, source, target)

    def exact_multiply(self: Any, left: Any, right: Any) -> Any:
        if left.dtype.scalar == tl.bfloat16:
            return exact_cast(self, multiply(self, widened(left), widened(right)), tl.bfloat16)
        return multiply(self, left, right)

    def exact_dot(self: Any, left: Any, right: Any, *others: Any) -> Any:
        return dot(self, widened(left), widened(right), *others)

    monkeypatch.setattr(InterpreterBuilder, "cast_impl", exact_cast)
    monkeypatch.setattr(InterpreterBuilder, "create_fmul", exact_multiply)
    monkeypatch.setattr(InterpreterBuilder, "create_dot", exact_dot)


def _to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _from_float32(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    rounded: NDArray[np.uint16] = torch.from_numpy(np.ascontiguousarray(values)).bfloat16().view(torch.uint16).numpy()
    return rounded
