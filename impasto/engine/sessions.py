"""ONNX graphs on one device, with named inputs and outputs: what step-wise engines run. Needs no torch.

On a CPU a batch costs what its rows cost alone, and splitting one row over all cores gains less than giving each core
its own. So rows run side by side, a core each, and a row that is left over runs on all of them; that both give the same
bytes is checked when the engine warms up. On CUDA rows run in padded buckets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from impasto.engine.onnxruntime import available_cores, open_session, provider_of

Array = NDArray[Any]
Arrays = Mapping[str, Array]
"""Inputs or outputs of one row by name, each with a first dimension of 1."""

SHARED_ABOVE = 512 * 2**20
"""A graph of more bytes is loaded once: its rows run one after the other on all cores."""


class Sessions:
    """Sessions of a bundle's graphs. `run` may be called from several threads at once.

    `shared` are the graphs of which rows never run side by side: those that run seldom, or too large to hold twice.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        device: str,
        threads: int | None,
        buckets: tuple[int, ...],
        shared: Sequence[str] = (),
    ) -> None:
        provider = provider_of(device)
        self.on_cpu = device == "cpu"
        self._buckets = buckets
        self._cores = (threads or available_cores()) if self.on_cpu else 1
        self._whole = {graph: open_session(path, provider, self._cores) for graph, path in paths.items()}
        self._outputs = {name: [output.name for output in s.get_outputs()] for name, s in self._whole.items()}
        self._single: dict[str, onnxruntime.InferenceSession] = {}
        self._pool: ThreadPoolExecutor | None = None
        if self.on_cpu and self._cores > 1:
            small = [graph for graph, path in paths.items() if graph not in shared and _bytes(path) <= SHARED_ABOVE]
            self._single = {graph: open_session(paths[graph], provider, 1) for graph in small}
            self._pool = ThreadPoolExecutor(self._cores, thread_name_prefix="impasto-row")

    def __contains__(self, graph: str) -> bool:
        return graph in self._whole

    def input_shape(self, graph: str, name: str) -> tuple[Any, ...]:
        """The shape of one of the graph's inputs; what is free in it is a name."""
        (shape,) = (given.shape for given in self._whole[graph].get_inputs() if given.name == name)
        return tuple(shape)

    @property
    def batches(self) -> tuple[int, ...]:
        """Numbers of rows that run in ways of their own: what to warm up and to compare."""
        return (1, self._cores) if self._single else (1,) if self.on_cpu else self._buckets

    def buckets(self, rows_a_core: int) -> tuple[int, ...]:
        """Batch sizes to offer: on a CPU all up to so many rows a core, at least two; elsewhere the padded ones."""
        return tuple(range(1, max(2, rows_a_core * self._cores) + 1)) if self.on_cpu else self._buckets

    def run(self, graph: str, rows: Sequence[Arrays]) -> list[dict[str, Array]]:
        """Each row's outputs. A row's result does not depend on the other rows."""
        if not self.on_cpu:
            return [row for start in range(0, len(rows), self._buckets[-1]) for row in self._padded(graph, rows, start)]
        session = self._single.get(graph)
        side_by_side = len(rows) - (1 if len(rows) % self._cores == 1 else 0)
        if session is None or self._pool is None or not side_by_side:
            return [self._run(graph, self._whole[graph], row) for row in rows]
        results = list(self._pool.map(lambda row: self._run(graph, session, row), rows[:side_by_side]))
        return results + [self._run(graph, self._whole[graph], row) for row in rows[side_by_side:]]

    def one_at_a_time(self) -> None:
        """From now on run every row by itself: on this device the batch changed a row's bytes."""
        self._buckets = (1,)
        self._single = {}

    def close(self) -> None:
        """Free the device."""
        if self._pool is not None:
            self._pool.shutdown()
        self._whole.clear()
        self._single = {}

    def _padded(self, graph: str, rows: Sequence[Arrays], start: int) -> list[dict[str, Array]]:
        """Up to a largest bucket of rows from `start`, the last one repeated to fill a bucket."""
        chunk = list(rows[start : start + self._buckets[-1]])
        bucket = next(bucket for bucket in self._buckets if bucket >= len(chunk))
        padded = chunk + [chunk[-1]] * (bucket - len(chunk))
        feeds = {name: np.concatenate([row[name] for row in padded]) for name in chunk[0]}
        outputs = self._run(graph, self._whole[graph], feeds)
        return [{name: values[i : i + 1] for name, values in outputs.items()} for i in range(len(chunk))]

    def _run(self, graph: str, session: onnxruntime.InferenceSession, feeds: Arrays) -> dict[str, Array]:
        names = self._outputs[graph]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _bytes(path: Path) -> int:
    """Size of a graph with its weights, which may lie in a file beside it."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
