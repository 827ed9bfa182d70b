"""What the bundles of generators with a mapping network share: its graph, the requests they take, how parity is drawn.

Such a generator is two graphs: "mapping" from z, psi and if conditional c to ws, "synthesis" from ws to the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from impasto.export.bundle import Parity, TensorSpec
from impasto.export.lint import MAX_IR_VERSION, MAX_OPSET
from impasto.export.onnx import export_graph
from impasto.export.parity import Pictures, require_parity
from impasto.generators.mapped_config import MappedConfig
from impasto.generators.stylegan2 import Mapping as MappingNetwork
from impasto.generators.stylegan2_frozen import FrozenMapping

PARITY_PSI = 0.7

Rows = dict[str, np.ndarray]


def export_mapping(mapping: MappingNetwork, config: MappedConfig, folder: Path) -> None:
    """Write mapping.onnx."""
    example = [torch.randn(2, config.z_dim), torch.ones(2, config.num_ws)]
    names = ["z", "psi"]
    if config.c_dim:
        example.append(torch.zeros(2, config.c_dim))
        names.append("c")
    export_graph(FrozenMapping(mapping), example, names, ["ws"], folder / "mapping.onnx")


def measure_parity(
    config: MappedConfig,
    folder: Path,
    placed: Callable[[int], Rows],
    reference: Callable[[Tensor, Tensor | None, Tensor, Mapping[str, Tensor]], Tensor],
    tolerance: float,
) -> list[Parity]:
    """Seeds 0, 1, … through both graphs against `reference`, psi 0.7.

    `placed` gives what the synthesis graph takes beside ws, for so many rows; `reference` makes one row's picture of z,
    c, psi and those.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    mapping, synthesis = (
        onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
        for name in ("mapping.onnx", "synthesis.onnx")
    )

    def graph(batch: int) -> Pictures:
        ws = mapping.run(None, _latents(config, batch))[0]
        pictures: Pictures = synthesis.run(None, {"ws": ws, **placed(batch)})[0]
        return pictures

    @torch.inference_mode()
    def expected(batch: int) -> Pictures:
        feeds = {key: torch.from_numpy(value) for key, value in _latents(config, batch).items()}
        others = {key: torch.from_numpy(value) for key, value in placed(batch).items()}
        # One row at a time: a batch of large pictures needs more memory than many machines have.
        rows = []
        for row in (slice(i, i + 1) for i in range(batch)):
            c = feeds["c"][row] if "c" in feeds else None
            rows.append(reference(feeds["z"][row], c, feeds["psi"][row], {k: v[row] for k, v in others.items()}))
        return torch.cat(rows).numpy()

    return require_parity(graph, expected, tolerance=tolerance)


def latent_inputs(config: MappedConfig) -> tuple[TensorSpec, ...]:
    """The inputs of a request: one of seed, z and ws, psi, and if conditional a class."""
    specs = [
        TensorSpec(name="seed", dtype="INT64", shape=(-1, 1), meaning="z = RandomState(seed).randn(1, z_dim)"),
        TensorSpec(name="z", dtype="FP32", shape=(-1, config.z_dim), meaning="latent, standard normal"),
        TensorSpec(name="ws", dtype="FP32", shape=(-1, config.num_ws, config.w_dim), meaning="a style for each layer"),
        TensorSpec(name="psi", dtype="FP32", shape=(-1, 1), meaning="truncation: 1 none, 0 the average picture"),
    ]
    if config.c_dim:
        specs += [
            TensorSpec(name="label", dtype="INT64", shape=(-1, 1), meaning="class index"),
            TensorSpec(name="c", dtype="FP32", shape=(-1, config.c_dim), meaning="class vector"),
        ]
    return tuple(specs)


def picture_outputs(config: MappedConfig) -> tuple[TensorSpec, ...]:
    """The outputs of a request: bytes and floats."""
    side = config.resolution
    return (
        TensorSpec(name="image", dtype="UINT8", shape=(-1, side, side, 3), meaning="clamp(127.5·image_float + 128)"),
        TensorSpec(
            name="image_float",
            dtype="FP32",
            shape=(-1, config.img_channels, side, side),
            meaning="nominally in [-1, 1], not clamped",
        ),
    )


def graph_facts() -> dict[str, Any]:
    """What a manifest says of its graphs."""
    return {
        "opset": MAX_OPSET,
        "ir_version": MAX_IR_VERSION,
        "precision": "fp32",
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _latents(config: MappedConfig, batch: int) -> Rows:
    z = np.concatenate([np.random.RandomState(seed).randn(1, config.z_dim) for seed in range(batch)])
    feeds = {"z": z.astype(np.float32), "psi": np.full((batch, config.num_ws), PARITY_PSI, np.float32)}
    if config.c_dim:
        feeds["c"] = np.eye(config.c_dim, dtype=np.float32)[np.arange(batch) % config.c_dim]
    return feeds
