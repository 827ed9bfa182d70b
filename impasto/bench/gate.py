"""The check before any speed: the pictures of a system against the fp32 reference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from impasto.bench.result import Gate, MixEntry
from impasto.bench.target import Target
from impasto.bench.traffic import Order
from impasto.errors import ImpastoError, InvalidRequest
from impasto.images.pixels import Bytes

References = Callable[[str], Target]
"""A model's fp32 reference by its name."""
SEEDS = (0, 7, 1234, 2**31)
PEAK = 255.0
MOST_DB = 200.0
TOLERANCE_DB: Mapping[str, float] = {"fp32": 60.0, "fp16": 50.0, "bf16": 37.0}
"""What uint8 pictures of a precision must reach: rounding alone may put a value one level off."""


def check_pictures(target: Target, references: References, entries: tuple[MixEntry, ...], precision: str) -> Gate:
    """The worst picture of fixed seeds, of every kind of request in a mix.

    InvalidRequest for a precision whose tolerance is not stated, or where the system's bundle is not the reference's.
    """
    if precision not in TOLERANCE_DB:
        raise InvalidRequest("precision", precision, f"one of {', '.join(TOLERANCE_DB)}, whose tolerances are stated")
    worst, used, name = MOST_DB, list[int](), ""
    for entry in entries:
        reference = references(entry.model)
        name = "{backend} {precision} on {device}".format(**reference.settings)
        found, wanted = target.model(entry.model), reference.model(entry.model)
        if found.digest and found.digest != wanted.digest:
            allowed = f"{wanted.digest[:12]}, as the reference has it here"
            raise InvalidRequest(f"model {entry.model}: digest", found.digest[:12], allowed)
        for order in _orders(entry):
            used += list(order.seeds)
            made, expected = target.pictures(order), reference.pictures(order)
            if len(made) != len(expected):
                raise ImpastoError(f"model {entry.model}: found {len(made)} pictures; allowed is {len(expected)}")
            worst = min(worst, *(psnr_db(one, other) for one, other in zip(made, expected, strict=True)))
    return Gate(name, tuple(dict.fromkeys(used)), worst, TOLERANCE_DB[precision])


def psnr_db(found: Bytes, expected: Bytes) -> float:
    """10·log10(255² / mean squared error), at most 200; 0 where the shapes differ."""
    if found.shape != expected.shape:
        return 0.0
    error = float(np.mean(np.square(found.astype(np.float64) - expected.astype(np.float64))))
    return min(MOST_DB, 10 * math.log10(PEAK**2 / error)) if error else MOST_DB


def _orders(entry: MixEntry) -> list[Order]:
    """Fixed seeds in requests of the entry's size, without its deadline: a first picture may take its time."""
    entry = dataclasses.replace(entry, deadline_ms=None, priority=0)
    return [Order(0.0, entry, seed) for seed in (SEEDS if entry.batch == 1 else SEEDS[:1])]
