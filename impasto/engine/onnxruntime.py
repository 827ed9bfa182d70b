"""The onnxruntime backend: a bundle's ONNX graphs on the CPU or a CUDA device, there also through its own TensorRT.

On a CPU a picture costs the same alone as in a batch, and splitting one picture over all cores gains less than giving
each core its own. So a row that has the machine to itself runs on all cores, and several rows run side by side, one
core each; both give the same bytes (the engine checks that while it warms up). On CUDA rows run in padded buckets.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from impasto.engine.backend import Feeds, in_buckets
from impasto.engine.backend import available_cores as available_cores
from impasto.engine.bound_session import BoundSession, Value
from impasto.engine.company import Company
from impasto.engine.layer_noise import Noise
from impasto.engine.picture import Floats, Pixels
from impasto.errors import BackendUnavailable, BundleError
from impasto.export.bundle import Bundle
from impasto.export.plan_store import cache_folder
from impasto.export.plans import graph_files
from impasto.installing import install_command

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"

QUICK = ("mapping", "embedding")
"""Graphs that are too small a part of a picture's work to wake other cores for: on a CPU they run on one."""

Provider = str | tuple[str, dict[str, str]]
"""An execution provider, with its options if it has any."""


class OnnxRuntimeBackend:
    """Sessions of a bundle's graphs on one device."""

    def __init__(
        self, bundle: Bundle, precision: str, device: str, threads: int | None, *, with_tensorrt: bool = False
    ) -> None:
        self._buckets = bundle.manifest.buckets
        self._on_cpu = device == "cpu"
        self._company = Company()
        cores = threads or available_cores()
        self.lanes = cores if self._on_cpu else 0
        paths = {graph: bundle.path / name for graph, name in graph_files(bundle, precision).items()}
        providers = {
            graph: tensorrt_provider_of(device, bundle, path) if with_tensorrt else provider_of(device)
            for graph, path in paths.items()
        }
        self._whole = {
            graph: open_session(path, providers[graph], 1 if graph in QUICK else cores) for graph, path in paths.items()
        }
        self._bound = (
            {} if self._on_cpu else {g: BoundSession(s, "cuda", _index(device)) for g, s in self._whole.items()}
        )
        self._single: dict[str, onnxruntime.InferenceSession] = {}
        self._pool: ThreadPoolExecutor | None = None
        if self._on_cpu and cores > 1:
            large = {graph: path for graph, path in paths.items() if graph not in QUICK}
            self._single = {graph: open_session(path, providers[graph], 1) for graph, path in large.items()}
            self._pool = ThreadPoolExecutor(cores, thread_name_prefix="impasto-row")

    @property
    def batches(self) -> tuple[int, ...]:
        # On a CPU every number of rows above one runs as two do.
        return (1, 2) if self._on_cpu else self._buckets

    def run(self, graph: str, feeds: Feeds) -> Floats:
        if not self._on_cpu:
            return in_buckets(lambda batch: _first(self._bound[graph].run(batch)), feeds, self._buckets)
        count = _rows(feeds)
        rows = [feeds] if count == 1 else [{name: v[i : i + 1] for name, v in feeds.items()} for i in range(count)]
        session = self._single.get(graph)
        if self._pool is None or session is None:
            return _joined([_run(self._whole[graph], row) for row in rows])
        if count == 1:
            with self._company as alone:
                return _run(self._whole[graph] if alone else session, rows[0])
        return np.concatenate(list(self._pool.map(lambda row: _run(session, row), rows)))

    def pictures(self, ws: Floats, noise: Noise) -> list[Pixels]:
        return [Pixels(chw=picture) for picture in self.run("synthesis", {"ws": ws, "noise": noise.rows()})]

    def one_at_a_time(self) -> None:
        self._buckets = (1,)
        self._single.clear()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._whole.clear()
        self._bound.clear()
        self._single.clear()


def open_session(path: Path, provider: Provider, threads: int) -> onnxruntime.InferenceSession:
    """A session of the graph; BundleError if it cannot be loaded, BackendUnavailable if the provider cannot start.

    onnxruntime's own way to go on without the provider, on the CPU and in silence, is closed.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that wait busily for the next run would take the cores of the rows beside this one.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=_with_helper(provider), enable_fallback=0)
    except Exception as error:  # onnxruntime's own errors have no common base
        raise BundleError(f"{path}: onnxruntime cannot load it: {error}") from error
    wanted = provider if isinstance(provider, str) else provider[0]
    if session.get_providers()[0] != wanted:
        raise BackendUnavailable(f"device: {wanted} could not start; onnxruntime offers {session.get_providers()}")
    return session


def provider_of(device: str) -> Provider:
    """The execution provider of a device, "cpu", "cuda" or "cuda:N". BackendUnavailable if it is not there."""
    if device == "cpu":
        return "CPUExecutionProvider"
    return _on_gpu(device, CUDA, "no CUDA")


def tensorrt_provider_of(device: str, bundle: Bundle, graph: Path) -> Provider:
    """onnxruntime's TensorRT on "cuda" or "cuda:N", for batches of the bundle's buckets. BackendUnavailable.

    The engines that it builds, and what it timed for them, are kept in the user's cache.
    """
    name, options = _on_gpu(device, TENSORRT, "no TensorRT")
    cache = cache_folder() / "onnxruntime-tensorrt" / bundle.manifest.digest
    cache.mkdir(parents=True, exist_ok=True)
    kept = {"trt_engine_cache_enable": "1", "trt_timing_cache_enable": "1", "trt_engine_cache_prefix": graph.stem}
    places = dict.fromkeys(("trt_engine_cache_path", "trt_timing_cache_path"), str(cache))
    buckets = bundle.manifest.buckets
    sizes = {"min": 1, "opt": buckets[-1], "max": buckets[-1]}
    shapes = {f"trt_profile_{bound}_shapes": _shapes(graph, batch) for bound, batch in sizes.items()}
    return name, options | kept | places | shapes


def _on_gpu(device: str, provider: str, lacks: str) -> tuple[str, dict[str, str]]:
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index.isdigit() or device == "cuda"):
        raise BackendUnavailable(f"device: found {device!r}; allowed is cpu, cuda or cuda:N")
    if provider not in onnxruntime.get_available_providers():
        raise BackendUnavailable(
            f"device: found {device!r}, but this onnxruntime has {lacks}; remedy: {install_command('gpu')} in an "
            "environment without onnxruntime, on a machine with an NVIDIA driver"
        )
    return provider, {"device_id": index or "0"}


def _with_helper(provider: Provider) -> list[Provider]:
    """The provider; behind TensorRT's also CUDA, for what TensorRT cannot run."""
    if isinstance(provider, str) or provider[0] != TENSORRT:
        return [provider]
    return [provider, (CUDA, {"device_id": provider[1]["device_id"]})]


def _shapes(graph: Path, batch: int) -> str:
    """The inputs' shapes at a batch size, as onnxruntime wants them: "ws:8x14x512,noise:8x87376"."""
    import onnx

    inputs = onnx.load(graph, load_external_data=False).graph.input
    dims = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:] for value in inputs}
    return ",".join(f"{name}:{'x'.join(map(str, (batch, *rest)))}" for name, rest in dims.items())


def _index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _first(outputs: dict[str, Value]) -> Floats:
    values: Floats = next(iter(outputs.values())).numpy()
    return values


def _run(session: onnxruntime.InferenceSession, feeds: Feeds) -> Floats:
    result: Floats = session.run(None, feeds)[0]
    return result


def _joined(results: list[Floats]) -> Floats:
    return results[0] if len(results) == 1 else np.concatenate(results)


def _rows(feeds: Feeds) -> int:
    return len(next(iter(feeds.values())))
