"""The engine beside diffusers' own pipelines: the same weights, prompts, schedule and noise, the same picture."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from impasto.denoising import Denoising
from impasto.engine.diffusion import DiffusionEngine
from impasto.engine.picture import PictureRequest
from impasto.engine.registry import open_engine
from impasto.errors import InvalidRequest
from impasto.export.bundle import open_bundle
from tests.generators.tiny_pipelines import LATENT_SIDE, tiny_pipeline
from tests.support.diffusion import SIDE, write_tiny_diffusion

TOLERANCE = 1e-4
torch.set_num_threads(1)  # the models are tiny
STEPS = 7
PROMPT, NEGATIVE = "the starry night", "stars"
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lcm": ("LCMScheduler", {}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def engines(models: Path) -> Iterator[Any]:
    """Engines by kind, opened once each."""
    opened: list[DiffusionEngine] = []

    @functools.cache
    def engine_of(kind: str) -> DiffusionEngine:
        engine = open_engine(open_bundle(write_tiny_diffusion(models, kind)), threads=1)
        assert isinstance(engine, DiffusionEngine)
        opened.append(engine)
        return engine

    yield engine_of
    for engine in opened:
        engine.close()


def _picture(engine: DiffusionEngine, seed: int, label: int | None = None, image: Any = None, **wanted: Any) -> Any:
    """In [0, 1], [H, W, 3], as diffusers gives it."""
    request = PictureRequest(seed, label=label, image=image, denoising=Denoising(noise="torch", **wanted))
    engine.check(request)
    return np.clip(engine.run([request])[0].image_float.transpose(1, 2, 0) / 2 + 0.5, 0, 1)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def _with(pipeline: Any, sampler: str) -> Any:
    """The pipeline with another scheduler, made from its own one's configuration."""
    name, changes = SCHEDULERS[sampler]
    # As read from a folder, where nothing tells the class's defaults from what somebody chose.
    config = {key: value for key, value in pipeline.scheduler.config.items() if key != "_use_default_values"}
    pipeline.scheduler = getattr(diffusers, name).from_config({"clip_sample": False, **config}, **changes)
    return pipeline


@pytest.mark.parametrize("kind", ["sd15", "sd21"])
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_text_to_image_is_that_of_diffusers_with_every_sampler(engines: Any, kind: str, sampler: str) -> None:
    pipeline = _with(tiny_pipeline(kind), sampler)
    options = {"guidance_scale": 4.0, "negative_prompt": NEGATIVE}
    expected = pipeline(
        PROMPT, num_inference_steps=STEPS, generator=_generator(3), output_type="np", height=SIDE, width=SIDE, **options
    )
    found = _picture(engines(kind), 3, prompt=PROMPT, sampler=sampler, steps=STEPS, **options)
    assert np.abs(found - expected.images[0]).max() <= TOLERANCE
    assert found.std() > 0.02


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_pixel_model_is_that_of_diffusers(engines: Any, sampler: str) -> None:
    pipeline = _with(tiny_pipeline("ddpm"), sampler)
    made = pipeline(num_inference_steps=STEPS, generator=_generator(5), output_type="np").images[0]
    found = _picture(engines("ddpm"), 5, sampler=sampler, steps=STEPS)
    assert np.abs(found - made).max() <= TOLERANCE


def test_eta_is_that_of_diffusers(engines: Any) -> None:
    pipeline = _with(tiny_pipeline("sd15"), "ddim")
    options = {"guidance_scale": 1.0, "eta": 0.6}
    expected = pipeline(PROMPT, num_inference_steps=STEPS, generator=_generator(3), output_type="np", **options)
    found = _picture(engines("sd15"), 3, prompt=PROMPT, sampler="ddim", steps=STEPS, **options)
    assert np.abs(found - expected.images[0]).max() <= TOLERANCE


def test_guidance_rescale_is_that_of_diffusers(engines: Any) -> None:
    pipeline = _with(tiny_pipeline("sd21"), "ddim")
    options = {"guidance_scale": 5.0, "guidance_rescale": 0.7}
    expected = pipeline(PROMPT, num_inference_steps=STEPS, generator=_generator(3), output_type="np", **options)
    found = _picture(engines("sd21"), 3, prompt=PROMPT, sampler="ddim", steps=STEPS, **options)
    assert np.abs(found - expected.images[0]).max() <= TOLERANCE


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_sdxl_is_that_of_diffusers(engines: Any, guidance: float) -> None:
    pipeline = tiny_pipeline("sdxl")
    options = {"guidance_scale": guidance}
    expected = pipeline(PROMPT, num_inference_steps=STEPS, generator=_generator(3), output_type="np", **options)
    found = _picture(engines("sdxl"), 3, prompt=PROMPT, sampler="euler", steps=STEPS, **options)
    assert np.abs(found - expected.images[0]).max() <= TOLERANCE


@pytest.mark.parametrize(("width", "height"), [(24, 16), (8, 24), (24, 24)])
@pytest.mark.parametrize(("kind", "sampler"), [("sd15", "plms"), ("sdxl", "euler")])
def test_pictures_of_other_sizes_are_those_of_diffusers(
    engines: Any, kind: str, sampler: str, width: int, height: int
) -> None:
    options: dict[str, Any] = {"guidance_scale": 5.0, "width": width, "height": height}
    expected = tiny_pipeline(kind)(
        PROMPT, num_inference_steps=STEPS, generator=_generator(3), output_type="np", **options
    )
    found = _picture(engines(kind), 3, prompt=PROMPT, sampler=sampler, steps=STEPS, **options)
    assert found.shape == (height, width, 3)
    assert np.abs(found - expected.images[0]).max() <= TOLERANCE


def test_a_class_conditional_transformer_is_that_of_diffusers(engines: Any) -> None:
    pipeline = tiny_pipeline("dit")
    expected = pipeline(
        [207], num_inference_steps=STEPS, generator=_generator(3), output_type="np", guidance_scale=4.0
    ).images[0]
    found = _picture(engines("dit"), 3, label=207, sampler="ddim", steps=STEPS, guidance_scale=4.0)
    assert np.abs(found - expected).max() <= TOLERANCE


def test_a_flow_transformer_is_that_of_diffusers(engines: Any) -> None:
    pipeline = tiny_pipeline("sd3")
    options = {"guidance_scale": 4.0, "negative_prompt": NEGATIVE}
    expected = pipeline(
        PROMPT, num_inference_steps=STEPS, generator=_generator(3), output_type="np", height=SIDE, width=SIDE, **options
    )
    found = _picture(engines("sd3"), 3, prompt=PROMPT, sampler="flow_euler", steps=STEPS, **options)
    assert np.abs(found - expected.images[0]).max() <= TOLERANCE


def _photograph(seed: int, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "dpmpp_2m", "plms"])
@pytest.mark.parametrize(("strength", "width"), [(0.5, SIDE), (0.9, 24)])
def test_image_to_image_is_that_of_diffusers(engines: Any, sampler: str, strength: float, width: int) -> None:
    pipeline = _with(tiny_pipeline("sd15"), sampler)
    pipeline = diffusers.StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    image, steps = _photograph(1, width), 8
    options = {"guidance_scale": 3.0, "strength": strength}
    expected = pipeline(
        PROMPT,
        image=Image.fromarray(image),
        num_inference_steps=steps,
        generator=_generator(3),
        output_type="np",
        **options,
    )
    found = _picture(engines("sd15"), 3, prompt=PROMPT, sampler=sampler, steps=steps, image=image, **options)
    assert np.abs(found - expected.images[0]).max() <= TOLERANCE


@pytest.mark.parametrize("kind", ["sd15", "inpaint"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_inpainting_is_that_of_diffusers(engines: Any, kind: str, strength: float) -> None:
    pipeline = _with(tiny_pipeline(kind), "ddim")
    pipeline = diffusers.StableDiffusionInpaintPipeline(**pipeline.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    image, mask = _photograph(1), np.zeros((SIDE, SIDE, 3), np.uint8)
    mask[4:12, 6:] = 255
    options = {"guidance_scale": 3.0, "strength": strength}
    expected = pipeline(
        PROMPT,
        image=Image.fromarray(image),
        mask_image=Image.fromarray(mask[..., 0]),
        height=SIDE,
        width=SIDE,
        num_inference_steps=10,
        generator=_generator(3),
        output_type="np",
        **options,
    )
    wanted = {"prompt": PROMPT, "sampler": "ddim", "steps": 10, "image": image, "mask": mask, **options}
    found = _picture(engines(kind), 3, **wanted)
    assert np.abs(found - expected.images[0]).max() <= TOLERANCE


def test_torch_noise_with_a_sampler_whose_noise_diffusers_draws_otherwise_is_refused(engines: Any) -> None:
    with pytest.raises(InvalidRequest, match="noise: found 'torch'"):
        _picture(engines("sd15"), 3, prompt=PROMPT, sampler="dpmpp_sde", steps=4)


def test_the_noise_of_a_seed_is_that_of_diffusers(engines: Any) -> None:
    drawn = torch.randn((1, 4, LATENT_SIDE, LATENT_SIDE), generator=_generator(9)).numpy()
    wanted: dict[str, Any] = {"prompt": PROMPT, "sampler": "ddim", "steps": 3}
    by_seed = _picture(engines("sd15"), 9, **wanted)
    assert np.array_equal(by_seed, _picture(engines("sd15"), 0, latent=drawn, **wanted))
