"""A plain loop of onnxruntime without a server: the ceiling. Run in a process of its own, it prints JSON.

python -m benchmarks.peers.loop BUNDLE SECONDS
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers.graphs import Graphs
from impasto.engine.backend import available_cores


@dataclass(frozen=True)
class Way:
    """How the loop uses the cores: so many loops side by side, each with a session of `threads` and this batch."""

    loops: int
    threads: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.loops} x {self.threads} thread(s), batch {self.batch}"


@dataclass(frozen=True)
class Looped:
    """What a way made: pictures a second, and each batch's ms."""

    way: str
    images: int
    seconds: float
    batch_ms: list[float]


def ways(cores: int) -> list[Way]:
    """All cores on one batch, or a batch on each core."""
    return [Way(1, cores, 8), Way(cores, 1, 8), Way(cores, 1, 1)]


def looped(bundle: Path, way: Way, seconds: float) -> Looped:
    """Run the loops for so many seconds, after one batch each."""
    sessions = [Graphs(bundle, way.threads) for _ in range(way.loops)]
    seeds = np.arange(way.batch)
    times: list[float] = []
    start = threading.Barrier(way.loops + 1)
    ended = [0.0] * way.loops

    def loop(index: int) -> None:
        sessions[index].pictures(seeds)
        start.wait()
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            sessions[index].pictures(seeds)
            times.append((time.perf_counter() - began) * 1e3)
        ended[index] = time.perf_counter()

    threads = [threading.Thread(target=loop, args=(index,)) for index in range(way.loops)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return Looped(way.name, len(times) * way.batch, max(ended) - began, times)


def main(arguments: Sequence[str]) -> None:
    """Every way in turn; the fastest is the ceiling."""
    bundle, seconds = Path(arguments[0]), float(arguments[1])
    print(json.dumps([asdict(looped(bundle, way, seconds)) for way in ways(available_cores())]))


if __name__ == "__main__":
    main(sys.argv[1:])
