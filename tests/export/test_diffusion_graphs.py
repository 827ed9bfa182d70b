"""The modules that become graphs, against diffusers' own pipelines with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from impasto.export.diffusion_modules import load_module, load_tokenizer
from impasto.export.diffusion_parts import Part, Shapes, parts_of, shapes_of
from impasto.generators.diffusers_folder import Pipeline, read_pipeline
from tests.generators.tiny_pipelines import KINDS, save_tiny, tiny_pipeline

PROMPTS = ["a starry night", "", "night " * 100]


def _parts(kind: str, folder: Path) -> tuple[dict[str, Part], Shapes, Pipeline]:
    pipeline = read_pipeline(save_tiny(kind, folder))
    networks = {name: load_module(component, torch.float32) for name, component in pipeline.components.items()}
    shapes = shapes_of(pipeline, networks)
    return {part.name: part for part in parts_of(pipeline, networks, shapes)}, shapes, pipeline


def _ids(pipeline: Pipeline) -> list[Tensor]:
    return [
        torch.tensor([load_tokenizer(v)(p, padding="max_length", truncation=True).input_ids for p in PROMPTS])
        for v in pipeline.tokenizers.values()
    ]


@torch.inference_mode()
def _encoded_by_diffusers(kind: str) -> list[Tensor]:
    """encoder_hidden_states, and text_embeds where the model has them."""
    pipeline: Any = tiny_pipeline(kind)
    if kind == "sd3":
        states, _, pooled, _ = pipeline.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False)
        return [states, pooled]
    if kind == "sdxl":
        states, _, pooled, _ = pipeline.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
        return [states, pooled]
    states, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=False)
    return [states]


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl", "sd3", "inpaint"])
@torch.inference_mode()
def test_prompts_are_embedded_as_their_pipelines_do(kind: str, tmp_path: Path) -> None:
    parts, _, pipeline = _parts(kind, tmp_path)
    embedded = parts["text_encoder"].module(*_ids(pipeline))
    found = [embedded] if isinstance(embedded, Tensor) else list(embedded)
    for tensor, expected in zip(found, _encoded_by_diffusers(kind), strict=True):
        assert tensor.shape == expected.shape
        torch.testing.assert_close(tensor, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_pictures_are_decoded_and_encoded_with_scale_and_shift(tmp_path: Path) -> None:
    parts, _, _ = _parts("sd3", tmp_path)
    vae = tiny_pipeline("sd3").vae
    latent, picture = parts["decoder"].example(2)["latent"], parts["encoder"].example(2)["image_float"]
    decoded = vae.decode(latent / 1.5305 + 0.0609).sample
    torch.testing.assert_close(parts["decoder"].module(latent), decoded, atol=1e-6, rtol=1e-5)
    mean, std = parts["encoder"].module(picture)
    posterior = vae.encode(picture).latent_dist
    noise = torch.randn(posterior.mean.shape)
    drawn = (posterior.mean + posterior.std * noise - 0.0609) * 1.5305
    torch.testing.assert_close(mean + std * noise, drawn, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_every_condition_reaches_the_denoiser(tmp_path: Path) -> None:
    for kind in KINDS:
        parts, shapes, _ = _parts(kind, tmp_path / kind)
        denoiser = parts["denoiser"]
        example, other = denoiser.example(2), denoiser.example(3)
        predicted = denoiser.module(*example.values())
        assert predicted.shape == (2, *shapes.latent), kind
        for name in example:
            changed = example | {name: other[name][:2]}
            assert not torch.equal(denoiser.module(*changed.values()), predicted), f"{kind}: {name}"


@torch.inference_mode()
def test_a_class_conditional_transformer_predicts_what_its_pipeline_takes_of_it(tmp_path: Path) -> None:
    parts, shapes, _ = _parts("dit", tmp_path)
    example = parts["denoiser"].example(2)
    whole = tiny_pipeline("dit").transformer(
        example["sample"], example["timestep"], class_labels=example["class_labels"]
    )
    assert whole.sample.shape[1] == 2 * shapes.latent[0], "the second half is a learned variance"
    expected = whole.sample[:, : shapes.latent[0]]
    torch.testing.assert_close(parts["denoiser"].module(*example.values()), expected)


def test_sizes_are_told_by_the_unets_depth_and_its_usual_size() -> None:
    assert Shapes((4, 64, 64), 4, 8, multiple=8).sides == (16, 96), "Stable Diffusion 1.5: 128 to 768 pixels"
    assert Shapes((4, 128, 128), 4, 8, multiple=4).sides == (8, 192), "SDXL: 64 to 1536 pixels"
    assert Shapes((4, 40, 24), 4, 8, multiple=8).sides == (16, 56)


def test_shapes_are_those_of_the_configs(tmp_path: Path) -> None:
    found = {kind: _parts(kind, tmp_path / kind)[1] for kind in KINDS}
    assert found == {
        "ddpm": Shapes((3, 16, 16), 3),
        "sd15": Shapes((4, 8, 8), 4, 2, (77, 16), multiple=2),
        "sd21": Shapes((4, 8, 8), 4, 2, (77, 16), multiple=2),
        "sdxl": Shapes((4, 8, 8), 4, 2, (77, 40), 12, multiple=1),
        "inpaint": Shapes((4, 8, 8), 9, 2, (77, 16), multiple=2),
        "dit": Shapes((4, 8, 8), 4, 2, classes=1000, null_class=1000),
        "sd3": Shapes((4, 8, 8), 4, 2, (77 + 256, 48), 24),
    }
