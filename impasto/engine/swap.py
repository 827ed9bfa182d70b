"""An engine that serves while a better one is made ready, and then is that one."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from impasto.engine.picture import Engine, PictureRequest, Pixels

log = logging.getLogger(__name__)

Prepare = Callable[[Callable[[], bool]], Engine]
"""Opens and warms up the better engine; what it is given says whether nobody wants it any more."""


@dataclasses.dataclass(slots=True, eq=False)
class _Held:
    """An engine, and how many batches run on it."""

    engine: Engine
    batches: int = 0


class SwappingEngine:
    """Runs `first` until the engine of `prepare` is ready, which happens on a thread once `first` is warm.

    A batch runs on one of them from its beginning to its end, and none waits for the swap. Where `prepare` fails,
    `first` goes on, and the log says why.
    """

    def __init__(self, first: Engine, prepare: Prepare) -> None:
        self.manifest = first.manifest
        self.digest = first.digest
        self.backend = first.backend
        self.device = first.device
        self.buckets = first.buckets
        self.lanes = first.lanes
        self._held = _Held(first)
        self._prepare = prepare
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def check(self, request: PictureRequest) -> None:
        with self._using() as engine:
            engine.check(request)

    def describe(self, request: PictureRequest) -> dict[str, Any]:
        with self._using() as engine:
            return engine.describe(request)

    def run(self, requests: Sequence[PictureRequest]) -> list[Pixels]:
        with self._using() as engine:
            return engine.run(requests)

    def warm_up(self) -> None:
        """Warm up the first engine, then begin to prepare the other."""
        with self._using() as engine:
            engine.warm_up()
        if self._thread is None:
            self._thread = threading.Thread(target=self._swap, name="impasto-swap", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Free the device. An engine still in preparation is told to stop, and closed when it has."""
        with self._changed:
            self._closed.set()
            held = self._held
        self._retire(held)

    def wait(self, timeout: float | None = None) -> bool:
        """Until the preparation has ended, well or not; whether it has."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is not None and not self._thread.is_alive()

    def _swap(self) -> None:
        try:
            better = self._prepare(self._closed.is_set)
        except Exception as error:
            # Whatever is wrong with the other engine, this one makes the same pictures.
            if not self._closed.is_set():
                log.warning("%s stays on %s: %s", self.manifest.name, self.backend, error)
            return
        if better.buckets != self.buckets:
            log.warning("%s stays on %s: %s has other buckets", self.manifest.name, self.backend, better.backend)
            return better.close()
        with self._changed:
            closed = self._closed.is_set()
            before = self._held
            if not closed:
                self._held = _Held(better)
                self.backend, self.device, self.lanes = better.backend, better.device, better.lanes
        if closed:
            return better.close()
        log.info("%s now runs on %s", self.manifest.name, self.backend)
        self._retire(before)

    @contextlib.contextmanager
    def _using(self) -> Iterator[Engine]:
        with self._changed:
            held = self._held
            held.batches += 1
        try:
            yield held.engine
        finally:
            with self._changed:
                held.batches -= 1
                self._changed.notify_all()

    def _retire(self, held: _Held) -> None:
        """Close an engine when its last batch has ended."""
        with self._changed:
            self._changed.wait_for(lambda: not held.batches)
        held.engine.close()
