"""All metrics of two sets of pictures; what compares the sets as wholes reads each of them once."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from impasto.errors import InvalidRequest
from impasto.evaluation.features import Extractor, frechet_distance, inception_score, kernel_distance
from impasto.evaluation.inception import WHERE, Features
from impasto.evaluation.pairs import PAIR_METRICS
from impasto.evaluation.sets import Pair, PictureSet, common_size, pairs_of, resized
from impasto.evaluation.sliced_wasserstein import PATCH, Patches, sliced_wasserstein
from impasto.images.pixels import Bytes

FEATURE_METRICS = ("fid", "kid", "is")
METRICS = (*PAIR_METRICS, "swd", *FEATURE_METRICS)
BATCH = 16
"""Pictures of one size that go through the network together."""

OnRead = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found, by the metric's name.

    `values`: psnr (dB), ssim and ms-ssim are means over `pairs` pairs, psnr infinite if a pair is equal; swd is the
    mean over levels, of which `swd_levels` has each by its shorter side; fid and kid are distances; is-a and is-b are
    scores of each set. `lacking` has what each metric lacks that could not be had. `pictures` are those of a and of b.
    """

    pictures: tuple[int, int]
    pairs: int
    values: dict[str, float]
    swd_levels: dict[int, float]
    lacking: dict[str, str]


def evaluate(
    a: PictureSet,
    b: PictureSet,
    metrics: Sequence[str] | None = None,
    extractor: Extractor | None = None,
    on_read: OnRead = lambda done, total: None,
) -> Report:
    """Measure the metrics named (None: all that can be had; `lacking` then tells of the others).

    Pairs are pictures of folders with the same name. `extractor` is the network of FEATURE_METRICS. `on_read` is called
    after each picture with the number done and that of all. InvalidRequest for an unknown metric, or one named that
    cannot be had of these sets.
    """
    pairs = pairs_of(a, b)
    lacks = {metric: _lack(metric, a, b, pairs, extractor) for metric in METRICS}
    for metric in metrics or ():
        if metric not in METRICS:
            raise InvalidRequest("metrics", metric, f"of {', '.join(METRICS)}")
        if reason := lacks[metric]:
            raise InvalidRequest("metrics", metric, f"what can be had here: {metric} lacks {reason}")
    chosen = [metric for metric in METRICS if (metric in metrics if metrics else lacks[metric] is None)]
    lacking = {} if metrics else {metric: reason for metric, reason in lacks.items() if reason}
    of_pairs = [metric for metric in chosen if metric in PAIR_METRICS]
    of_sets = [metric for metric in chosen if metric not in PAIR_METRICS]
    total = len(pairs) * bool(of_pairs) + (len(a.sizes) + len(b.sizes)) * bool(of_sets)
    counter = itertools.count(1)

    def read() -> None:
        on_read(next(counter), total)

    values = _measure_pairs(pairs, of_pairs, read) if of_pairs else {}
    of_wholes, levels = _measure_sets(a, b, of_sets, extractor, read) if of_sets else ({}, {})
    return Report((len(a.sizes), len(b.sizes)), len(pairs), values | of_wholes, levels, lacking)


def _measure_sets(
    a: PictureSet, b: PictureSet, metrics: Sequence[str], extractor: Extractor | None, read: Callable[[], None]
) -> tuple[dict[str, float], dict[int, float]]:
    """The metrics of the sets as wholes, and the levels of swd."""
    size = common_size(a, b)
    network = extractor if set(metrics) & set(FEATURE_METRICS) else None
    patches = [Patches(len(each.sizes)) for each in (a, b)] if "swd" in metrics else [None, None]
    ours, theirs = (_gather(each, size, some, network, read) for each, some in zip((a, b), patches, strict=True))
    values: dict[str, float] = {}
    levels: dict[int, float] = {}
    if patches[0] and patches[1]:
        levels = sliced_wasserstein(patches[0], patches[1])
        values["swd"] = float(np.mean(list(levels.values())))
    if ours and theirs:
        values |= _compare_features(ours, theirs, metrics)
    return values, levels


def _gather(
    pictures: PictureSet,
    size: tuple[int, int],
    patches: Patches | None,
    network: Extractor | None,
    read: Callable[[], None],
) -> Features | None:
    """Read a set once: add each picture, scaled to `size`, to the patches, and take the network's features of it."""
    pool, logits = [], []
    for batch in _batches(pictures):
        for picture in batch:
            if patches is not None:
                patches.add(resized(picture, size))
            read()
        if network is not None:
            features = network(torch.from_numpy(np.stack(batch).transpose(0, 3, 1, 2)))
            pool.append(features.pool)
            logits.append(features.logits)
    return Features(torch.cat(pool), torch.cat(logits)) if pool else None


def _compare_features(a: Features, b: Features, metrics: Sequence[str]) -> dict[str, float]:
    values: dict[str, float] = {}
    if "fid" in metrics:
        values["fid"] = frechet_distance(a.pool, b.pool)
    if "kid" in metrics:
        values["kid"] = kernel_distance(a.pool, b.pool)
    if "is" in metrics:
        values |= {"is-a": inception_score(a.logits), "is-b": inception_score(b.logits)}
    return values


def _measure_pairs(pairs: Sequence[Pair], metrics: Sequence[str], read: Callable[[], None]) -> dict[str, float]:
    """The mean of each metric over the pairs."""
    found: dict[str, list[float]] = {metric: [] for metric in metrics}
    for pair in pairs:
        ours, theirs = pair.pictures()
        for metric in metrics:
            found[metric].append(PAIR_METRICS[metric].measure(ours, theirs))
        read()
    return {metric: float(np.mean(values)) for metric, values in found.items()}


def _lack(metric: str, a: PictureSet, b: PictureSet, pairs: Sequence[Pair], extractor: Extractor | None) -> str | None:
    """What the metric lacks; None if it can be had."""
    if metric in PAIR_METRICS:
        return _lack_of_pairs(PAIR_METRICS[metric].smallest, pairs)
    if metric == "swd":
        side = min(common_size(a, b))
        return None if side >= PATCH else f"sides of {PATCH} pixels or more; the smallest is {side}"
    if extractor is None:
        return f"the weights of Inception v3 (--inception FILE): {WHERE}"
    if min(len(a.sizes), len(b.sizes)) < 2:
        return "two pictures or more in each set"
    return None


def _lack_of_pairs(smallest: int, pairs: Sequence[Pair]) -> str | None:
    if not pairs:
        return "pictures of the same name in two folders; there are none"
    for pair in pairs:
        (width, height), (other_width, other_height) = pair.sizes
        if (width, height) != (other_width, other_height):
            return f"equal sizes; {pair.name} is {width}×{height} and {other_width}×{other_height}"
        if min(width, height) < smallest:
            return f"sides of {smallest} pixels or more; {pair.name} is {width}×{height}"
    return None


def _batches(pictures: PictureSet) -> Iterator[list[Bytes]]:
    """Pictures of one size that follow one another, BATCH at most."""
    batch: list[Bytes] = []
    for picture in pictures:
        if batch and (len(batch) == BATCH or batch[0].shape != picture.shape):
            yield batch
            batch = []
        batch.append(picture)
    if batch:
        yield batch
