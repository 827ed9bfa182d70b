"""How close a kernel must come to the float64 reference."""

from __future__ import annotations

from torch import Tensor

from benchmarks.closeness import disagreement


def assert_close(found: Tensor, expected: Tensor, *, terms: int = 1) -> None:
    """Every value finite, and within what rounding can do to a sum of `terms` products (see `disagreement`)."""
    wrong = disagreement(found, expected, terms=terms)
    assert wrong is None, wrong
