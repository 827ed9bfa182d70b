"""The families of one latent on both backends: seeds, z, psi, classes, pictures made again and between two."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import impasto
from impasto.denoising import Denoising
from impasto.engine.latent_generator import LatentGenerator
from impasto.engine.picture import Floats, PictureRequest, StyleMix
from impasto.engine.registry import open_engine
from impasto.errors import BackendUnavailable, InvalidRequest
from impasto.export.bundle import open_bundle
from impasto.images.pixels import to_float
from tests.support.families import TINY, TINY_VAE, random_module
from tests.support.pictures import random_pixels

FIRST, SECOND = random_pixels(16, 16, seed=1), random_pixels(16, 16, seed=2)
CODES = np.arange(64).reshape(8, 8) % 13
REQUESTS = {
    "gan": [
        PictureRequest(seed=0),
        PictureRequest(seed=2**32 - 1, psi=0.5),
        PictureRequest(seed=7, label=2),
        PictureRequest(z=np.linspace(-2, 2, 8, dtype=np.float32), psi=-1.0),
        PictureRequest(seed=7, c=np.array([0.2, 0.3, 0.5], np.float32)),
    ],
    "vae": [
        PictureRequest(seed=0),
        PictureRequest(seed=0, image=FIRST),
        PictureRequest(z=np.linspace(-1, 1, 128, dtype=np.float32)),
        PictureRequest(seed=0, image=FIRST, image_to=SECOND, blend=0.25),
        PictureRequest(seed=0, image=SECOND, psi=0.5),
    ],
    "vq": [
        PictureRequest(z=np.linspace(-2, 2, 256, dtype=np.float32)),
        PictureRequest(seed=0, image=FIRST),
        PictureRequest(seed=0, image=SECOND),
        PictureRequest(codes=CODES),
        PictureRequest(seed=0, image=FIRST, image_to=SECOND),
    ],
}
Opened = Callable[[str], LatentGenerator]


@pytest.fixture(scope="module", params=["onnxruntime", "torch"])
def opened(request: pytest.FixtureRequest, family_models: Path) -> Iterator[Opened]:
    """The warm engine of each family, on one backend."""
    engines: dict[str, Any] = {
        family: open_engine(open_bundle(family_models / family / "1"), backend=request.param, threads=2)
        for family in TINY
    }
    for engine in engines.values():
        engine.warm_up()
    yield engines.__getitem__
    for engine in engines.values():
        engine.close()


def pictures(engine: LatentGenerator, *requests: PictureRequest) -> list[Floats]:
    for request in requests:
        engine.check(request)
    return [pixels.image_float for pixels in engine.run(requests)]


@pytest.mark.parametrize("family", TINY)
def test_a_row_is_the_same_alone_in_every_bucket_and_in_every_slot(family: str, opened: Opened) -> None:
    engine, requests = opened(family), REQUESTS[family]
    assert isinstance(engine, LatentGenerator)
    alone = [pictures(engine, request)[0].tobytes() for request in requests]
    assert len(set(alone)) == len(alone)
    for count in range(2, len(requests) + 1):
        for shift in range(len(requests)):
            chosen = [(shift + i) % len(requests) for i in range(count)]
            together = pictures(engine, *(requests[i] for i in chosen))
            assert [picture.tobytes() for picture in together] == [alone[i] for i in chosen]


def test_a_gan_makes_the_pictures_of_its_formulas(opened: Opened) -> None:
    generator = random_module("gan", TINY["gan"])
    for index, psi, c in ((1, 0.5, [1.0, 0.0, 0.0]), (2, 1.0, [0.0, 0.0, 1.0]), (4, 1.0, [0.2, 0.3, 0.5])):
        request = REQUESTS["gan"][index]
        z = psi * np.random.RandomState(request.seed).randn(1, 8)
        expected = generator(torch.from_numpy(z).float(), torch.tensor([c]))[0]
        assert expected.std() > 0.1
        np.testing.assert_allclose(pictures(opened("gan"), request)[0], expected, atol=1e-5)


def test_a_vae_reconstructs_a_picture_from_the_mean_of_its_latent(opened: Opened) -> None:
    vae = random_module("vae", TINY_VAE)
    mean, _ = vae.encode(torch.from_numpy(to_float(FIRST))[None])
    np.testing.assert_allclose(pictures(opened("vae"), REQUESTS["vae"][1])[0], vae.decode(mean)[0], atol=2e-5)


def test_a_vae_goes_straight_from_one_picture_to_another(opened: Opened) -> None:
    engine, vae = opened("vae"), random_module("vae", TINY_VAE)
    first, second = (vae.encode(torch.from_numpy(to_float(p))[None])[0] for p in (FIRST, SECOND))
    for blend in (0.0, 0.25, 1.0):
        (found,) = pictures(engine, PictureRequest(seed=0, image=FIRST, image_to=SECOND, blend=blend))
        np.testing.assert_allclose(found, vae.decode(first + blend * (second - first))[0], atol=2e-5)
    half, default = pictures(
        engine,
        PictureRequest(seed=0, image=FIRST, image_to=SECOND, blend=0.5),
        PictureRequest(seed=5, image=FIRST, image_to=SECOND),
    )
    assert half.tobytes() == default.tobytes()


def test_psi_0_is_the_average_picture(opened: Opened) -> None:
    vae = random_module("vae", TINY_VAE)
    average = vae.decode(vae.latent_mean.expand(1, -1, 8, 8))[0]
    for request in (PictureRequest(seed=3, psi=0.0), PictureRequest(seed=0, image=FIRST, psi=0.0)):
        np.testing.assert_allclose(pictures(opened("vae"), request)[0], average, atol=1e-5)


def test_a_vq_model_reconstructs_by_codes_and_blends_before_them(opened: Opened) -> None:
    vq = random_module("vq", TINY["vq"])
    first, second = (vq.encode(torch.from_numpy(to_float(p))[None]) for p in (FIRST, SECOND))
    for blend, latents in ((None, first), (0.5, (first + second) / 2)):
        to = None if blend is None else SECOND
        (found,) = pictures(opened("vq"), PictureRequest(seed=0, image=FIRST, image_to=to, blend=blend))
        np.testing.assert_allclose(found, vq.decode(vq.embed(vq.codes(latents)))[0], atol=2e-5)


def test_a_vq_model_decodes_codes(opened: Opened) -> None:
    vq = random_module("vq", TINY["vq"])
    expected = vq.decode(vq.embed(torch.from_numpy(CODES)[None]))[0]
    np.testing.assert_allclose(pictures(opened("vq"), PictureRequest(codes=CODES))[0], expected, atol=2e-5)


def test_both_backends_make_the_same_pictures(family_models: Path) -> None:
    for family, requests in REQUESTS.items():
        found = []
        for backend in ("onnxruntime", "torch"):
            engine = open_engine(open_bundle(family_models / family / "1"), backend=backend, threads=1)
            found.append(np.stack([pixels.image_float for pixels in engine.run(requests)]))
            engine.close()
        np.testing.assert_allclose(found[0], found[1], atol=1e-4)


WRONG_SIZE = random_pixels(16, 8)


@pytest.mark.parametrize(
    ("family", "request_", "message"),
    [
        ("gan", PictureRequest(), "seeds: found 'none'; allowed is exactly one of seeds, z$"),
        ("gan", PictureRequest(seed=1, label=3), "label: found 3; allowed is an integer from 0 to 2"),
        ("gan", PictureRequest(seed=1, image=FIRST), "image: found 'one'; allowed is nothing"),
        ("gan", PictureRequest(z=np.zeros(9, np.float32)), "z: found '9 values'; allowed is '8 values'|8 values"),
        ("gan", PictureRequest(seed=1, psi=float("nan")), "psi: found nan; allowed is a number from -10 to 10"),
        ("gan", PictureRequest(seed=1, psi=-10.5), "psi: found -10.5"),
        ("gan", PictureRequest(seed=2**32), "seeds: found 4294967296"),
        ("gan", PictureRequest(ws=np.zeros((2, 2), np.float32)), "ws: found '4 values'; allowed is nothing"),
        ("gan", PictureRequest(seed=1, noise_mode="const"), "noise_mode: found 'const'; allowed is nothing"),
        ("gan", PictureRequest(seed=1, cutoff=1), "psi_cutoff: found 1; allowed is nothing"),
        ("gan", PictureRequest(seed=1, mix=StyleMix(1, 0, 0)), r"style_mix: found StyleMix\(seed=1, first=0, last=0\)"),
        ("gan", PictureRequest(seed=1, rotation=1.0), "rotation: found 1.0; allowed is nothing"),
        ("gan", PictureRequest(seed=1, denoising=Denoising(steps=3)), "steps: found 3; allowed is nothing"),
        ("vae", PictureRequest(seed=1, label=0), "label: found 0; allowed is nothing; this model is not conditional"),
        ("vae", PictureRequest(image=FIRST, z=np.zeros(128, np.float32)), "z: found 'z and image'; allowed is exactly"),
        ("vae", PictureRequest(seed=0, image=WRONG_SIZE), "image: found '16 × 8 pixels'; allowed is 16 × 16 pixels"),
        ("vae", PictureRequest(image=FIRST, image_to=WRONG_SIZE), "image_to: found '16 × 8 pixels'"),
        ("vae", PictureRequest(seed=0, image_to=FIRST), "image_to: found 'it without an image'"),
        ("vae", PictureRequest(image=FIRST, image_to=SECOND, blend=1.5), "blend: found 1.5; allowed is 0 to 1"),
        ("vae", PictureRequest(image=FIRST, blend=0.5), "blend: found 'it without a second picture'"),
        ("vq", PictureRequest(seed=1), "seeds: found 'seeds'; allowed is exactly one of z, codes, image"),
        ("vq", PictureRequest(), "seeds: found 'none'; allowed is exactly one of z, codes, image"),
        ("vq", PictureRequest(codes=CODES + 4), "codes: found '4 to 16'; allowed is integers from 0 to 15"),
        ("vq", PictureRequest(codes=CODES - 1), "codes: found '-1 to 11'; allowed is integers from 0 to 15"),
        ("vq", PictureRequest(codes=CODES[:4]), "codes: found '4 × 8'; allowed is 8 × 8 indices"),
        ("vae", PictureRequest(codes=CODES), "codes: found 'codes'; allowed is exactly one of seeds, z, image"),
        ("vq", PictureRequest(image=FIRST, psi=0.5), "psi: found 0.5; allowed is nothing"),
    ],
)
def test_what_the_model_cannot_make_is_refused(
    family: str, request_: PictureRequest, message: str, family_models: Path
) -> None:
    engine = open_engine(open_bundle(family_models / family / "1"), threads=1)
    with pytest.raises(InvalidRequest, match=message):
        engine.check(request_)


def test_the_description_fills_in_defaults(opened: Opened) -> None:
    described = [opened("gan").describe(request)["parameters"] for request in REQUESTS["gan"][:3]]
    assert described == [{"psi": 1.0, "class": 0}, {"psi": 0.5, "class": 0}, {"psi": 1.0, "class": 2}]
    described = [opened("vae").describe(request)["parameters"] for request in REQUESTS["vae"]]
    fingerprints = [entry.pop("image", None) for entry in described]
    assert fingerprints[1] == fingerprints[3] != fingerprints[4]
    to = described[3].pop("image_to")
    assert to == fingerprints[4]
    assert described == [{"psi": 1.0}, {"psi": 1.0}, {"psi": 1.0}, {"psi": 1.0, "blend": 0.25}, {"psi": 0.5}]
    halfway = opened("vq").describe(REQUESTS["vq"][4])["parameters"]
    assert halfway == {"image": fingerprints[1], "image_to": to, "blend": 0.5}


def test_the_python_interface_samples_reconstructs_and_interpolates(family_models: Path) -> None:
    with impasto.load(family_models / "vae" / "1", threads=1) as model:
        sampled = model.generate(seeds=[1, 2], psi=0.7)
        (again,) = model.generate(image=sampled[0])
        walk = [model.generate(image=sampled[0], image_to=sampled[1], blend=blend)[0] for blend in (0.0, 0.5, 1.0)]
    assert [picture.seed for picture in sampled] == [1, 2]
    assert np.array_equal(walk[0].array, again.array)
    assert all((a.array != b.array).any() for a, b in itertools.combinations(walk, 2))


@pytest.mark.parametrize("family", TINY)
def test_what_it_does_not_run_on_is_refused_by_name(family: str, family_models: Path) -> None:
    bundle = open_bundle(family_models / family / "1")
    with pytest.raises(BackendUnavailable, match=f"precision: found 'bf16'; models of the family {family} run in fp32"):
        open_engine(bundle, precision="bf16", backend="torch")
