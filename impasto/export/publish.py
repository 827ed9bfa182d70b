"""Publish a generator as a bundle: weights, graphs, parity, manifest; nothing is written if any of it fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from impasto.errors import ExportError
from impasto.export import mapped
from impasto.export.bundle import WEIGHTS, Bundle, Manifest, Parity, list_bundles, new_bundle, write_manifest
from impasto.export.class_names import check_class_names
from impasto.export.onnx import export_graph
from impasto.export.parity import TOLERANCE
from impasto.export.publish_family import publish_family
from impasto.export.publish_stylegan3 import publish_stylegan3
from impasto.generators.checkpoints import Checkpoint
from impasto.generators.families import FAMILIES, family_of
from impasto.generators.stylegan2 import StyleGAN2
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.generators.stylegan2_graph import graph_synthesis
from impasto.generators.stylegan3_config import StyleGAN3Config

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
    class_names: Sequence[str] = (),
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
                family="stylegan2",
                config=dataclasses.asdict(config),
                width=config.resolution,
                height=config.resolution,
                inputs=mapped.latent_inputs(config),
                outputs=mapped.picture_outputs(config),
                defaults={"psi": 1.0, "noise_mode": "const", **(defaults or {})},
                parity=tuple(parity),
                graph=mapped.graph_facts(),
                licence=licence,
                provenance=dict(provenance or {}),
                class_names=tuple(class_names),
            ),
        )
    return models / name / version


def publish_checkpoint(read: Checkpoint, name: str, models: Path, **options: Any) -> Path:
    """Write `models`/NAME/VERSION from a checkpoint, by its family; the options are those of `publish_stylegan2`.

    InvalidRequest if there are `class_names` that are not one a class, or cannot be names.
    """
    if names := options.get("class_names"):
        check_class_names(names, getattr(read.config, "c_dim", 0))
    return _publish(read.family, read.config, read.tensors, name, models, **options)


def export_again(bundle: Bundle, models: Path, report: Report = lambda stage: None) -> Path:
    """Make the graphs of a bundle anew from its weights, with this version's exporter, as the next free version."""
    manifest = bundle.manifest
    if manifest.family not in _CONFIGS and manifest.family not in FAMILIES:
        allowed = ", ".join(repr(family) for family in (*_CONFIGS, *FAMILIES))
        raise ExportError(
            f"family: found {manifest.family!r}; allowed is one of {allowed}: other bundles keep no weights beside "
            "their graphs, so make these anew from the checkpoint with `impasto import`"
        )
    versions = list_bundles([models]).get(manifest.name, {})
    newest = max([int(manifest.version), *(int(version) for version in versions)])
    tensors = load_file(bundle.path / WEIGHTS)
    kind = _CONFIGS.get(manifest.family) or family_of(manifest.family).config
    return _publish(
        manifest.family,
        kind(**manifest.config),
        tensors,
        manifest.name,
        models,
        version=str(newest + 1),
        # Buffers may be wider than the parameters, which all have one.
        weights_dtype=min((tensor.dtype for tensor in tensors.values()), key=lambda dtype: dtype.itemsize),
        licence=manifest.licence,
        provenance=manifest.provenance,
        defaults=manifest.defaults,
        class_names=manifest.class_names,
        report=report,
    )


def load_generator(config: StyleGAN2Config, weights: Path) -> StyleGAN2:
    """The generator of a weights file, in float32, ready for inference."""
    generator = StyleGAN2(config)
    generator.load_state_dict({key: tensor.float() for key, tensor in load_file(weights).items()})
    return generator.eval().requires_grad_(False)


_CONFIGS: Mapping[str, type[Any]] = {"stylegan2": StyleGAN2Config, "stylegan3": StyleGAN3Config}


def _publish(family: str, config: Any, tensors: Mapping[str, Tensor], name: str, models: Path, **options: Any) -> Path:
    if family == "stylegan2":
        return publish_stylegan2(config, tensors, name, models, **options)
    if family == "stylegan3":
        return publish_stylegan3(config, tensors, name, models, **options)
    return publish_family(family, config, tensors, name, models, **options)


def _export_synthesis(generator: StyleGAN2, folder: Path) -> None:
    config = generator.config
    example = [torch.randn(2, config.num_ws, config.w_dim), torch.randn(2, config.noise_size)]
    graph = graph_synthesis(generator.synthesis)
    export_graph(graph, example, ["ws", "noise"], ["image_float"], folder / "synthesis.onnx")


def _measure_parity(generator: StyleGAN2, folder: Path) -> list[Parity]:
    """Both graphs against the plain torch generator, the stored noise."""
    noise = generator.synthesis.constant_noise()[None]

    def reference(z: Tensor, c: Tensor | None, psi: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        pictures: Tensor = generator(z, c, psi, others["noise"])
        return pictures

    def noises(batch: int) -> mapped.Rows:
        return {"noise": noise.expand(batch, -1).numpy()}

    return mapped.measure_parity(generator.config, folder, noises, reference, TOLERANCE)
