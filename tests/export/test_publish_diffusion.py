from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer

from impasto.errors import BundleError, CheckpointError, ExportError, InvalidRequest
from impasto.export.bundle import Bundle, open_bundle
from impasto.export.diffusion_modules import load_module
from impasto.export.diffusion_parts import parts_of, shapes_of
from impasto.export.lint import violations
from impasto.export.publish import export_again
from impasto.export.publish_diffusion import _export, _measure_parity, _scheduler, publish_diffusion
from impasto.generators.diffusers_folder import read_pipeline
from impasto.sampling import SAMPLERS
from tests.generators.tiny_pipelines import save_tiny, tiny_pipeline
from tests.support.diffusion import write_tiny_diffusion

PROMPTS = ("", "a starry night", "night " * 200, "Ünïcødé ☃ 星月夜", "The STAR's; 1889!!")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def pixel(models: Path) -> Bundle:
    return open_bundle(write_tiny_diffusion(models, "ddpm"))


@pytest.fixture(scope="module")
def latent(models: Path) -> Bundle:
    return open_bundle(write_tiny_diffusion(models, "sd15"))


def _run(bundle: Bundle, graph: str, **feeds: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(bundle.path / f"{graph}.onnx", providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, feeds)
    return found


def test_each_graph_is_as_torch_at_batch_1_and_3(pixel: Bundle, latent: Bundle) -> None:
    assert [(entry.output, entry.batch) for entry in pixel.manifest.parity] == [
        ("denoiser.output", 1),
        ("denoiser.output", 3),
    ]
    assert [entry.output for entry in latent.manifest.parity if entry.batch == 3] == [
        "denoiser.output",
        "text_encoder.encoder_hidden_states",
        "decoder.image_float",
        "encoder.mean",
        "encoder.std",
    ]
    assert [entry.output for entry in latent.manifest.parity if "of" in entry.output] == [
        "denoiser.output of 12×4",
        "decoder.image_float of 12×4",
        "encoder.mean of 12×4",
        "encoder.std of 12×4",
    ]
    for entry in (*pixel.manifest.parity, *latent.manifest.parity):
        assert 0.0 < entry.max_abs_error <= 1e-4, entry


def test_the_manifest_says_what_serving_needs(latent: Bundle) -> None:
    manifest = latent.manifest
    config = manifest.config
    assert (manifest.family, manifest.width, manifest.height) == ("diffusion", 16, 16)
    assert config["pipeline"] == "stable-diffusion"
    assert config["denoiser_inputs"] == ["sample", "timestep", "encoder_hidden_states"]
    assert (config["latent"], config["scale"], config["decoder"], config["encoder"]) == ([4, 8, 8], 2, True, True)
    assert config["sizes"] == {"multiple": 4, "least": 8, "most": 24}
    assert config["text"] == {
        "max_length": 77,
        "tokenizers": {"input_ids": "tokenizer.json"},
        "zero_negative": False,
    }
    assert config["scheduler"]["_class_name"] == "PNDMScheduler"
    assert (config["classes"], config["null_class"]) == (0, None)
    assert np.shape(config["preview"]["matrix"]) == (4, 3)
    assert manifest.defaults == {"steps": 30, "guidance_scale": 7.5, "sampler": "plms"}
    assert {spec.name: (spec.dtype, spec.shape) for spec in manifest.inputs} == {
        "seed": ("INT64", (-1, 1)),
        "latent": ("FP32", (-1, 4, 8, 8)),
        "steps": ("INT32", (-1, 1)),
        "sampler": ("BYTES", (-1, 1)),
        "image": ("UINT8", (-1, 16, 16, 3)),
        "strength": ("FP32", (-1, 1)),
        "prompt": ("BYTES", (-1, 1)),
        "negative_prompt": ("BYTES", (-1, 1)),
        "guidance_scale": ("FP32", (-1, 1)),
    }
    assert {spec.name: spec.shape for spec in manifest.outputs} == {
        "image": (-1, 16, 16, 3),
        "image_float": (-1, 3, 16, 16),
    }


def test_a_pixel_model_has_a_denoiser_and_nothing_to_guide_by(pixel: Bundle) -> None:
    assert pixel.manifest.files.keys() == {"denoiser.onnx"}
    assert pixel.manifest.config["text"] is None
    assert pixel.manifest.config["sizes"] == "fixed"
    assert pixel.manifest.config["preview"] is None
    assert pixel.manifest.defaults == {"steps": 20, "sampler": "dpmpp_2m"}
    assert {spec.name for spec in pixel.manifest.inputs} == {"seed", "latent", "steps", "sampler", "image", "strength"}
    assert pixel.manifest.defaults["sampler"] in SAMPLERS


def test_graphs_keep_the_rules_and_say_nothing_of_the_machine(pixel: Bundle, latent: Bundle) -> None:
    graphs = [*pixel.path.glob("*.onnx"), *latent.path.glob("*.onnx")]
    assert len(graphs) == 5
    for graph in graphs:
        assert violations(onnx.load(graph)) == [], graph.name
        assert b"site-packages" not in graph.read_bytes()


@torch.inference_mode()
def test_the_denoiser_is_the_networks_own(pixel: Bundle) -> None:
    sample, timestep = torch.randn(2, 3, 16, 16), torch.tensor([10.0, 900.0])
    expected = tiny_pipeline("ddpm").unet(sample, timestep).sample.numpy()
    (found,) = _run(pixel, "denoiser", sample=sample.numpy(), timestep=timestep.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@torch.inference_mode()
def test_prompts_go_from_text_to_embeddings_without_torch_or_transformers(latent: Bundle) -> None:
    tokenizer = Tokenizer.from_file(str(latent.path / latent.manifest.config["text"]["tokenizers"]["input_ids"]))
    ids = np.array([tokenizer.encode(prompt).ids for prompt in PROMPTS])
    pipeline: Any = tiny_pipeline("sd15")
    expected = pipeline.tokenizer(list(PROMPTS), padding="max_length", truncation=True, max_length=77).input_ids
    assert ids.tolist() == expected
    (states,) = _run(latent, "text_encoder", input_ids=ids)
    stated, _ = pipeline.encode_prompt(list(PROMPTS), "cpu", 1, do_classifier_free_guidance=False)
    np.testing.assert_allclose(states, stated.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("sdxl", "denoiser"), ("sdxl", "text_encoder"), ("sd3", "denoiser"), ("sd3", "text_encoder"), ("dit", "denoiser")],
)
def test_the_graphs_of_other_pipelines_are_as_torch_too(kind: str, name: str, tmp_path: Path) -> None:
    pipeline = read_pipeline(save_tiny(kind, tmp_path))
    networks = {name: load_module(component, torch.float16) for name, component in pipeline.components.items()}
    parts = {part.name: part for part in parts_of(pipeline, networks, shapes_of(pipeline, networks))}
    _export(parts[name], tmp_path, half_weights=True)
    measured = _measure_parity(parts[name], tmp_path)
    assert len(measured) == 2 * len(parts[name].outputs)
    largest = max(onnx.load(tmp_path / f"{name}.onnx").graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    assert largest.data_type == onnx.TensorProto.FLOAT16


@torch.inference_mode()
def test_graphs_of_a_unet_take_other_sizes(latent: Bundle) -> None:
    pipeline: Any = tiny_pipeline("sd15")
    picture = torch.randn(1, 3, 24, 20)
    mean, _ = _run(latent, "encoder", image_float=picture.numpy())
    expected = pipeline.vae.encode(picture).latent_dist.mean * pipeline.vae.config.scaling_factor
    np.testing.assert_allclose(mean, expected.numpy(), atol=1e-5)
    sample, timestep, text = torch.randn(2, 4, 12, 10), torch.tensor([10.0, 900.0]), torch.randn(2, 77, 16)
    predicted = pipeline.unet(sample, timestep, text).sample.numpy()
    feeds = {"sample": sample.numpy(), "timestep": timestep.numpy(), "encoder_hidden_states": text.numpy()}
    np.testing.assert_allclose(*_run(latent, "denoiser", **feeds), predicted, atol=1e-4 * np.abs(predicted).max())


def test_a_unet_whose_own_size_its_halvings_do_not_fit_keeps_to_it(tmp_path: Path) -> None:
    folder = save_tiny("sd15", tmp_path)
    _config("unet", sample_size=[8, 9])(folder)
    pipeline = read_pipeline(folder)
    networks = {name: load_module(component, torch.float32) for name, component in pipeline.components.items()}
    shapes = shapes_of(pipeline, networks)
    assert (shapes.latent, shapes.multiple) == ((4, 8, 9), None)
    assert [part.free_sides for part in parts_of(pipeline, networks, shapes)] == [()] * 4


def _publish(kind: str, tmp_path: Path, change: Callable[[Path], None] = lambda folder: None, **options: Any) -> Path:
    folder = save_tiny(kind, tmp_path / "pipeline")
    change(folder)
    return publish_diffusion(read_pipeline(folder), "tiny", tmp_path / "models", **options)


def _config(component: str, **changes: Any) -> Callable[[Path], None]:
    name = "scheduler/scheduler_config.json" if component == "scheduler" else f"{component}/config.json"

    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))

    return change


def _short_prompts(folder: Path) -> None:
    settings = folder / "tokenizer_2/tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_max_length": 20}))


def _labels(labels: dict[str, str]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = folder / "model_index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": labels}))

    return change


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("dit", _labels({"0": "tench"}), r"model_index\.json: id2label: found 1; allowed is 1000, one a class"),
        (
            "ddpm",
            _config("scheduler", thresholding=True),
            r"scheduler/scheduler_config\.json: thresholding: found True",
        ),
        ("ddpm", _config("unet", sample_size=None), r"unet/config\.json: sample_size: found None; allowed is a side"),
        ("ddpm", _config("unet", sample_size=3), "denoiser: the network of its config does not run"),
        ("sdxl", _short_prompts, r"tokenizer_2: model_max_length: found \[20, 77\]; allowed is one for both"),
        ("sdxl", _config("unet", addition_time_embed_dim=4), "projection_class_embeddings_input_dim: found 60; allow"),
    ],
)
def test_parts_that_make_no_pipeline_are_refused(
    kind: str, change: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        _publish(kind, tmp_path, change)
    assert not list((tmp_path / "models").glob("*"))


def test_stable_diffusion_corrects_the_scheduler_as_its_pipeline_does(tmp_path: Path) -> None:
    folder = save_tiny("sd15", tmp_path)
    _config("scheduler", clip_sample=True, steps_offset=0)(folder)
    corrected = _scheduler(read_pipeline(folder))
    assert (corrected["clip_sample"], corrected["steps_offset"]) == (False, 1)


def test_a_graph_that_differs_from_torch_is_not_published(pixel: Bundle, tmp_path: Path) -> None:
    pipeline = read_pipeline(save_tiny("ddpm", tmp_path, seed=1))
    networks = {"unet": load_module(pipeline.components["unet"], torch.float32)}
    (part,) = parts_of(pipeline, networks, shapes_of(pipeline, networks))
    with pytest.raises(ExportError, match=r"denoiser\.output at batch 1: found a difference of \d\S* from torch"):
        _measure_parity(part, pixel.path)


def test_a_name_that_is_taken_is_refused_before_any_work(pixel: Bundle, tmp_path: Path) -> None:
    pipeline = read_pipeline(save_tiny("ddpm", tmp_path))
    with pytest.raises(BundleError, match="there is a bundle already"):
        publish_diffusion(pipeline, "ddpm", pixel.path.parent.parent)


def test_weights_are_kept_in_float32_or_float16(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidRequest, match=r"weights_dtype: found torch.int8; allowed is torch.float32, torch.float16"
    ):
        _publish("ddpm", tmp_path, weights_dtype=torch.int8)


def test_a_bundle_without_weights_beside_its_graphs_cannot_be_exported_again(pixel: Bundle, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"family: found 'diffusion'; .* anew from the checkpoint with `impasto import`"
    ):
        export_again(pixel, tmp_path)
