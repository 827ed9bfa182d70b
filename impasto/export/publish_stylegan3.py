"""Publish a StyleGAN3 as a bundle: weights, graphs, parity, manifest; nothing is written if any of it fails."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from impasto.export import mapped
from impasto.export.bundle import WEIGHTS, Manifest, Parity, new_bundle, write_manifest
from impasto.export.onnx import export_graph
from impasto.generators.stylegan3 import StyleGAN3
from impasto.generators.stylegan3_config import StyleGAN3Config
from impasto.generators.stylegan3_frozen import FrozenSynthesis
from impasto.generators.stylegan3_transform import picture_transform

TOLERANCE = 1e-4

Report = Callable[[str], None]


def publish_stylegan3(
    config: StyleGAN3Config,
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
    """Write `models`/NAME/VERSION from a state dict; returns its folder. `report` hears of each stage.

    Parameters are kept in `weights_dtype`, filters and frequencies in float32, and the graphs are made from them as
    kept. ExportError if a graph breaks a rule or differs from torch by more than 1e-4; BundleError if there is such a
    bundle already.
    """
    with new_bundle(models, name, version) as folder:
        report("weights")
        with torch.device("meta"):
            learnt = dict(StyleGAN3(config).named_parameters())
        kept = {key: value.to(weights_dtype if key in learnt else torch.float32) for key, value in tensors.items()}
        header = {"family": "stylegan3", "config": json.dumps(dataclasses.asdict(config))}
        save_file({key: value.contiguous() for key, value in kept.items()}, folder / WEIGHTS, metadata=header)
        generator = load_stylegan3(config, folder / WEIGHTS)
        report("mapping graph")
        mapped.export_mapping(generator.mapping, config, folder)
        report("synthesis graph")
        _export_synthesis(generator, folder)
        report("parity with torch")
        parity = _measure_parity(generator, folder)
        write_manifest(
            folder,
            Manifest(
                name=name,
                version=version,
                family="stylegan3",
                config=dataclasses.asdict(config),
                width=config.resolution,
                height=config.resolution,
                inputs=mapped.latent_inputs(config),
                outputs=mapped.picture_outputs(config),
                defaults={"psi": 1.0, **(defaults or {})},
                parity=tuple(parity),
                graph=mapped.graph_facts(),
                licence=licence,
                provenance=dict(provenance or {}),
                class_names=tuple(class_names),
            ),
        )
    return models / name / version


def load_stylegan3(config: StyleGAN3Config, weights: Path) -> StyleGAN3:
    """The generator of a weights file, in float32, ready for inference."""
    generator = StyleGAN3(config)
    generator.load_state_dict({key: tensor.float() for key, tensor in load_file(weights).items()})
    return generator.eval().requires_grad_(False)


def _export_synthesis(generator: StyleGAN3, folder: Path) -> None:
    config = generator.config
    example = [torch.randn(2, config.num_ws, config.w_dim), torch.eye(3).repeat(2, 1, 1)]
    frozen = FrozenSynthesis(generator.synthesis)
    export_graph(frozen, example, ["ws", "transform"], ["image_float"], folder / "synthesis.onnx")


def _measure_parity(generator: StyleGAN3, folder: Path) -> list[Parity]:
    """Both graphs against the plain torch generator; the first picture as it stands, the others turned and moved."""

    def reference(z: Tensor, c: Tensor | None, psi: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        pictures: Tensor = generator(z, c, psi, others["transform"])
        return pictures

    def transforms(batch: int) -> mapped.Rows:
        return {"transform": np.stack([picture_transform(40.0 * row, (0.1 * row, 0.0)) for row in range(batch)])}

    return mapped.measure_parity(generator.config, folder, transforms, reference, TOLERANCE)
