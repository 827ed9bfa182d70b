"""Checks of the arguments of launchers: a ValueError names the argument, what was found and what is allowed."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""What kernels read and write; they compute in float32."""


def check_dtype(name: str, tensor: Tensor, allowed: tuple[torch.dtype, ...] = FLOATS) -> None:
    """Raise ValueError unless the tensor's dtype is an allowed one."""
    if tensor.dtype not in allowed:
        raise ValueError(f"{name}: found {tensor.dtype}; allowed: {', '.join(map(str, allowed))}")


def check_shape(name: str, tensor: Tensor, allowed: tuple[int, ...]) -> None:
    """Raise ValueError unless the tensor has this shape."""
    if tuple(tensor.shape) != allowed:
        raise ValueError(f"{name}: found shape {list(tensor.shape)}; allowed: {list(allowed)}")


def check_contiguous(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless the tensor is contiguous."""
    if not tensor.is_contiguous():
        raise ValueError(f"{name}: found strides {tensor.stride()}; allowed: contiguous")


def is_channels_last(name: str, x: Tensor) -> bool:
    """Whether channels are innermost in x [N, C, ...]; False if x is contiguous, ValueError if it is neither."""
    if x.is_contiguous():
        return False
    if x.ndim > 2 and x.movedim(1, -1).is_contiguous():
        return True
    raise ValueError(f"{name}: found strides {x.stride()}; allowed: contiguous or channels-last")


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def next_power(n: int) -> int:
    """The smallest power of two that is at least n, for n ≥ 1."""
    return 1 << (n - 1).bit_length()
