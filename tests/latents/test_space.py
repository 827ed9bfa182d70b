from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import impasto
from impasto.engine.latents import is_mapping
from impasto.engine.picture import PictureRequest
from impasto.errors import InvalidRequest
from impasto.export.bundle import TensorSpec
from impasto.latents import Space
from tests.test_imports import HEAVY, modules_after


@pytest.fixture(scope="module")
def starry() -> Iterator[impasto.Generator]:
    with impasto.load("starry", threads=1) as generator:
        yield generator


def test_a_seeds_point_in_z_makes_the_seeds_picture(starry: impasto.Generator) -> None:
    space = Space.of_inputs(starry.engine.manifest.inputs, seed=0)
    points = [space.of_seed(seed) for seed in (5, 6)]
    made = starry.generate(noise_mode="const", **space.parameters(points))
    wanted = starry.generate(seeds=[5, 6], noise_mode="const")
    assert all(np.array_equal(a.array, b.array) for a, b in zip(made, wanted, strict=True))


def test_a_seeds_styles_make_the_seeds_picture(starry: impasto.Generator) -> None:
    engine = starry.engine
    assert is_mapping(engine)
    space = Space.ws(lambda seed: engine.ws([PictureRequest(seed=seed, psi=0.5)])[0])
    [made] = starry.generate(noise_mode="const", **space.parameters([space.of_seed(5)]))
    [wanted] = starry.generate(seeds=5, psi=0.5, noise_mode="const")
    assert np.array_equal(made.array, wanted.array)


def test_a_seeds_first_noise_makes_the_seeds_picture() -> None:
    with impasto.load("starry-ddpm", threads=1) as generator:
        space = Space.of_inputs(generator.engine.manifest.inputs, seed=9)
        made = generator.generate(steps=2, sampler="ddim", **space.parameters([space.of_seed(5)]))
        wanted = generator.generate(steps=2, sampler="ddim", seeds=5)
    assert np.array_equal(made[0].array, wanted[0].array)


def test_a_model_without_a_latent_of_seeds_is_refused() -> None:
    seed = TensorSpec(name="seed", dtype="INT64", shape=(-1, 1), meaning="")
    z = TensorSpec(name="z", dtype="FP32", shape=(-1, 4), meaning="")
    for inputs in ((seed,), (z,)):
        with pytest.raises(InvalidRequest, match="allowed is a model that takes seeds, and z or a latent"):
            Space.of_inputs(inputs, seed=0)


def test_the_latent_tools_need_numpy_alone() -> None:
    loaded = modules_after("import impasto.latents, impasto.images.film")
    assert "numpy" in loaded
    assert not loaded & (HEAVY | {"grpc", "av"})
