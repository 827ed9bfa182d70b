from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import impasto
from impasto.engine.picture import PictureRequest, StyleMix
from impasto.engine.registry import open_engine
from impasto.engine.stylegan3 import StyleGAN3Engine
from impasto.errors import BackendUnavailable, InvalidRequest
from impasto.export.bundle import open_bundle
from impasto.export.lint import violations
from impasto.export.publish_stylegan3 import load_stylegan3
from impasto.generators.stylegan3 import StyleGAN3
from impasto.generators.stylegan3_transform import picture_transform
from tests.support.bundles import write_tiny_stylegan3
from tests.support.engines import assert_rows_stand_alone
from tests.test_imports import modules_after


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_stylegan3(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module", params=["onnxruntime", "torch"])
def engine(request: pytest.FixtureRequest, bundle_path: Path) -> Iterator[StyleGAN3Engine]:
    opened = open_engine(open_bundle(bundle_path), backend=request.param, threads=2)
    assert isinstance(opened, StyleGAN3Engine)
    opened.warm_up()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def generator(engine: StyleGAN3Engine, bundle_path: Path) -> StyleGAN3:
    return load_stylegan3(engine.config, bundle_path / "weights.safetensors")


REQUESTS = [
    PictureRequest(seed=0),
    PictureRequest(seed=2**32 - 1, psi=0.5, rotation=17.0),
    PictureRequest(seed=7, psi=0.7, cutoff=2, label=2, rotation=-30.0, translation=(0.25, -0.125)),
    PictureRequest(seed=7, mix=StyleMix(seed=9, first=1, last=3)),
    PictureRequest(z=np.linspace(-1, 1, 8, dtype=np.float32), c=np.array([0.2, 0.3, 0.5], np.float32)),
    PictureRequest(ws=np.arange(48, dtype=np.float32).reshape(6, 8) / 24, translation=(0.0, 0.5)),
]


def test_a_row_is_the_same_alone_in_every_bucket_and_in_every_slot(engine: StyleGAN3Engine) -> None:
    assert_rows_stand_alone(engine, REQUESTS)


def test_pictures_are_those_of_the_formulas(engine: StyleGAN3Engine, generator: StyleGAN3) -> None:
    z = torch.from_numpy(np.random.RandomState(7).randn(1, 8)).float()
    psi = torch.tensor([[0.7, 0.7, 1.0, 1.0, 1.0, 1.0]])
    transform = torch.from_numpy(picture_transform(-30.0, (0.25, -0.125)))[None]
    expected = generator(z, torch.eye(3)[2:3], psi, transform)[0]
    np.testing.assert_allclose(engine.run([REQUESTS[2]])[0].image_float, expected.numpy(), atol=1e-5)


def test_mixing_takes_the_named_layers_from_the_other_seed(engine: StyleGAN3Engine, generator: StyleGAN3) -> None:
    first, second = (
        generator.mapping(torch.from_numpy(np.random.RandomState(s).randn(1, 8)).float(), torch.eye(3)[:1])
        for s in (7, 9)
    )
    ws = torch.stack([first, second, second, second, first, first], dim=1)
    expected = generator.synthesis(ws, torch.eye(3)[None])[0]
    np.testing.assert_allclose(engine.run([REQUESTS[3]])[0].image_float, expected.numpy(), atol=1e-5)


def test_a_rotation_by_90_degrees_turns_the_picture_counter_clockwise(bundle_path: Path) -> None:
    with impasto.load(bundle_path, threads=1) as model:
        upright = model.generate(seeds=[1, 2], format="float32")
        turned = model.generate(seeds=[1, 2], rotation=90, format="float32")
    for before, after in zip(upright, turned, strict=True):
        expected = np.rot90(before.image_float, 1, (1, 2))
        assert 10 * np.log10(4.0 / np.mean((after.image_float - expected) ** 2)) > 100.0
        assert np.abs(after.image_float - before.image_float).max() > 0.1
        assert after.metadata["parameters"]["rotation"] == 90.0


def test_a_translation_moves_the_picture_right_and_down(bundle_path: Path) -> None:
    with impasto.load(bundle_path, threads=1) as model:
        (still,) = model.generate(seeds=[1], format="float32")
        (moved,) = model.generate(seeds=[1], translation=(3 / 16, 2 / 16), format="float32")
    expected, found = still.image_float[:, 3:-5, 3:-6], moved.image_float[:, 5:-3, 6:-3]
    assert 10 * np.log10(expected.var() / np.mean((found - expected) ** 2)) > 20.0


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (PictureRequest(), "seeds: found 'none'; allowed is exactly one"),
        (PictureRequest(seed=1, label=3), "label: found 3; allowed is an integer from 0 to 2"),
        (PictureRequest(seed=1, cutoff=7), "psi_cutoff: found 7; allowed is an integer from 0 to 6"),
        (PictureRequest(ws=np.zeros((5, 8), np.float32)), "ws: found '5 × 8 values'; allowed is 6 × 8 values"),
        (PictureRequest(seed=1, noise_mode="none"), "noise_mode: found 'none'; allowed is nothing; this model has no"),
        (PictureRequest(seed=1, rotation=361.0), "rotation: found 361.0; allowed is degrees from -360 to 360"),
        (PictureRequest(seed=1, rotation=float("nan")), "rotation: found nan"),
        (PictureRequest(seed=1, translation=(0.0, float("inf"))), r"translation: found \(0.0, inf\)"),
        (PictureRequest(seed=1, translation=(-11.0, 0.0)), "translation: .* two numbers of picture widths from -10 to"),
    ],
)
def test_what_the_model_cannot_make_is_refused(engine: StyleGAN3Engine, request_: PictureRequest, message: str) -> None:
    for request in REQUESTS:
        engine.check(request)
    with pytest.raises(InvalidRequest, match=message.replace("361.0", r"361\.0")):
        engine.check(request_)


def test_the_description_fills_in_defaults(engine: StyleGAN3Engine) -> None:
    assert engine.describe(REQUESTS[0])["parameters"] == {
        "psi": 1.0,
        "class": 0,
        "rotation": 0.0,
        "translation": [0.0, 0.0],
    }
    described = engine.describe(dataclasses.replace(REQUESTS[2], rotation=float(np.float32(0.1))))
    assert described["parameters"]["rotation"] == 0.1
    assert described["parameters"]["translation"] == [0.25, -0.125]


def test_graphs_have_a_free_batch_plain_operators_and_recorded_parity(bundle_path: Path) -> None:
    for name in ("mapping.onnx", "synthesis.onnx"):
        assert violations(onnx.load(bundle_path / name)) == []
    measured = open_bundle(bundle_path).manifest.parity
    assert [entry.batch for entry in measured] == [1, 3, 8]
    assert all(0.0 < entry.max_abs_error <= 1e-4 for entry in measured)


def test_what_it_does_not_run_on_is_refused_by_name(bundle_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="precision: found 'bf16'; models of the family stylegan3 run"):
        open_engine(open_bundle(bundle_path), precision="bf16", backend="torch")


def test_serving_through_onnxruntime_never_imports_torch(bundle_path: Path) -> None:
    code = f"import impasto; impasto.load({str(bundle_path)!r}).generate(seeds=[1, 2], psi=0.7, rotation=5)"
    assert not modules_after(code) & {"torch", "onnx", "triton", "onnxscript"}
