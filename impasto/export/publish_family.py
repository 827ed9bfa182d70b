"""Publish a generator of `impasto.generators.families`: weights, graphs, parity, manifest; all of it or nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file
from torch import Tensor

from impasto.export.bundle import WEIGHTS, Manifest, Parity, TensorSpec, new_bundle, write_manifest
from impasto.export.mapped import graph_facts
from impasto.export.onnx import export_graph
from impasto.export.parity import BATCHES, TOLERANCE, Pictures, require_close
from impasto.generators.families import family_of
from impasto.generators.family import Graph, Outputs, save_weights
from impasto.generators.interface import Spec

Report = Callable[[str], None]


def publish_family(
    family: str,
    config: Any,
    tensors: Mapping[str, Tensor],
    name: str,
    models: Path,
    *,
    version: str = "1",
    weights_dtype: torch.dtype = torch.float32,
    licence: str = "unknown",
    provenance: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
    report: Report = lambda stage: None,
) -> Path:
    """Write `models`/NAME/VERSION from a state dict of `family`; returns its folder. `report` hears of each stage.

    Parameters are kept in `weights_dtype`, buffers in float32, and the graphs are made from them as kept. `defaults`
    go before those of the family. ExportError if a graph breaks a rule or differs from torch by more than 1e-4 (of its
    scale, where an output is no picture); BundleError if there is such a bundle already.
    """
    described = family_of(family)
    with new_bundle(models, name, version) as folder:
        report("weights")
        with torch.device("meta"):
            learnt = dict(described.build(config).named_parameters())
        kept = {key: value.to(weights_dtype if key in learnt else torch.float32) for key, value in tensors.items()}
        save_weights(folder / WEIGHTS, family, config, kept)
        module = described.load(config, load_file(folder / WEIGHTS))
        parity: list[Parity] = []
        for graph_name, graph in described.graphs(module).items():
            report(f"{graph_name} graph")
            _export(graph, folder / f"{graph_name}.onnx", half_weights=weights_dtype == torch.float16)
            report(f"{graph_name} parity with torch")
            parity += _measure_parity(graph_name, graph, folder / f"{graph_name}.onnx")
        interface = described.interface(config)
        write_manifest(
            folder,
            Manifest(
                name=name,
                version=version,
                family=family,
                config=dataclasses.asdict(config),
                width=interface.width,
                height=interface.height,
                inputs=tuple(map(_tensor_spec, interface.inputs)),
                outputs=tuple(map(_tensor_spec, interface.outputs)),
                defaults={**interface.defaults, **(defaults or {})},
                parity=tuple(parity),
                graph=graph_facts(),
                licence=licence,
                provenance=dict(provenance or {}),
                class_names=tuple(class_names),
            ),
        )
    return models / name / version


def _tensor_spec(spec: Spec) -> TensorSpec:
    return TensorSpec(**dataclasses.asdict(spec))


def _export(graph: Graph, path: Path, half_weights: bool) -> None:
    example = graph.draw(2)
    export_graph(
        graph.module,
        tuple(example.values()),
        tuple(example),
        graph.outputs,
        path,
        free_sides=graph.free_sides,
        half_weights=half_weights,
    )


def _measure_parity(name: str, graph: Graph, path: Path) -> list[Parity]:
    """The graph in onnxruntime against its reference. A picture is compared as it is, all else over its scale."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    measured = []
    for batch in BATCHES:
        inputs = graph.draw(batch)
        found = session.run(list(graph.outputs), {key: value.numpy() for key, value in inputs.items()})
        for output, values, expected in zip(graph.outputs, found, _references(graph, inputs, batch), strict=True):
            scale = np.float32(1.0 if output == "image_float" else np.abs(expected).max() or 1.0)
            where = f"{name}.{output}"
            parity = require_close(values / scale, expected / scale, where, TOLERANCE)
            measured.append(parity.model_copy(update={"output": where}))
    return measured


@torch.inference_mode()
def _references(graph: Graph, inputs: Mapping[str, Tensor], batch: int) -> list[Pictures]:
    """Each output of the reference, made row by row: a batch of large pictures needs more memory than many have."""
    rows = [
        _as_tuple(graph.reference(**{key: value[i : i + 1] for key, value in inputs.items()})) for i in range(batch)
    ]
    return [torch.cat(output).numpy() for output in zip(*rows, strict=True)]


def _as_tuple(outputs: Outputs) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs
