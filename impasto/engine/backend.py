"""What an engine needs of a backend: run one of the bundle's graphs on a batch of rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from impasto.engine.layer_noise import Noise
from impasto.engine.picture import Floats, Pixels
from impasto.errors import BackendUnavailable
from impasto.export.bundle import Bundle
from impasto.export.plans import require_tensorrt
from impasto.generators.families import FAMILIES
from impasto.installing import install_command

BACKENDS = ("onnxruntime", "onnxruntime-tensorrt", "torch", "tensorrt")

Feeds = Mapping[str, NDArray[Any]]


class Backend(Protocol):
    """Runs graphs on rows. A row's result does not depend on the other rows.

    `batches` are the numbers of rows that run in ways of their own: what to warm up and to compare. `lanes` is that of
    an engine.
    """

    lanes: int

    @property
    def batches(self) -> tuple[int, ...]: ...

    def run(self, graph: str, feeds: Feeds) -> Floats:
        """Run `graph`, one of the bundle's, on arrays whose first dimension is the row; any number of rows."""

    def pictures(self, ws: Floats, noise: Noise) -> list[Pixels]:
        """The pictures of ws [N, num_ws, w_dim] and the noise of as many rows, through graph "synthesis"."""

    def one_at_a_time(self) -> None:
        """From now on run every row by itself: on this device the batch changed a row's bytes."""

    def close(self) -> None:
        """Free the device."""


def backends_of(family: str) -> tuple[str, ...]:
    """Which of BACKENDS run models of a family, on the devices that they have; none for one that needs no backend."""
    if family in ("stylegan2", "stylegan3") or FAMILIES.get(family) == "latent":
        return BACKENDS
    return ("onnxruntime",) if family == "diffusion" or FAMILIES.get(family) == "image_to_image" else ()


def named(backend: str, precision: str) -> str:
    """A backend's name as an engine gives it: it stands for the bytes of a picture, which differ by precision."""
    return backend if precision == "fp32" else f"{backend}-{precision}"


def open_backend(name: str, bundle: Bundle, precision: str, device: str, threads: int | None) -> Backend:
    """The backend of that name on the device. BackendUnavailable says what is missing and the remedy."""
    if name.startswith("onnxruntime"):
        try:
            from impasto.engine.onnxruntime import OnnxRuntimeBackend
        except ImportError as error:
            raise BackendUnavailable(f"backend onnxruntime: {error}; remedy: {install_command('cpu')}") from error
        return OnnxRuntimeBackend(bundle, precision, device, threads, with_tensorrt=name == "onnxruntime-tensorrt")
    if name == "torch":
        try:
            from impasto.engine.torch import open_torch
        except ImportError as error:
            raise BackendUnavailable(f"backend torch: {error}; remedy: {install_command('torch')}") from error
        return open_torch(bundle, precision, device, threads)
    if name == "tensorrt":
        require_tensorrt(device)
        from impasto.engine.tensorrt import open_tensorrt

        return open_tensorrt(bundle, precision, device)
    raise BackendUnavailable(f"backend: found {name!r}; allowed is one of {', '.join(BACKENDS)}")


def stacked(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Rows as one array [N, ...]; not to be written to: that of a lone row is a view of it."""
    return rows[0][None] if len(rows) == 1 else np.stack(rows)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_buckets(run: Callable[[Feeds], Floats], feeds: Feeds, buckets: tuple[int, ...]) -> Floats:
    """Run rows in batches of the fixed sizes `buckets`, the last row repeated to fill one, padding cut off."""
    results = [run(batch)[:count] for batch, count in padded(feeds, buckets)]
    return results[0] if len(results) == 1 else np.concatenate(results)


def padded(feeds: Feeds, buckets: tuple[int, ...]) -> Iterator[tuple[Feeds, int]]:
    """The rows as batches of the fixed sizes `buckets`, each with how many of its rows are not padding."""
    rows = len(next(iter(feeds.values())))
    for start in range(0, rows, buckets[-1]):
        batch = {name: values[start : start + buckets[-1]] for name, values in feeds.items()}
        count = len(next(iter(batch.values())))
        missing = next(bucket for bucket in buckets if bucket >= count) - count
        if missing:
            batch = {name: np.concatenate([v, np.repeat(v[-1:], missing, axis=0)]) for name, v in batch.items()}
        yield batch, count
