"""The first runs of an engine, in which it is held to the bytes of rows alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from impasto.engine.backend import Backend
from impasto.engine.picture import PictureRequest, Pixels

log = logging.getLogger(__name__)


def warm_up(backend: Backend, run: Callable[[Sequence[PictureRequest]], list[Pixels]], model: str) -> None:
    """Run every batch size and hold it to the bytes of its rows alone; where one differs, rows run alone."""
    for batch in backend.batches:
        requests = [PictureRequest(seed=seed) for seed in range(batch)]
        together = run(requests)
        for row in {0, batch - 1}:
            (alone,) = run([requests[row]])
            if together[row].image_float.tobytes() != alone.image_float.tobytes():
                log.warning("%s: a batch of %d changes a row's bytes; rows run alone", model, batch)
                return backend.one_at_a_time()
