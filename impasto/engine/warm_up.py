"""The first runs of an engine, in which it is held to the bytes of rows alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from impasto.engine.picture import PictureRequest, Pixels

log = logging.getLogger(__name__)


class Rows(Protocol):
    """What runs rows, side by side or alone: a backend, or sessions."""

    @property
    def batches(self) -> tuple[int, ...]: ...

    def one_at_a_time(self) -> None: ...


def of_seed(seed: int) -> PictureRequest:
    """What most engines are warmed up with."""
    return PictureRequest(seed=seed)


def warm_up(
    backend: Rows,
    run: Callable[[Sequence[PictureRequest]], list[Pixels]],
    model: str,
    request: Callable[[int], PictureRequest] = of_seed,
) -> None:
    """Run every batch size and hold it to the bytes of its rows alone; where one differs, rows run alone.

    `request` gives that of a seed.
    """
    for batch in backend.batches:
        requests = [request(seed) for seed in range(batch)]
        together = run(requests)
        for row in {0, batch - 1}:
            (alone,) = run([requests[row]])
            if together[row].image_float.tobytes() != alone.image_float.tobytes():
                log.warning("%s: a batch of %d changes a row's bytes; rows run alone", model, batch)
                return backend.one_at_a_time()
