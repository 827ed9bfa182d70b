"""FID, KID and IS from a network's features of two sets of pictures, computed by torchmetrics."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from impasto.evaluation.inception import Features

SUBSETS = 100
SUBSET_SIZE = 1000
SPLITS = 10


class Extractor(Protocol):
    """A network: pictures uint8 [N, 3, H, W] to `Features`."""

    def __call__(self, pictures: Tensor) -> Features: ...


class AsTheyAre(nn.Module):
    """What torchmetrics takes for a network, where its input is the features already: each picture passes one once."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """FID of features [N, D] and [M, D]: |μ − μ′|² + tr(Σ + Σ′ − 2·(ΣΣ′)^½) (Heusel et al. 2017)."""
    metric = FrechetInceptionDistance(feature=AsTheyAre(a.shape[1]))
    return _of_two(metric, a.double(), b.double())


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """KID of features [N, D] and [M, D], the mean over subsets (Bińkowski et al. 2018), of at most SUBSET_SIZE each.

    It has no bias, and so may be a little below 0. The same features have the same subsets.
    """
    size = min(SUBSET_SIZE, len(a), len(b))
    with _quiet():
        metric = KernelInceptionDistance(feature=AsTheyAre(a.shape[1]), subsets=SUBSETS, subset_size=size)
        return _of_two(metric, a.double(), b.double())


def inception_score(logits: Tensor) -> float:
    """IS of logits [N, classes], the mean over SPLITS parts or fewer of N pictures (Salimans et al. 2016)."""
    with _quiet(), _seeded():
        metric = InceptionScore(feature=AsTheyAre(logits.shape[1]), splits=min(SPLITS, len(logits)))
        metric.update(logits.double())
        mean, _ = metric.compute()
    return float(mean)


def _of_two(metric: Any, a: Tensor, b: Tensor) -> float:
    with _seeded():
        metric.update(a, real=True)
        metric.update(b, real=False)
        value = metric.compute()
    return float(value[0] if isinstance(value, tuple) else value)


@contextmanager
def _seeded() -> Iterator[None]:
    """torchmetrics draws subsets from torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Features are kept on purpose, and one split has no deviation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
