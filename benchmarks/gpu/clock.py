"""Times on a card: medians of runs that alternate, each with cold caches, and what the card can do at best."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from statistics import median

import torch
from torch import Tensor

WARM_UP = 3
FLUSHED = 256 * 2**20
"""Bytes read before each run: more than any card's cache, and read so that none must be written back."""
COPIED = 2**30
SIDE = 8192

Ways = Mapping[str, Callable[[], object]]
Clock = Callable[[Ways], dict[str, float]]
"""Milliseconds of each way to do one thing."""


@dataclasses.dataclass(frozen=True)
class GraphClock:
    """Takes the time of CUDA graphs, so that nobody's cost of launching counts, by events on the card."""

    runs: int
    buffer: Tensor

    def __call__(self, ways: Ways) -> dict[str, float]:
        graphs = {name: _captured(way) for name, way in ways.items()}
        events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in ways}
        for _ in range(self.runs):
            for name, graph in graphs.items():
                start, end = _event(), _event()
                self.buffer.sum()
                start.record()
                graph.replay()
                end.record()
                events[name].append((start, end))
        torch.cuda.synchronize()
        return {name: median(start.elapsed_time(end) for start, end in pairs) for name, pairs in events.items()}


def graph_clock(device: torch.device, runs: int) -> GraphClock:
    """A clock for a card, whose medians are those of so many runs."""
    return GraphClock(runs, torch.zeros(FLUSHED // 4, device=device))


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch gives no type


def _captured(way: Callable[[], object]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch gives no type
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            way()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        way()
    graph.replay()
    return graph


@dataclasses.dataclass(frozen=True)
class Floor:
    """What the card was seen to do: bytes/s copied (read and written both count), operations/s of float16 products.

    `smallest` is the milliseconds of a graph that does next to nothing: no time can be less.
    """

    copied: float
    multiplied: float
    smallest: float

    def milliseconds(self, moved: int, operations: int) -> float:
        """The least time for so many bytes and float16 operations."""
        return max(moved / self.copied, operations / self.multiplied) * 1e3


def measured_floor(device: torch.device, clock: Clock) -> Floor:
    """The floor by a copy of 1 GiB, the faster of two ways, and by a product of 8192² matrices."""
    source, target = (torch.zeros(COPIED // 4, device=device) for _ in range(2))
    copies = clock({"copy": lambda: target.copy_(source), "kernel": lambda: torch.neg(source, out=target)})
    left, right = (torch.randn(SIDE, SIDE, device=device, dtype=torch.float16) for _ in range(2))
    product = clock({"product": lambda: left @ right})["product"]
    one = torch.zeros(1, device=device)
    smallest = clock({"one": lambda: one.zero_()})["one"]
    return Floor(2 * COPIED / min(copies.values()) * 1e3, 2 * SIDE**3 / product * 1e3, smallest)
