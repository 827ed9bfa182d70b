"""Walks: the points that a film's frames are made from, on a path through given latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from impasto.errors import InvalidRequest
from impasto.generation import MAX_SEED
from impasto.images.pixels import Floats
from impasto.latents.interpolation import Interpolation, spherical

WIDTH = 0.5
"""Standard deviation of a key's weight in a smooth walk, in steps from key to key."""
MAX_FRAMES = 1_000_000


def through(
    keys: Sequence[Floats], frames: int, *, interpolate: Interpolation = spherical, closed: bool = False
) -> Iterator[Floats]:
    """`frames` points at equal steps from the first key through all others, each a float32 of the keys' shape.

    The last point is the last key or, if `closed`, one step before the first key: repeated, the film has no seam.
    InvalidRequest for less than two keys, or a number of frames that is not from 2 to MAX_FRAMES.
    """
    for position in _positions(len(keys), frames, closed):
        index = min(int(position), len(keys) - 1)
        yield interpolate(keys[index], keys[(index + 1) % len(keys)], position - index)


def smooth(keys: Sequence[Floats], frames: int, *, closed: bool = False) -> Iterator[Floats]:
    """`frames` points of a path that bends nowhere sharply, near each key in turn, and stays standard normal.

    z(t) = Σₖ g(t − k)·zₖ / √Σₖ g(t − k)², g(d) = exp(−d² / 2·WIDTH²): noise under a Gaussian filter, scaled back to
    unit variance (as the videos of Karras et al. 2018, "Progressive growing of GANs"). Keys, frames and `closed` as in
    `through`.
    """
    for position in _positions(len(keys), frames, closed):
        distances = np.abs(position - np.arange(len(keys)))
        if closed:
            distances = np.minimum(distances, len(keys) - distances)
        weights = np.exp(-0.5 * (distances / WIDTH) ** 2)
        weights /= np.sqrt(np.sum(weights**2))
        yield np.sum([np.float32(weight) * key for weight, key in zip(weights, keys, strict=True)], axis=0)


def drawn_seeds(seed: int, count: int) -> list[int]:
    """`count` seeds that a walk's own seed decides; a longer walk begins as a shorter one does."""
    return [int(drawn) for drawn in np.random.RandomState(seed).randint(0, MAX_SEED + 1, count, np.uint64)]


def _positions(keys: int, frames: int, closed: bool) -> Iterator[float]:
    """Where each frame is, counted in keys."""
    if keys < 2:
        raise InvalidRequest("seeds", f"{keys} to walk through", "two or more")
    if not 2 <= frames <= MAX_FRAMES:
        raise InvalidRequest("frames", frames, f"2 to {MAX_FRAMES}")
    steps, stretch = (frames, keys) if closed else (frames - 1, keys - 1)
    return (frame * stretch / steps for frame in range(frames))
