from __future__ import annotations

import numpy as np
import pytest
import torch

from impasto.evaluation.sliced_wasserstein import Patches, laplacian_pyramid, point_distance, sliced_wasserstein
from impasto.images.pixels import Bytes
from tests.evaluation.folders import texture


def patches(pictures: list[Bytes]) -> Patches:
    taken = Patches(len(pictures))
    for picture in pictures:
        taken.add(picture)
    return taken


def test_equal_sets_are_at_no_distance() -> None:
    pictures = [texture(seed, 6.0) for seed in range(4)]
    assert sliced_wasserstein(patches(pictures), patches(pictures)) == {48: 0.0, 24: 0.0}


def test_a_shift_of_points_is_its_mean_length_along_the_directions() -> None:
    points = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([3.0, 0.0, 4.0])
    directions = torch.nn.functional.normalize(torch.randn(3, 4096, generator=torch.Generator().manual_seed(1)), dim=0)
    # On the sphere in three dimensions the mean of |cosine| is a half.
    assert point_distance(points, points + shift, directions) == pytest.approx(0.5 * 5.0, rel=0.03)
    along = torch.tensor([[0.6], [0.0], [0.8]])
    assert point_distance(points, points + shift, along) == pytest.approx(5.0, rel=1e-4)


def test_one_direction_is_the_earth_movers_distance_on_the_line() -> None:
    a, b = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[6.0], [0.0], [2.0]])
    assert point_distance(a, b, torch.ones(1, 1)) == pytest.approx((0 + 1 + 1) / 3)


@pytest.mark.parametrize("size", [(32, 32), (37, 50)])
def test_a_pyramid_gives_the_picture_back(size: tuple[int, int]) -> None:
    picture = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    levels = laplacian_pyramid(picture)
    assert min(levels[-1].shape[1:]) in (16, 19)
    flat = laplacian_pyramid(torch.full((3, *size), 7.0))
    assert torch.allclose(flat[0][:, 4:-4, 4:-4], torch.zeros(()), atol=1e-5)
    assert torch.allclose(flat[-1], torch.full((), 7.0), atol=1e-5)


def test_two_halves_of_one_set_are_nearer_than_two_sets() -> None:
    fine = [texture(seed, 6.0) for seed in range(48)]
    coarse = [texture(seed, 15.0) for seed in range(100, 124)]
    halves = sliced_wasserstein(patches(fine[:24]), patches(fine[24:]))
    apart = sliced_wasserstein(patches(fine[:24]), patches(coarse))
    assert np.mean(list(halves.values())) < 0.7 * np.mean(list(apart.values()))


def test_sets_of_unequal_numbers_are_compared_and_the_same_each_time() -> None:
    few, many = [texture(seed, 6.0) for seed in range(3)], [texture(seed, 14.0) for seed in range(8)]
    first, second = (sliced_wasserstein(patches(few), patches(many)) for _ in range(2))
    assert first == second
    assert all(value > 0.0 for value in first.values())
