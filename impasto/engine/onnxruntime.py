"""The onnxruntime backend: a bundle's ONNX graphs on the CPU or a CUDA device.

On a CPU a picture costs the same alone as in a batch, and splitting one picture over all cores gains less than giving
each core its own. So a single row runs on all cores, and several rows run side by side, one core each; both give the
same bytes (the engine checks that while it warms up). On CUDA rows run in padded buckets.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from impasto.engine.backend import Feeds, in_buckets
from impasto.engine.backend import available_cores as available_cores
from impasto.engine.layer_noise import Noise
from impasto.engine.picture import Floats, Pixels
from impasto.errors import BackendUnavailable, BundleError
from impasto.export.bundle import Bundle

GRAPHS = ("mapping", "synthesis")


class OnnxRuntimeBackend:
    """Sessions of a bundle's graphs on one device."""

    def __init__(self, bundle: Bundle, device: str, threads: int | None) -> None:
        provider = provider_of(device)
        self._buckets = bundle.manifest.buckets
        self._on_cpu = device == "cpu"
        cores = threads or available_cores()
        paths = {graph: bundle.path / f"{graph}.onnx" for graph in GRAPHS}
        self._whole = {graph: open_session(path, provider, cores) for graph, path in paths.items()}
        self._single: dict[str, onnxruntime.InferenceSession] | None = None
        self._pool: ThreadPoolExecutor | None = None
        if self._on_cpu and cores > 1:
            self._single = {graph: open_session(path, provider, 1) for graph, path in paths.items()}
            self._pool = ThreadPoolExecutor(cores, thread_name_prefix="impasto-row")

    @property
    def batches(self) -> tuple[int, ...]:
        # On a CPU every number of rows above one runs as two do.
        return (1, 2) if self._on_cpu else self._buckets

    def run(self, graph: str, feeds: Feeds) -> Floats:
        if not self._on_cpu:
            return in_buckets(lambda batch: _run(self._whole[graph], batch), feeds, self._buckets)
        rows = [{name: values[i : i + 1] for name, values in feeds.items()} for i in range(_rows(feeds))]
        if len(rows) == 1:
            return _run(self._whole[graph], rows[0])
        if self._pool is None or self._single is None:
            return np.concatenate([_run(self._whole[graph], row) for row in rows])
        session = self._single[graph]
        return np.concatenate(list(self._pool.map(lambda row: _run(session, row), rows)))

    def pictures(self, ws: Floats, noise: Noise) -> list[Pixels]:
        return [Pixels(chw=picture) for picture in self.run("synthesis", {"ws": ws, "noise": noise.rows()})]

    def one_at_a_time(self) -> None:
        self._buckets = (1,)
        self._single = None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._whole.clear()
        self._single = None


def open_session(path: Path, provider: str | tuple[str, dict[str, str]], threads: int) -> onnxruntime.InferenceSession:
    """A session of the graph; BundleError if it cannot be loaded, BackendUnavailable if the provider cannot start."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[provider])
    except Exception as error:  # onnxruntime's own errors have no common base
        raise BundleError(f"{path}: onnxruntime cannot load it: {error}") from error
    wanted = provider if isinstance(provider, str) else provider[0]
    if session.get_providers()[0] != wanted:
        raise BackendUnavailable(f"device: {wanted} could not start; onnxruntime offers {session.get_providers()}")
    return session


def provider_of(device: str) -> str | tuple[str, dict[str, str]]:
    """The execution provider of a device, "cpu", "cuda" or "cuda:N". BackendUnavailable if it is not there."""
    if device == "cpu":
        return "CPUExecutionProvider"
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index.isdigit() or device == "cuda"):
        raise BackendUnavailable(f"device: found {device!r}; allowed is cpu, cuda or cuda:N")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise BackendUnavailable(
            f"device: found {device!r}, but this onnxruntime has no CUDA; remedy: pip install 'impasto[gpu]' in an "
            "environment without onnxruntime, on a machine with an NVIDIA driver"
        )
    return "CUDAExecutionProvider", {"device_id": index or "0"}


def _run(session: onnxruntime.InferenceSession, feeds: Feeds) -> Floats:
    result: Floats = session.run(None, dict(feeds))[0]
    return result


def _rows(feeds: Feeds) -> int:
    return len(next(iter(feeds.values())))
