"""A network captured as a CUDA graph: all its launches as one, between buffers that never move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

WARM_UP = 2
"""Runs before the capture, in which kernels are compiled and libraries choose theirs."""


class Graph:
    """`network` of `inputs` on the current device; copy into `inputs`, then `replay`.

    `pool` is the memory that it takes (`torch.cuda.graph_pool_handle`): that of graphs which never run at once.
    """

    def __init__(self, network: Callable[..., tuple[Tensor, ...]], inputs: Mapping[str, Tensor], pool: Any) -> None:
        self.inputs = inputs
        self._graph = torch.cuda.CUDAGraph()
        aside = new_stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                network(**inputs)
        torch.cuda.current_stream().wait_stream(aside)
        # Other threads go on to serve meanwhile: what they allocate is no fault of the capture.
        with torch.cuda.graph(self._graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
            self._outputs = network(**inputs)

    def replay(self) -> tuple[Tensor, ...]:
        """The outputs, on the current stream; the next replay writes them again."""
        self._graph.replay()
        return self._outputs


def new_stream() -> torch.cuda.Stream:
    """A stream on the current device."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch gives no type


def new_event() -> torch.cuda.Event:
    """An event, which counts as past until it is recorded."""
    return torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch gives no type
