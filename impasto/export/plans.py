"""The plans that a bundle needs on a GPU: which there are, and building those that are missing."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from impasto.errors import BackendUnavailable, Cancelled
from impasto.export.bundle import Bundle, list_bundles, open_bundle
from impasto.export.plan_store import BuildOptions, Plan, PlanKey, PlanStore, Target, store_of
from impasto.installing import install_command

Report = Callable[[str], None]
MIN_VERSION = 11
"""Of TensorRT: from there on every network is strongly typed."""


class Builder(Protocol):
    """TensorRT on one GPU, or what stands for it in a test. `graph` is an ONNX file's content, `path` its place."""

    target: Target

    def build(
        self,
        graph: bytes,
        path: Path,
        profile: tuple[int, ...],
        options: BuildOptions,
        report: Report,
        cancelled: Callable[[], bool],
    ) -> Plan:
        """A plan with a profile for each batch size. Cancelled soon after `cancelled` says so; ExportError."""

    def refit(self, plan: bytes, graph: bytes, path: Path, options: BuildOptions) -> Plan | None:
        """The plan with this graph's weights; None if they cannot be put there."""


def graph_files(bundle: Bundle, precision: str) -> dict[str, str]:
    """The bundle's ONNX files of a precision, by the graph's name.

    A graph of another precision than its bundle's is NAME.PRECISION.onnx; one that there is in fp32 alone, as a mapping
    network, serves any. BackendUnavailable if no graph has this precision.
    """
    files = [name for name in bundle.manifest.files if name.endswith(".onnx")]
    plain = {name.removesuffix(".onnx"): name for name in files if name.count(".") == 1}
    if precision == bundle.manifest.graph.get("precision", "fp32"):
        return plain
    suffix = f".{precision}.onnx"
    other = {name.removesuffix(suffix): name for name in files if name.endswith(suffix)}
    if not other:
        raise BackendUnavailable(
            f"precision: found {precision!r}, but {bundle.manifest.name} version {bundle.manifest.version} has no such "
            f"graph; remedy: impasto export {bundle.manifest.name} --precision {precision}"
        )
    return plain | other


def keys_of(bundle: Bundle, precision: str, options: BuildOptions, target: Target) -> dict[str, PlanKey]:
    """The key of each graph's plan."""
    plugins = plugin_graphs(bundle, precision) if options.plugins else {}
    return {
        graph: PlanKey(
            _digest(bundle, file, plugins.get(graph, "")),
            precision,
            profile_of(bundle),
            options.flags(),
            target.of(options),
        )
        for graph, file in graph_files(bundle, precision).items()
    }


def profile_of(bundle: Bundle) -> tuple[int, ...]:
    """The batch sizes of a plan: the bundle's buckets, and single rows."""
    return tuple(sorted({1, *bundle.manifest.buckets}))


def load_plans(bundle: Bundle, precision: str, target: Target) -> dict[str, bytes] | None:
    """The plans of every graph, built with the options of the last build; None unless all are there and right."""
    store = store_of(bundle)
    plans = {graph: store.load(key) for graph, key in keys_of(bundle, precision, store.options, target).items()}
    found = {graph: plan for graph, plan in plans.items() if plan is not None}
    return found if len(found) == len(plans) else None


def missing_plans(bundle: Bundle, precision: str, options: BuildOptions, target: Target) -> list[str]:
    """The graphs of which the store has no plan that was built so for this machine."""
    store = store_of(bundle)
    return [graph for graph, key in keys_of(bundle, precision, options, target).items() if store.load(key) is None]


def build_plans(
    bundle: Bundle,
    precision: str,
    builder: Builder,
    options: BuildOptions | None = None,
    report: Report = lambda stage: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Path]:
    """Build the plans that are missing and store them beside the bundle; returns all their files.

    `options` are those of the last build where none are given. With `refit`, a plan of another version of the model
    that has the same graph takes the new weights, which is faster than to build. Raises ExportError if a graph cannot
    be built.
    """
    store = store_of(bundle)
    options = options or store.options
    keys = keys_of(bundle, precision, options, builder.target)
    files = graph_files(bundle, precision)
    plugins = plugin_graphs(bundle, precision) if options.plugins else {}
    for graph in missing_plans(bundle, precision, options, builder.target):
        if cancelled():
            raise Cancelled("the build was cancelled")
        key = keys[graph]
        path = bundle.path / files[graph]
        content = _with_plugins(bundle, precision, files[graph]) if graph in plugins else path.read_bytes()
        plan = _refitted(bundle, key, content, path, builder, options) if options.refit else None
        if plan is None:
            report(f"building {graph}")
            plan = builder.build(content, path, key.profile, options, report, cancelled)
        store.save(key, plan)
    store.options = options
    return [store.folder / f"{key.name}.plan" for key in keys.values()]


def structure_of(graph: bytes) -> str:
    """sha256 of an ONNX graph without the values of its weights: two with the same one differ in weights alone."""
    import onnx

    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        bare = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        tensor.CopyFrom(bare)
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def open_builder(device: str) -> Builder:
    """TensorRT on "cuda" or "cuda:N". BackendUnavailable says what is missing and the remedy."""
    require_tensorrt(device)
    from impasto.export.tensorrt import TensorRTBuilder

    return TensorRTBuilder(device)


def require_tensorrt(device: str) -> None:
    """BackendUnavailable unless TensorRT 11 and the CUDA device are there."""
    try:
        version = str(importlib.import_module("tensorrt").__version__)
    except ModuleNotFoundError as error:
        raise BackendUnavailable(f"backend tensorrt: {error}; remedy: {install_command('gpu')}") from error
    except Exception as error:  # a missing library shows as any of several errors
        remedy = "pip install --force-reinstall tensorrt"
        raise BackendUnavailable(f"backend tensorrt: it is installed but fails: {error}; remedy: {remedy}") from error
    if int(version.partition(".")[0]) < MIN_VERSION:
        remedy = f"pip install --upgrade 'tensorrt>={MIN_VERSION}'"
        raise BackendUnavailable(
            f"backend tensorrt: found TensorRT {version}; allowed is {MIN_VERSION} and later; remedy: {remedy}"
        )
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index.isdigit() or device == "cuda"):
        raise BackendUnavailable(f"device: found {device!r}; backend tensorrt runs on cuda or cuda:N")
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable(f"backend tensorrt: {error}; remedy: {install_command('gpu')}") from error
    # Before any call of TensorRT's: without a GPU some of them end the process.
    if not torch.cuda.is_available() or int(index or 0) >= torch.cuda.device_count():
        raise BackendUnavailable(
            f"device: found {device!r}, but torch sees {torch.cuda.device_count()} CUDA devices; remedy: an NVIDIA GPU "
            "with its driver and a CUDA build of torch, or backend onnxruntime on cpu"
        )


def plugin_graphs(bundle: Bundle, precision: str) -> Mapping[str, str]:
    """The graphs that there are with our kernels, by name, each with a digest of the kernels' sources."""
    from impasto.export import plugin_graph

    there = bundle.manifest.family in plugin_graph.FAMILIES and precision in plugin_graph.PRECISIONS
    return {"synthesis": plugin_graph.digest()} if there else {}


def _with_plugins(bundle: Bundle, precision: str, file: str) -> bytes:
    from impasto.export import plugin_graph

    model = plugin_graph.synthesis(bundle, precision, file)
    return model.SerializeToString()


def _digest(bundle: Bundle, file: str, plugins: str) -> str:
    """Of a graph, of its weights where they lie beside it, and of the kernels in it."""
    files = bundle.manifest.files
    parts = [files[name].sha256 for name in (file, f"{file}.data") if name in files]
    return hashlib.sha256(json.dumps([*parts, plugins]).encode()).hexdigest()


def _refitted(
    bundle: Bundle, key: PlanKey, content: bytes, path: Path, builder: Builder, options: BuildOptions
) -> Plan | None:
    """A plan of this model's other versions, with this one's weights."""
    structure = structure_of(content)
    for store in _stores_of_versions(bundle):
        plan = store.refittable(key, structure)
        if plan is not None and (refitted := builder.refit(plan, content, path, options)) is not None:
            return refitted
    return None


def _stores_of_versions(bundle: Bundle) -> list[PlanStore]:
    models = bundle.path.parent.parent
    versions = list_bundles([models]).get(bundle.manifest.name, {})
    return [store_of(open_bundle(path, verify=False)) for path in reversed(versions.values())]
