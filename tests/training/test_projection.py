from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import impasto
from impasto.errors import InvalidRequest
from impasto.export.bundle import WEIGHTS, Bundle, Manifest, TensorSpec, find_bundle, model_directories, open_bundle
from impasto.generators.families import family_of
from impasto.images import to_uint8
from impasto.images.pixels import Bytes
from impasto.training.projectable import Projectable, open_projectable
from impasto.training.projection import (
    Progress,
    ProjectionPlan,
    fitted,
    noise_regularity,
    picture_distance,
    project,
    psnr,
)
from tests.support.generators import TINY, TINY3, random_generator, random_stylegan3

SIXTEEN = dataclasses.replace(TINY, resolution=16, w_dim=16, z_dim=16, channel_base=128, channel_max=16, c_dim=2)


def bundle_of(folder: Path, family: str, config: object, module: torch.nn.Module, side: int) -> Bundle:
    """What of a bundle projection reads: its weights and its manifest."""
    assert dataclasses.is_dataclass(config)
    assert not isinstance(config, type)
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, folder / WEIGHTS)
    inputs = (
        TensorSpec(name="seed", dtype="INT64", shape=(-1, 1), meaning=""),
        TensorSpec(name="z", dtype="FP32", shape=(-1, getattr(config, "z_dim", 1)), meaning=""),
    )
    shape = {"width": side, "height": side, "inputs": inputs, "config": dataclasses.asdict(config)}
    return Bundle(folder, Manifest(name="tiny", version="1", family=family, **shape))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("tiny")
    return bundle_of(folder, "stylegan2", SIXTEEN, random_generator(SIXTEEN), 16)


def picture_of(model: Projectable, seed: int, noise: torch.Tensor | None) -> Bytes:
    """What the model makes of a latent far from its start."""
    rng = torch.Generator().manual_seed(seed)
    latent = model.start + 3.0 * model.spread * torch.randn(1, 1, model.start.shape[-1], generator=rng)
    if model.name == "z":
        latent = latent[:, 0]
    with torch.no_grad():
        return to_uint8(model.pictures(latent, noise)[0].numpy())


def test_a_picture_that_the_generator_made_is_found_again(tiny: Bundle) -> None:
    model = open_projectable(tiny, "const", label=1)
    picture = picture_of(model, 3, model.noise)
    steps: list[Progress] = []
    found = project(model, picture, ProjectionPlan(steps=200), steps.append)
    assert psnr(found.start, picture) < 20.0
    assert found.psnr == psnr(found.picture, picture) >= 25.0
    assert found.latent.shape == (SIXTEEN.num_ws, SIXTEEN.w_dim)
    assert found.noise is None
    assert [progress.step for progress in steps] == list(range(1, 201))
    assert steps[-1].psnr == pytest.approx(found.psnr, abs=1.0)


def test_a_search_with_the_same_seed_finds_the_same(tiny: Bundle) -> None:
    model = open_projectable(tiny)
    picture = picture_of(model, 3, model.noise)
    first, second, other = (project(model, picture, ProjectionPlan(steps=5, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.latent, second.latent)
    assert not np.array_equal(first.latent, other.latent)


def test_a_picture_of_other_noise_is_found_with_its_noise_and_not_without(tiny: Bundle) -> None:
    model = open_projectable(tiny, "const")
    assert model.noise is not None
    loud = 3.0 * torch.randn(model.noise.shape, generator=torch.Generator().manual_seed(5))
    picture = picture_of(model, 3, loud)
    without = project(model, picture, ProjectionPlan(steps=150))
    found = project(model, picture, ProjectionPlan(steps=150, find_noise=True))
    assert found.noise is not None
    assert found.noise.shape == (SIXTEEN.noise_size,)
    assert found.psnr > without.psnr + 3.0


def test_what_is_found_is_what_generate_makes_of_it() -> None:
    bundle = open_bundle(find_bundle("starry", model_directories()), verify=False)
    target = np.full((128, 128, 3), (30, 60, 120), np.uint8)
    found = project(open_projectable(bundle), target, ProjectionPlan(steps=2))
    with impasto.load("starry", threads=1) as generator:
        [made] = generator.generate(ws=found.latent)
    assert np.abs(made.array.astype(int) - found.picture).max() <= 1
    assert psnr(found.picture, target) > psnr(found.start, target)


@pytest.mark.parametrize("family", ["stylegan3", "gan"])
def test_other_generators_are_searched_too(family: str, tmp_path: Path) -> None:
    if family == "stylegan3":
        bundle = bundle_of(tmp_path, family, TINY3, random_stylegan3(TINY3), 16)
    else:
        described = family_of(family)
        config = described.config(resolution=16, z_dim=8, channel_base=8, channel_max=16)
        torch.manual_seed(0)
        bundle = bundle_of(tmp_path, family, config, described.build(config).eval(), 16)
    model = open_projectable(bundle)
    assert model.name == ("ws" if family == "stylegan3" else "z")
    picture = picture_of(model, 3, None)
    found = project(model, picture, ProjectionPlan(steps=40))
    assert found.latent.shape == model.start.shape[1:]
    assert found.psnr > psnr(found.start, picture) + 2.0
    with pytest.raises(InvalidRequest, match="find_noise: found True; allowed is nothing; this model has no noise"):
        project(model, picture, ProjectionPlan(find_noise=True))
    with pytest.raises(InvalidRequest, match="noise: found 'const'; allowed is nothing; this model has no noise"):
        open_projectable(bundle, "const")
    with pytest.raises(InvalidRequest, match="label: found 0; allowed is nothing; this model is not conditional"):
        open_projectable(bundle, label=0)


def test_what_cannot_be_searched_is_refused(tiny: Bundle, image_to_image_models: Path) -> None:
    model = open_projectable(tiny)
    with pytest.raises(InvalidRequest, match="picture: found '8×16 pixels'; allowed is 16×16"):
        project(model, np.zeros((16, 8, 3), np.uint8), ProjectionPlan())
    with pytest.raises(InvalidRequest, match="steps: found 0; allowed is 1 to 100000"):
        ProjectionPlan(steps=0)
    with pytest.raises(InvalidRequest, match="label: found 2; allowed is an integer from 0 to 1"):
        open_projectable(tiny, label=2)
    null = Bundle(Path(), Manifest(name="n", version="1", family="null", config={}, width=1, height=1))
    with pytest.raises(
        InvalidRequest, match="model: found 'one of the family null'; allowed is a StyleGAN, GAN or VAE"
    ):
        open_projectable(null)


def test_a_picture_is_fitted_by_its_middle() -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (200, 100, 50)
    array = fitted(Image.fromarray(wide), 10, 10)
    assert array.shape == (10, 10, 3)
    assert np.abs(array[:, 2:-2].astype(int) - (200, 100, 50)).max() <= 1
    exact = np.random.RandomState(0).randint(0, 256, (10, 10, 3)).astype(np.uint8)
    assert np.array_equal(fitted(Image.fromarray(exact), 10, 10), exact)


def test_the_distance_sees_every_scale() -> None:
    grey, one = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    checks = torch.ones(16, 16)
    checks[::2, ::2] = checks[1::2, 1::2] = -1.0
    assert float(picture_distance(grey, grey)) == 0.0
    assert float(picture_distance(one, grey)) == pytest.approx(3.0)  # at 16, 8 and 4 pixels
    assert float(picture_distance(checks.expand(1, 3, 16, 16), grey)) == pytest.approx(1.0)  # at 16 alone


def test_noise_is_regular_and_a_picture_in_it_is_not() -> None:
    noise = torch.randn(1, 2 * 64 * 64, generator=torch.Generator().manual_seed(0))
    smooth = torch.linspace(-1.7, 1.7, 64).expand(2, 64, 64).reshape(1, -1)
    sides = (64, 64)
    assert float(noise_regularity(noise, sides)) < 0.5
    assert float(noise_regularity(smooth, sides)) > 5.0


def test_psnr_is_that_of_255_over_the_error() -> None:
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)
    assert psnr(black, grey) == pytest.approx(20 * np.log10(5))
    assert psnr(grey, grey) == float("inf")
