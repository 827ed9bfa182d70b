from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from impasto.engine.picture import PictureRequest, Pixels, StyleMix
from impasto.engine.registry import open_engine
from impasto.engine.stylegan2 import StyleGAN2Engine
from impasto.errors import BackendUnavailable, BundleError, InvalidRequest
from impasto.export.bundle import open_bundle
from impasto.export.publish import load_generator
from impasto.generators.stylegan2 import StyleGAN2
from impasto.kernels import philox
from tests.support.bundles import write_tiny_bundle
from tests.support.engines import assert_rows_stand_alone
from tests.test_imports import modules_after


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module", params=["onnxruntime", "torch"])
def engine(request: pytest.FixtureRequest, bundle_path: Path) -> Iterator[StyleGAN2Engine]:
    opened = open_engine(open_bundle(bundle_path), backend=request.param, threads=2)
    assert isinstance(opened, StyleGAN2Engine)
    opened.warm_up()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def generator(bundle_path: Path) -> StyleGAN2:
    config = open_engine(open_bundle(bundle_path)).config  # type: ignore[attr-defined]
    return load_generator(config, bundle_path / "weights.safetensors")


REQUESTS = [
    PictureRequest(seed=0),
    PictureRequest(seed=2**32 - 1, psi=0.5),
    PictureRequest(seed=7, psi=0.7, cutoff=2, label=2, noise_mode="random"),
    PictureRequest(seed=7, noise_mode="none", mix=StyleMix(seed=9, first=1, last=3)),
    PictureRequest(z=np.linspace(-1, 1, 4, dtype=np.float32), c=np.array([0.2, 0.3, 0.5], np.float32)),
    PictureRequest(ws=np.arange(16, dtype=np.float32).reshape(4, 4) / 8),
    PictureRequest(ws=np.ones((4, 4), np.float32), mix=StyleMix(seed=1, first=0, last=0), noise_mode="random"),
    PictureRequest(seed=1234, label=1),
]


def test_a_row_is_the_same_alone_in_every_bucket_and_in_every_slot(engine: StyleGAN2Engine) -> None:
    assert_rows_stand_alone(engine, REQUESTS)


def test_pictures_are_those_of_the_formulas(engine: StyleGAN2Engine, generator: StyleGAN2) -> None:
    z = torch.from_numpy(np.random.RandomState(7).randn(1, 4)).float()
    psi = torch.tensor([[0.7, 0.7, 1.0, 1.0]])
    noise = torch.from_numpy(philox.normal(7, generator.config.noise_size))[None]
    expected = generator(z, torch.eye(3)[2:3], psi, noise)[0]
    found = engine.run([REQUESTS[2]])[0].image_float
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_mixing_takes_the_named_layers_from_the_other_seed(engine: StyleGAN2Engine, generator: StyleGAN2) -> None:
    w = [
        generator.mapping(torch.from_numpy(np.random.RandomState(s).randn(1, 4)).float(), torch.eye(3)[:1])
        for s in (7, 9)
    ]
    ws = torch.stack([w[0], w[1], w[1], w[1]], dim=1)
    expected = generator.synthesis(ws, torch.zeros(1, generator.config.noise_size))[0]
    np.testing.assert_allclose(engine.run([REQUESTS[3]])[0].image_float, expected.numpy(), atol=1e-5)


def test_psi_zero_is_the_average_picture_for_every_seed(engine: StyleGAN2Engine) -> None:
    pictures = engine.run([PictureRequest(seed=seed, psi=0.0) for seed in range(3)])
    assert len({picture.array.tobytes() for picture in pictures}) == 1


def test_noise_modes_give_three_pictures(engine: StyleGAN2Engine) -> None:
    modes: list[Any] = ["const", "random", "none"]
    pictures = engine.run([PictureRequest(seed=1, noise_mode=mode) for mode in modes])
    assert len({picture.array.tobytes() for picture in pictures}) == 3


def test_the_picture_is_clamped_and_rounded_as_stated() -> None:
    chw = np.array([-2.0, -1.0, 0.0, 0.0039, 1.0, 7.0, np.nan, np.inf, -np.inf], np.float32).reshape(1, 3, 3)
    pixels = Pixels(chw=np.repeat(chw, 3, axis=0))
    assert pixels.array[..., 0].ravel().tolist() == [0, 0, 128, 128, 255, 255, 0, 255, 0]
    assert pixels.array.dtype == np.uint8
    assert pixels.array.flags.c_contiguous


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (PictureRequest(), "seeds: found 'none'; allowed is exactly one"),
        (PictureRequest(seed=1, z=np.zeros(4, np.float32)), "seeds: found 'seed, z'"),
        (PictureRequest(seed=-1), "seeds: found -1; allowed is an integer from 0 to 4294967295"),
        (PictureRequest(seed=2**32), "seeds: found 4294967296"),
        (PictureRequest(z=np.zeros(5, np.float32)), "z: found '5 values'; allowed is 4 values"),
        (PictureRequest(z=np.array([0, 0, np.nan, 0], np.float32)), "z: found 'NaN or infinity'"),
        (PictureRequest(ws=np.zeros((3, 4), np.float32)), "ws: found '3 × 4 values'; allowed is 4 × 4 values"),
        (PictureRequest(ws=np.zeros((4, 4), np.float32), psi=0.5), "psi: found 0.5; allowed is nothing beside ws"),
        (PictureRequest(seed=1, psi=float("nan")), "psi: found nan; allowed is a number from -10 to 10"),
        (PictureRequest(seed=1, psi=float("inf")), "psi: found inf"),
        (PictureRequest(seed=1, psi=-11.0), "psi: found -11.0"),
        (PictureRequest(seed=1, cutoff=5), "psi_cutoff: found 5; allowed is an integer from 0 to 4"),
        (PictureRequest(seed=1, noise_mode="loud"), "noise_mode: found 'loud'; allowed is one of const, random, none"),  # type: ignore[arg-type]
        (PictureRequest(seed=1, label=3), "label: found 3; allowed is an integer from 0 to 2"),
        (PictureRequest(seed=1, label=0, c=np.zeros(3, np.float32)), "label: found 'label and c'"),
        (PictureRequest(seed=1, c=np.zeros(2, np.float32)), "class_vector: found '2 values'; allowed is 3 values"),
        (PictureRequest(seed=1, mix=StyleMix(-1, 0, 1)), "style_mix.seed: found -1"),
        (PictureRequest(seed=1, mix=StyleMix(1, 2, 1)), "style_mix.first_layer, last_layer: found '2 to 1'"),
        (PictureRequest(seed=1, mix=StyleMix(1, 0, 4)), "from 0 to 3"),
    ],
)
def test_what_the_model_cannot_make_is_refused(engine: StyleGAN2Engine, request_: PictureRequest, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message.replace("(", r"\(")):
        engine.check(request_)


def test_everything_that_runs_passes_the_check(engine: StyleGAN2Engine) -> None:
    for request in REQUESTS:
        engine.check(request)


def test_the_description_fills_in_defaults(engine: StyleGAN2Engine) -> None:
    described = engine.describe(REQUESTS[3])
    assert described["seed"] == 7
    assert described["digest"] == engine.manifest.digest
    assert described["parameters"] == {
        "noise_mode": "none",
        "psi": 1.0,
        "class": 0,
        "style_mix": {"seed": 9, "first_layer": 1, "last_layer": 3},
    }


def test_rows_run_one_at_a_time_where_the_batch_changes_a_byte(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor on which batches differ: the warm-up notices, and the guarantee holds without them."""
    engine = open_engine(open_bundle(bundle_path), threads=2)
    assert isinstance(engine, StyleGAN2Engine)
    backend: Any = engine._backend
    counter = itertools.count()
    single = backend._single["synthesis"]

    class Drifting:
        def run(self, outputs: None, feeds: dict[str, Any]) -> list[np.ndarray]:
            return [single.run(outputs, feeds)[0] + np.float32(1e-7 * (1 + next(counter)))]

    backend._single["synthesis"] = Drifting()
    engine.warm_up()
    alone = [engine.run([request])[0].image_float.tobytes() for request in REQUESTS]
    assert [picture.image_float.tobytes() for picture in engine.run(REQUESTS)] == alone


def test_a_device_that_is_not_there_is_refused_with_the_remedy(bundle_path: Path) -> None:
    bundle = open_bundle(bundle_path)
    if not torch.cuda.is_available():
        for backend in ("onnxruntime", "torch"):
            with pytest.raises(BackendUnavailable, match=r"device: found 'cuda'.*remedy"):
                open_engine(bundle, backend=backend, device="cuda")
    for backend in ("onnxruntime", "torch"):
        with pytest.raises(BackendUnavailable, match="device: found 'tpu'; allowed is cpu, cuda or cuda:N"):
            open_engine(bundle, backend=backend, device="tpu")
    with pytest.raises(BackendUnavailable, match="backend: found 'openvino'; allowed is one of onnxruntime, "):
        open_engine(bundle, backend="openvino")


def test_a_graph_that_onnxruntime_cannot_read_is_named(bundle_path: Path, tmp_path: Path) -> None:
    bundle = open_bundle(bundle_path)
    broken = dataclasses.replace(bundle, path=tmp_path)
    (tmp_path / "weights.safetensors").write_bytes((bundle_path / "weights.safetensors").read_bytes())
    (tmp_path / "mapping.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"mapping.onnx: onnxruntime cannot load it"):
        open_engine(broken)


def test_serving_through_onnxruntime_never_imports_torch(bundle_path: Path) -> None:
    code = f"import impasto; impasto.load({str(bundle_path)!r}).generate(seeds=[1, 2], psi=0.7)"
    assert not modules_after(code) & {"torch", "onnx", "triton", "onnxscript"}
