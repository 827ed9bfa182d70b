"""Publish a generator as a bundle: weights, graphs, parity, manifest; nothing is written if any of it fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from impasto.errors import ExportError
from impasto.export.bundle import (
    WEIGHTS,
    Bundle,
    Manifest,
    Parity,
    TensorSpec,
    list_bundles,
    new_bundle,
    write_manifest,
)
from impasto.export.lint import MAX_IR_VERSION, MAX_OPSET
from impasto.export.onnx import export_graph
from impasto.export.parity import require_parity
from impasto.generators.stylegan2 import StyleGAN2
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.generators.stylegan2_frozen import FrozenMapping, FrozenSynthesis

Report = Callable[[str], None]


def publish_stylegan2(
    config: StyleGAN2Config,
    tensors: Mapping[str, Tensor],
    name: str,
    models: Path,
    *,
    version: str = "1",
    weights_dtype: torch.dtype = torch.float32,
    licence: str = "unknown",
    provenance: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    report: Report = lambda stage: None,
) -> Path:
    """Write `models`/NAME/VERSION from a state dict; returns its folder. `report` hears of each stage.

    The weights are kept in `weights_dtype`, and the graphs are made from them as kept. ExportError if a graph breaks a
    rule or differs from torch by more than 1e-4; BundleError if there is such a bundle already.
    """
    with new_bundle(models, name, version) as folder:
        report("weights")
        kept = {key: tensor.to(weights_dtype).contiguous() for key, tensor in tensors.items()}
        save_file(kept, folder / WEIGHTS, metadata={"family": "stylegan2"})
        generator = load_generator(config, folder / WEIGHTS)
        report("mapping graph")
        _export_mapping(generator, folder)
        report("synthesis graph")
        _export_synthesis(generator, folder)
        report("parity with torch")
        parity = _measure_parity(generator, folder)
        write_manifest(
            folder,
            Manifest(
                name=name,
                version=version,
                family="stylegan2",
                config=dataclasses.asdict(config),
                width=config.resolution,
                height=config.resolution,
                inputs=_inputs(config),
                outputs=_outputs(config),
                defaults={"psi": 1.0, "noise_mode": "const", **(defaults or {})},
                parity=tuple(parity),
                graph={
                    "opset": MAX_OPSET,
                    "ir_version": MAX_IR_VERSION,
                    "precision": "fp32",
                    "torch": torch.__version__,
                    "onnxruntime": onnxruntime.__version__,
                },
                licence=licence,
                provenance=dict(provenance or {}),
            ),
        )
    return models / name / version


def export_again(bundle: Bundle, models: Path, report: Report = lambda stage: None) -> Path:
    """Make the graphs of a bundle anew from its weights, with this version's exporter, as the next free version."""
    manifest = bundle.manifest
    if manifest.family != "stylegan2":
        raise ExportError(
            f"family: found {manifest.family!r}; allowed is 'stylegan2': other bundles keep no weights beside their "
            f"graphs, so make these anew from the checkpoint with `impasto import`"
        )
    versions = list_bundles([models]).get(manifest.name, {})
    newest = max([int(manifest.version), *(int(version) for version in versions)])
    tensors = load_file(bundle.path / WEIGHTS)
    return publish_stylegan2(
        StyleGAN2Config(**manifest.config),
        tensors,
        manifest.name,
        models,
        version=str(newest + 1),
        weights_dtype=next(iter(tensors.values())).dtype,
        licence=manifest.licence,
        provenance=manifest.provenance,
        defaults=manifest.defaults,
        report=report,
    )


def load_generator(config: StyleGAN2Config, weights: Path) -> StyleGAN2:
    """The generator of a weights file, in float32, ready for inference."""
    generator = StyleGAN2(config)
    generator.load_state_dict({key: tensor.float() for key, tensor in load_file(weights).items()})
    return generator.eval().requires_grad_(False)


def _export_mapping(generator: StyleGAN2, folder: Path) -> None:
    config = generator.config
    example = [torch.randn(2, config.z_dim), torch.ones(2, config.num_ws)]
    names = ["z", "psi"]
    if config.c_dim:
        example.append(torch.zeros(2, config.c_dim))
        names.append("c")
    export_graph(FrozenMapping(generator.mapping), example, names, ["ws"], folder / "mapping.onnx")


def _export_synthesis(generator: StyleGAN2, folder: Path) -> None:
    config = generator.config
    example = [torch.randn(2, config.num_ws, config.w_dim), torch.randn(2, config.noise_size)]
    frozen = FrozenSynthesis(generator.synthesis)
    export_graph(frozen, example, ["ws", "noise"], ["image_float"], folder / "synthesis.onnx")


def _measure_parity(generator: StyleGAN2, folder: Path) -> list[Parity]:
    """Seeds 0, 1, … through both graphs against the plain torch generator, psi 0.7, the stored noise."""
    config = generator.config
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    mapping, synthesis = (
        onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
        for name in ("mapping.onnx", "synthesis.onnx")
    )
    noise = generator.synthesis.constant_noise()[None]

    def latents(batch: int) -> dict[str, np.ndarray]:
        z = np.concatenate([np.random.RandomState(seed).randn(1, config.z_dim) for seed in range(batch)])
        feeds = {"z": z.astype(np.float32), "psi": np.full((batch, config.num_ws), 0.7, np.float32)}
        if config.c_dim:
            feeds["c"] = np.eye(config.c_dim, dtype=np.float32)[np.arange(batch) % config.c_dim]
        return feeds

    def graph(batch: int) -> np.ndarray:
        ws = mapping.run(None, latents(batch))[0]
        pictures: np.ndarray = synthesis.run(None, {"ws": ws, "noise": noise.expand(batch, -1).numpy()})[0]
        return pictures

    @torch.inference_mode()
    def reference(batch: int) -> np.ndarray:
        feeds = {key: torch.from_numpy(value) for key, value in latents(batch).items()}
        # One row at a time: a batch of large pictures needs more memory than many machines have.
        rows = [
            generator(
                feeds["z"][i : i + 1], feeds["c"][i : i + 1] if "c" in feeds else None, feeds["psi"][i : i + 1], noise
            )
            for i in range(batch)
        ]
        return torch.cat(rows).numpy()

    return require_parity(graph, reference)


def _inputs(config: StyleGAN2Config) -> tuple[TensorSpec, ...]:
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


def _outputs(config: StyleGAN2Config) -> tuple[TensorSpec, ...]:
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
