from __future__ import annotations

import numpy as np
import pytest

from impasto.errors import InvalidRequest
from impasto.latents import Space, drawn_seeds, linear, smooth, through

KEYS = [Space.z(512).of_seed(seed) for seed in (1, 2, 3)]


def test_an_open_walk_comes_by_every_key_and_ends_at_the_last() -> None:
    points = list(through(KEYS, 9))
    assert len(points) == 9
    assert all(np.array_equal(points[4 * index], key) for index, key in enumerate(KEYS))


def test_a_closed_walk_comes_by_every_key_and_its_last_step_leads_to_the_first() -> None:
    points = list(through(KEYS, 12, interpolate=linear, closed=True))
    assert all(np.array_equal(points[4 * index], key) for index, key in enumerate(KEYS))
    last_leg = [
        np.linalg.norm(after - before) for before, after in zip(points[8:], [*points[9:], points[0]], strict=True)
    ]
    assert np.allclose(last_leg, np.linalg.norm(KEYS[2] - KEYS[0]) / 4, rtol=1e-4)


def test_a_linear_walk_goes_straight_from_key_to_key() -> None:
    points = list(through(KEYS, 5, interpolate=linear))
    assert np.allclose(points[1], 0.5 * (KEYS[0] + KEYS[1]), atol=1e-6)
    assert np.allclose(points[3], 0.5 * (KEYS[1] + KEYS[2]), atol=1e-6)


@pytest.mark.parametrize("closed", [False, True])
def test_a_smooth_walk_stays_standard_normal(closed: bool) -> None:
    keys = [Space.z(4096).of_seed(seed) for seed in range(5)]
    for point in smooth(keys, 40, closed=closed):
        assert float(point.std()) == pytest.approx(1.0, abs=0.06)
        assert float(point.mean()) == pytest.approx(0.0, abs=0.06)


def test_a_smooth_walk_is_near_each_key_in_turn_and_bends_nowhere_sharply() -> None:
    points = list(smooth(KEYS, 101))
    for place, key in zip((0, 50, 100), KEYS, strict=True):
        nearest = min(KEYS, key=lambda other: float(np.linalg.norm(points[place] - other)))
        assert nearest is key
    steps = np.diff(points, axis=0)
    bends = np.linalg.norm(np.diff(steps, axis=0), axis=1) / np.linalg.norm(steps, axis=1).mean()
    assert bends.max() < 0.15
    corners = np.diff(list(through(KEYS, 101)), axis=0)
    assert np.linalg.norm(np.diff(corners, axis=0), axis=1).max() / np.linalg.norm(corners, axis=1).mean() > 0.5


def test_a_closed_smooth_walk_has_no_seam() -> None:
    points = list(smooth(KEYS, 60, closed=True))
    steps = np.linalg.norm(np.diff([*points, points[0]], axis=0), axis=1)
    assert steps[-1] == pytest.approx(steps[0], rel=1e-3)


def test_the_seeds_of_a_random_walk_are_decided_by_its_own_and_a_longer_walk_begins_alike() -> None:
    assert drawn_seeds(7, 3) == drawn_seeds(7, 5)[:3]
    assert drawn_seeds(7, 5) != drawn_seeds(8, 5)
    assert all(0 <= seed < 2**32 for seed in drawn_seeds(7, 100))
    assert len(set(drawn_seeds(7, 100))) == 100


@pytest.mark.parametrize("walk", [through, smooth])
def test_a_walk_needs_two_keys_and_two_frames(walk: object) -> None:
    assert callable(walk)
    with pytest.raises(InvalidRequest, match="seeds: found '1 to walk through'; allowed is two or more"):
        list(walk(KEYS[:1], 10))
    with pytest.raises(InvalidRequest, match="frames: found 1; allowed is 2 to 1000000"):
        list(walk(KEYS, 1))
