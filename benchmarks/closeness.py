"""How close a kernel must come to the float64 reference: one rule for the tests and for the benchmark on a card."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def disagreement(found: Tensor, expected: Tensor, *, terms: int = 1, kept: float = 0.0) -> str | None:
    """None if all values are finite and within what rounding can do to a sum of `terms` products; else what is wrong.

    `expected` is float64, computed from the inputs as `found`'s dtype holds them. Allowed is eps·(8 + 4·√terms) of the
    dtype that the kernel computes in (float32, with one rounding of the result to its dtype), relative to the largest
    expected value; and `kept`, the eps of what is rounded on the way.
    """
    if found.shape != expected.shape or expected.dtype != torch.float64:
        return f"found {list(found.shape)}, expected {list(expected.shape)} in {expected.dtype}"
    if not torch.isfinite(found).all():
        return "NaN or infinite: part of the output was not written, or it overflowed"
    scale = expected.abs().max().item()
    computed = torch.finfo(torch.float32).eps * (8 + 4 * math.sqrt(terms))
    rounded = 0.0 if found.dtype == torch.float64 else torch.finfo(found.dtype).eps
    error = (found.double() - expected).abs().max().item()
    if error <= (computed + rounded + kept) * scale:
        return None
    return f"error {error:.3g} at scale {scale:.3g}, {terms} terms"
