"""Rows on a CPU in torch: one that has the machine to itself on all cores, several side by side with a core each.

Threads that share a row wait for each other at every operation, and longest where other work holds a core.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from impasto.engine.backend import Feeds
from impasto.engine.company import Company
from impasto.engine.picture import Floats


class Cores:
    """Threads of its own, so that torch's number of threads is left as it is for everyone else."""

    def __init__(self, count: int) -> None:
        self._company = Company()
        before = torch.get_num_threads()
        self._whole = _workers(1, count)
        self._single = _workers(count, 1) if count > 1 else None
        torch.set_num_threads(before)

    def run(self, one: Callable[[Feeds], Floats], rows: Sequence[Feeds]) -> list[Floats]:
        """The results of `one` for each row, in their order."""
        if self._single is None or len(rows) > 1:
            return list((self._single or self._whole).map(one, rows))
        with self._company as alone:
            return list((self._whole if alone else self._single).map(one, rows))

    def one_at_a_time(self) -> None:
        """From now on run no rows side by side."""
        if self._single is not None:
            self._single.shutdown()
        self._single = None

    def close(self) -> None:
        """End the threads."""
        self.one_at_a_time()
        self._whole.shutdown()


def _workers(count: int, cores: int) -> ThreadPoolExecutor:
    """So many threads, all started, in each of which torch uses `cores`."""

    def begin() -> None:
        # Asking first: a thread's own number is settled when it is first needed, and would undo what was set before.
        torch.get_num_threads()
        torch.set_num_threads(cores)

    pool = ThreadPoolExecutor(count, thread_name_prefix="impasto-row", initializer=begin)
    all_here = threading.Barrier(count)
    list(pool.map(lambda _: all_here.wait(), range(count)))
    return pool
