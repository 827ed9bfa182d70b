"""Publish a diffusers pipeline as a bundle: graphs, tokenizers, parity, manifest; nothing is written if any fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import onnxruntime
import torch
import transformers

from impasto.errors import CheckpointError, InvalidRequest
from impasto.export.bundle import Manifest, Parity, TensorSpec, new_bundle, write_manifest
from impasto.export.class_names import check_class_names
from impasto.export.diffusion_modules import load_module, load_tokenizer
from impasto.export.diffusion_parts import Part, Shapes, input_names, parts_of, shapes_of
from impasto.export.lint import MAX_IR_VERSION, MAX_OPSET
from impasto.export.onnx import export_graph
from impasto.export.parity import require_close
from impasto.export.preview import fit_preview
from impasto.generators.diffusers_folder import INDEX, LABELS, Kind, Pipeline
from impasto.generators.foreign.clip_vocabulary import ClipVocabulary
from impasto.sampling import from_diffusers

PARITY_BATCHES = (1, 3)
SAMPLER_FOR_FEW_STEPS = "dpmpp_2m"
DEFAULTS: dict[Kind, dict[str, Any]] = {
    "pixel": {"steps": 20},
    "dit": {"steps": 30, "guidance_scale": 4.0},
    "stable-diffusion": {"steps": 30, "guidance_scale": 7.5},
    "stable-diffusion-xl": {"steps": 30, "guidance_scale": 5.0},
    "stable-diffusion-3": {"steps": 28, "guidance_scale": 7.0},
}
LCM_DEFAULTS = {"steps": 4, "guidance_scale": 1.0}
PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16"}


def publish_diffusion(
    pipeline: Pipeline,
    name: str,
    models: Path,
    *,
    version: str = "1",
    weights_dtype: torch.dtype = torch.float32,
    licence: str = "unknown",
    provenance: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = lambda stage: None,
) -> Path:
    """Write `models`/NAME/VERSION from a diffusers folder; returns its folder. `report` hears of each stage.

    The graphs are denoiser.onnx and, as the pipeline has them, text_encoder.onnx, decoder.onnx and encoder.onnx; the
    module docstrings of `diffusion_graphs` say what goes in and comes out. The manifest's size is the one that the
    denoiser's config names. `sizes` in the manifest's config has the `least` and the `most` pixels of a side, and what
    it is a `multiple` of, for UNets with a decoder; it is "fixed" for transformers, which have learned a place for each
    patch, and for pixel models, which paint no larger than they were trained.

    The graphs hold the only copy of the weights, which are rounded to `weights_dtype` (float32 or float16) first, so
    that in float16 a bundle is about two bytes a parameter.

    CheckpointError if the folder's parts do not make one pipeline, ExportError if a graph breaks a rule or differs from
    torch by more than 1e-4 of its output's scale, BundleError if there is such a bundle already.
    """
    if weights_dtype not in PRECISIONS:
        raise InvalidRequest("weights_dtype", weights_dtype, ", ".join(map(str, PRECISIONS)))
    scheduler = _scheduler(pipeline)
    with new_bundle(models, name, version) as folder:
        report("weights")
        networks = {key: load_module(component, weights_dtype) for key, component in pipeline.components.items()}
        shapes = shapes_of(pipeline, networks)
        _check_class_names(pipeline, shapes)
        parts = parts_of(pipeline, networks, shapes)
        parity: list[Parity] = []
        for part in parts:
            report(f"{part.name.replace('_', ' ')} graph")
            _export(part, folder, half_weights=weights_dtype is torch.float16)
            report(f"{part.name.replace('_', ' ')} parity with torch")
            parity += _measure_parity(part, folder)
            if part.free_sides:
                parity += _parity_of_another_size(part.name, pipeline, networks, shapes, folder)
        for key, vocabulary in pipeline.tokenizers.items():
            _save_tokenizer(vocabulary, folder / f"{key}.json")
        graphs = {part.name: part for part in parts}
        report("preview")
        preview = fit_preview(graphs["decoder"].module, shapes.latent) if "decoder" in graphs else None
        write_manifest(
            folder,
            Manifest(
                name=name,
                version=version,
                family="diffusion",
                config={
                    "pipeline": pipeline.kind,
                    "latent": list(shapes.latent),
                    "sample_channels": shapes.sample_channels,
                    "sizes": _sizes(shapes),
                    "scheduler": scheduler,
                    "denoiser_inputs": list(graphs["denoiser"].inputs),
                    "text": _text(pipeline),
                    "classes": shapes.classes,
                    "null_class": shapes.null_class,
                    "decoder": "decoder" in graphs,
                    "encoder": "encoder" in graphs,
                    "scale": shapes.scale,
                    "preview": preview,
                },
                width=shapes.latent[2] * shapes.scale,
                height=shapes.latent[1] * shapes.scale,
                inputs=tuple(_inputs(shapes)),
                outputs=_outputs(shapes),
                defaults=_defaults(pipeline, scheduler, shapes) | dict(defaults or {}),
                parity=tuple(parity),
                graph={
                    "opset": MAX_OPSET,
                    "ir_version": MAX_IR_VERSION,
                    "precision": "fp32",
                    "weights": PRECISIONS[weights_dtype],
                    "torch": torch.__version__,
                    "diffusers": diffusers.__version__,
                    "transformers": transformers.__version__,
                    "onnxruntime": onnxruntime.__version__,
                },
                licence=licence,
                provenance=dict(provenance or {}),
                class_names=pipeline.class_names,
            ),
        )
    return models / name / version


def _check_class_names(pipeline: Pipeline, shapes: Shapes) -> None:
    """CheckpointError unless the labels, if there are any, name each class of the network."""
    if pipeline.class_names:
        try:
            check_class_names(pipeline.class_names, shapes.classes)
        except InvalidRequest as error:
            raise CheckpointError(f"{pipeline.folder}: {INDEX}: {error.renamed(LABELS)}") from error


def _scheduler(pipeline: Pipeline) -> dict[str, Any]:
    """The scheduler's config, once it is known that its steps can be taken here."""
    config = dict(pipeline.scheduler)
    if pipeline.kind == "stable-diffusion":
        # Its pipelines correct what early releases of the weights had wrong.
        config |= {key: value for key, value in (("clip_sample", False), ("steps_offset", 1)) if key in config}
    try:
        from_diffusers(config)
    except InvalidRequest as error:
        raise CheckpointError(f"{pipeline.folder}: scheduler/scheduler_config.json: {error}") from error
    return config


def _export(part: Part, folder: Path, *, half_weights: bool) -> None:
    example = part.example(2)
    try:
        part.module(*example.values())
    except Exception as error:  # whatever a network makes of settings that its weights do not show to be wrong
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{part.name}: the network of its config does not run: {reason[:200]}") from error
    export_graph(
        part.module,
        list(example.values()),
        list(example),
        part.outputs,
        folder / part.file,
        free_sides=part.free_sides,
        half_weights=half_weights,
    )


def _parity_of_another_size(
    name: str, pipeline: Pipeline, networks: Mapping[str, Any], shapes: Shapes, folder: Path
) -> list[Parity]:
    """That of the longest and narrowest picture."""
    other = shapes.of_size(*shapes.sides)
    (part,) = [part for part in parts_of(pipeline, networks, other) if part.name == name]
    return _measure_parity(part, folder, (1,), f" of {other.latent[2]}×{other.latent[1]}")


@torch.inference_mode()
def _measure_parity(part: Part, folder: Path, batches: Sequence[int] = PARITY_BATCHES, size: str = "") -> list[Parity]:
    """The graph's outputs against torch's, each over the largest number of torch's. `size` is said beside the name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / part.file, options, providers=["CPUExecutionProvider"])
    measured = []
    for batch in batches:
        example = part.example(batch)
        outputs = session.run(list(part.outputs), {name: values.numpy() for name, values in example.items()})
        computed = part.module(*example.values())
        references = computed if isinstance(computed, tuple) else (computed,)
        for name, found, reference in zip(part.outputs, outputs, references, strict=True):
            expected = reference.numpy()
            scale = np.abs(expected).max() or np.float32(1.0)
            where = f"{part.name}.{name}{size}"
            parity = require_close(found / scale, expected / scale, where)
            measured.append(parity.model_copy(update={"output": where}))
    return measured


def _save_tokenizer(vocabulary: ClipVocabulary, path: Path) -> None:
    """Write a tokenizer that the `tokenizers` package runs by itself, and that pads and cuts to the model's length."""
    tokenizer = load_tokenizer(vocabulary)
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(vocabulary.max_length)
    pad = vocabulary.special["pad_token"]
    backend.enable_padding(length=vocabulary.max_length, pad_id=vocabulary.tokens[pad], pad_token=pad)
    path.write_text(backend.to_str(), encoding="utf-8")


def _sizes(shapes: Shapes) -> dict[str, int] | str:
    """The sizes of pictures that the graphs take, in pixels of a side."""
    if shapes.multiple is None:
        return "fixed"
    least, most = shapes.sides
    return {"multiple": shapes.multiple * shapes.scale, "least": least * shapes.scale, "most": most * shapes.scale}


def _text(pipeline: Pipeline) -> dict[str, Any] | None:
    if not pipeline.tokenizers:
        return None
    return {
        "max_length": next(iter(pipeline.tokenizers.values())).max_length,
        "tokenizers": {
            name: f"{key}.json" for name, key in zip(input_names(pipeline), pipeline.tokenizers, strict=True)
        },
        "zero_negative": pipeline.zero_negative,
    }


def _defaults(pipeline: Pipeline, scheduler: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    _, sampler, _ = from_diffusers(scheduler)
    defaults = DEFAULTS[pipeline.kind] | (LCM_DEFAULTS if sampler == "lcm" else {})
    if shapes.text is None and shapes.null_class is None:
        defaults = {key: value for key, value in defaults.items() if key != "guidance_scale"}
    return defaults | {"sampler": SAMPLER_FOR_FEW_STEPS if sampler == "ddpm" else sampler}


def _inputs(shapes: Shapes) -> list[TensorSpec]:
    specs = [
        TensorSpec(name="seed", dtype="INT64", shape=(-1, 1), meaning="of the noise that the picture is made from"),
        TensorSpec(name="latent", dtype="FP32", shape=(-1, *shapes.latent), meaning="that noise itself"),
        TensorSpec(name="steps", dtype="INT32", shape=(-1, 1), meaning="sampling steps"),
        TensorSpec(name="sampler", dtype="BYTES", shape=(-1, 1), meaning="name of a sampler"),
        TensorSpec(
            name="image", dtype="UINT8", shape=(-1, *_size(shapes), 3), meaning="where to start from instead of noise"
        ),
        TensorSpec(name="strength", dtype="FP32", shape=(-1, 1), meaning="how much of the image is made anew"),
    ]
    if shapes.text is not None:
        specs += [
            TensorSpec(name="prompt", dtype="BYTES", shape=(-1, 1), meaning="what to show, UTF-8"),
            TensorSpec(name="negative_prompt", dtype="BYTES", shape=(-1, 1), meaning="what not to show, UTF-8"),
        ]
    if shapes.classes:
        specs.append(TensorSpec(name="label", dtype="INT64", shape=(-1, 1), meaning="class index"))
    if shapes.text is not None or shapes.null_class is not None:
        specs.append(
            TensorSpec(name="guidance_scale", dtype="FP32", shape=(-1, 1), meaning="how closely to follow; 1 is none")
        )
    return specs


def _size(shapes: Shapes) -> tuple[int, int]:
    """Height and width of a picture."""
    return shapes.latent[1] * shapes.scale, shapes.latent[2] * shapes.scale


def _outputs(shapes: Shapes) -> tuple[TensorSpec, ...]:
    height, width = _size(shapes)
    return (
        TensorSpec(name="image", dtype="UINT8", shape=(-1, height, width, 3), meaning="clamp(127.5·image_float + 128)"),
        TensorSpec(
            name="image_float", dtype="FP32", shape=(-1, 3, height, width), meaning="nominally in [-1, 1], not clamped"
        ),
    )
