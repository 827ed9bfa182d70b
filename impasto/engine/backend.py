"""What an engine needs of a backend: run one of the bundle's graphs on a batch of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from impasto.engine.picture import Floats
from impasto.errors import BackendUnavailable
from impasto.export.bundle import Bundle

Feeds = Mapping[str, Floats]


class Backend(Protocol):
    """Runs graphs on rows. A row's result does not depend on the other rows.

    `batches` are the numbers of rows that run in ways of their own: what to warm up and to compare.
    """

    @property
    def batches(self) -> tuple[int, ...]: ...

    def run(self, graph: str, feeds: Feeds) -> Floats:
        """Run `graph` ("mapping", "synthesis") on arrays whose first dimension is the row; any number of rows."""

    def one_at_a_time(self) -> None:
        """From now on run every row by itself: on this device the batch changed a row's bytes."""

    def close(self) -> None:
        """Free the device."""


def open_backend(name: str, bundle: Bundle, device: str, threads: int | None) -> Backend:
    """The backend of that name on the device. BackendUnavailable says what is missing and the remedy."""
    if name == "onnxruntime":
        try:
            from impasto.engine.onnxruntime import OnnxRuntimeBackend
        except ImportError as error:
            raise BackendUnavailable(f"backend onnxruntime: {error}; remedy: pip install 'impasto[cpu]'") from error
        return OnnxRuntimeBackend(bundle, device, threads)
    if name == "torch":
        try:
            from impasto.engine.torch import TorchBackend
        except ImportError as error:
            raise BackendUnavailable(f"backend torch: {error}; remedy: pip install 'impasto[torch]'") from error
        return TorchBackend(bundle, device, threads)
    raise BackendUnavailable(f"backend: found {name!r}; allowed is onnxruntime or torch")


def in_buckets(run: Callable[[Feeds], Floats], feeds: Feeds, buckets: tuple[int, ...]) -> Floats:
    """Run rows in batches of the fixed sizes `buckets`, the last row repeated to fill one, padding cut off."""
    rows = len(next(iter(feeds.values())))
    results = []
    for start in range(0, rows, buckets[-1]):
        chunk = {name: values[start : start + buckets[-1]] for name, values in feeds.items()}
        count = len(next(iter(chunk.values())))
        missing = next(bucket for bucket in buckets if bucket >= count) - count
        if missing:
            chunk = {name: np.concatenate([v, np.repeat(v[-1:], missing, axis=0)]) for name, v in chunk.items()}
        results.append(run(chunk)[:count])
    return results[0] if len(results) == 1 else np.concatenate(results)
