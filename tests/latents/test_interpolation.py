from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from impasto.latents import INTERPOLATIONS, linear, spherical

A, B = (np.random.RandomState(seed).randn(3, 40).astype(np.float32) for seed in (1, 2))


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_the_ends_are_the_latents_themselves(name: str) -> None:
    for t, end in ((0.0, A), (1.0, B)):
        found = INTERPOLATIONS[name](A, B, t)
        assert found.dtype == np.float32
        assert np.array_equal(found, end)


def test_linear_is_the_straight_line() -> None:
    assert np.allclose(linear(A, B, 0.25), 0.75 * A + 0.25 * B, atol=1e-6)


@given(t=st.floats(0.0, 1.0), seed=st.integers(0, 1000))
def test_the_arc_between_vectors_of_one_length_keeps_it_and_turns_evenly(t: float, seed: int) -> None:
    drawn = np.random.RandomState(seed).randn(2, 16)
    start, end = (3.0 * row / np.linalg.norm(row) for row in drawn)
    point = spherical(start.astype(np.float32), end.astype(np.float32), t)
    whole = np.arccos(np.dot(start, end) / 9.0)
    assert np.linalg.norm(point) == pytest.approx(3.0, abs=1e-4)
    assert np.arccos(np.clip(np.dot(start, point) / 9.0, -1, 1)) == pytest.approx(t * whole, abs=2e-3)


def test_a_quarter_circle_is_halved_at_45_degrees() -> None:
    start, end = np.float32([2.0, 0.0]), np.float32([0.0, 2.0])
    assert np.allclose(spherical(start, end, 0.5), [2**0.5, 2**0.5], atol=1e-6)


@pytest.mark.parametrize("end", [A, 2.0 * A, -A, np.zeros_like(A)])
def test_where_there_is_no_one_arc_the_line_is_taken(end: np.ndarray) -> None:  # type: ignore[type-arg]
    assert np.allclose(spherical(A, end, 0.5), 0.5 * (A + end), atol=1e-6)
