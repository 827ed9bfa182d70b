"""Null models that stop where a test wants them to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from impasto.engine.null import NullEngine
from impasto.engine.picture import PictureRequest, Pixels
from tests.support.waiting import GUARD

HELD = 4_000_000_000
"""The seed whose batch waits for the gate."""
BATCH_SECONDS = 0.002
"""What every batch takes: as long as this, no server may run it on its event loop."""


class Gate:
    """Batches with the seed HELD, and the warming up of engines if asked, wait until `open`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._opened = threading.Event()
        self._reached = threading.Semaphore(0)
        run = NullEngine.run

        def gated(engine: NullEngine, requests: Sequence[PictureRequest]) -> list[Pixels]:
            time.sleep(BATCH_SECONDS)
            if any(request.seed == HELD for request in requests):
                self._wait()
            return run(engine, requests)

        monkeypatch.setattr(NullEngine, "run", gated)

    def hold_warm_up(self) -> None:
        """From now on, warming up waits too."""
        self._monkeypatch.setattr(NullEngine, "warm_up", lambda engine: self._wait())

    async def reached(self) -> None:
        """Return when a batch, or a warming up, has come to wait."""
        assert await asyncio.to_thread(self._reached.acquire, timeout=GUARD)

    def open(self) -> None:
        """Let all pass, from now on."""
        self._opened.set()

    def _wait(self) -> None:
        self._reached.release()
        assert self._opened.wait(GUARD)
