from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from impasto.evaluation.features import SUBSETS, frechet_distance, inception_score, kernel_distance
from tests.evaluation.folders import texture


class Network(nn.Module):
    """A small network of chance weights that torchmetrics takes as it is."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, self.num_features, 5, 2)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.conv(pictures.double().to(torch.float32) / 255.0).relu().mean(dim=(2, 3)).detach()


NETWORK = Network()


def pictures(seeds: range, period: float) -> Tensor:
    return torch.from_numpy(np.stack([texture(seed, period, 24) for seed in seeds]).transpose(0, 3, 1, 2).copy())


A, B = pictures(range(40), 5.0), pictures(range(100, 150), 9.0)


def test_the_frechet_distance_is_that_of_torchmetrics_with_the_network() -> None:
    metric = FrechetInceptionDistance(feature=NETWORK)
    metric.update(A, real=True)
    metric.update(B, real=False)
    assert frechet_distance(NETWORK(A), NETWORK(B)) == pytest.approx(float(metric.compute()), abs=1e-5)


def test_the_frechet_distance_of_normal_features_is_the_formula() -> None:
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 2, generator=rng)
    b = torch.randn(4000, 2, generator=rng) * torch.tensor([2.0, 1.0]) + torch.tensor([3.0, 0.0])
    # |μ − μ′|² + (1 − 2)²: deviations along the same axes.
    assert frechet_distance(a, b) == pytest.approx(9.0 + 1.0, rel=0.05)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_kernel_distance_and_the_score_are_those_of_torchmetrics_with_the_network() -> None:
    kid = KernelInceptionDistance(feature=NETWORK, subsets=SUBSETS, subset_size=40)
    kid.update(A, real=True)
    kid.update(B, real=False)
    score = InceptionScore(feature=NETWORK, splits=10)
    score.update(A)
    for ours, metric in (
        (kernel_distance(NETWORK(A), NETWORK(B)), kid),
        (inception_score(NETWORK(A)), score),
    ):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            mean, _ = metric.compute()
        assert ours == pytest.approx(float(mean), abs=1e-5)


def test_they_are_the_same_each_time_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    a, b = NETWORK(A), NETWORK(B)
    assert kernel_distance(a, b) == kernel_distance(a, b)
    assert inception_score(a) == inception_score(a)
    assert torch.equal(torch.rand(1), wanted)
