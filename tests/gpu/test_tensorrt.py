"""TensorRT for real: plans of every precision, with our plugins and without, against the CPU and the torch backend.

    TRITON_INTERPRET=0 python -m pytest tests/gpu/test_tensorrt.py -s

wants a GPU and `pip install 'impasto[gpu]'`, nothing else; the times are printed.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from impasto.engine.cuda import DTYPES
from impasto.engine.picture import Engine, PictureRequest
from impasto.engine.registry import open_engine
from impasto.engine.swap import SwappingEngine
from impasto.errors import BackendUnavailable, ImpastoError
from impasto.export import plugin_graph
from impasto.export.bundle import Bundle, open_bundle
from impasto.export.plan_store import BuildOptions, store_of
from impasto.export.plans import Builder, build_plans, keys_of, load_plans, open_builder
from impasto.export.publish import publish_stylegan2
from impasto.export.publish_precision import add_precision
from tests.support.bundles import write_tiny_bundle, write_tiny_stylegan3
from tests.support.families import write_tiny_family
from tests.support.generators import TINY, random_generator

WANTED = {"fp32": 80.0, "fp16": 45.0, "bf16": 35.0, "int8": 30.0, "fp8": 30.0}
"""PSNR against float32 on the CPU, in decibels."""
REQUESTS = [
    PictureRequest(seed=0),
    PictureRequest(seed=7, psi=0.7, noise_mode="random"),
    PictureRequest(seed=7, noise_mode="none"),
]
WAYS = [(way, plugins) for way in WANTED for plugins in (False, True) if not plugins or way in plugin_graph.PRECISIONS]
FP8_CAPABILITY = (8, 9)
"""The first with products of E4M3."""
ROUNDS = 20


@pytest.fixture(scope="module")
def builder() -> Builder:
    try:
        return open_builder("cuda")
    except BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """The model in a precision; skips where there is no graph of it."""
    models = tmp_path_factory.mktemp("models")
    plain = open_bundle(
        write_tiny_bundle(
            models, resolution=256, channel_base=8192, channel_max=128, c_dim=0, w_dim=64, z_dim=64, conv_clamp=256.0
        )
    )
    made = {"fp32": plain}

    def bundle(precision: str) -> Bundle:
        if precision not in made:
            try:
                made[precision] = open_bundle(add_precision(plain, models, precision))
            except (ImpastoError, ImportError) as error:
                pytest.skip(f"no {precision} graph here: {error}")
        return made[precision]

    return bundle


@pytest.fixture(scope="module")
def expected(bundles: Callable[[str], Bundle]) -> list[np.ndarray]:
    """The pictures in float32 on the CPU."""
    engine = open_engine(bundles("fp32"), backend="onnxruntime")
    pictures = [picture.image_float for picture in engine.run(REQUESTS)]
    engine.close()
    return pictures


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[0]}{'-plugins' if way[1] else ''}")
def planned(
    request: pytest.FixtureRequest, builder: Builder, bundles: Callable[[str], Bundle]
) -> Iterator[tuple[str, bool, Bundle, Engine]]:
    """Precision, whether with plugins, and the model on plans built so."""
    precision, plugins = request.param
    if precision == "fp8" and (found := torch.cuda.get_device_capability()) < FP8_CAPABILITY:
        pytest.skip(f"compute capability: found {found}; fp8 takes {FP8_CAPABILITY}")
    bundle = bundles(precision)
    build_plans(bundle, precision, builder, BuildOptions(plugins=plugins), report=print)
    engine = open_engine(bundle, backend="tensorrt", precision=precision, device="cuda")
    assert not isinstance(engine, SwappingEngine)
    engine.warm_up()
    yield precision, plugins, bundle, engine
    engine.close()


def psnr(found: np.ndarray, exact: np.ndarray) -> float:
    return 10 * math.log10(4.0 / max(float(np.square(found - exact).mean()), 1e-30))


def test_pictures_are_those_of_the_cpu(planned: tuple[str, bool, Bundle, Engine], expected: list[np.ndarray]) -> None:
    precision, _, _, engine = planned
    found = [psnr(picture.image_float, exact) for picture, exact in zip(engine.run(REQUESTS), expected, strict=True)]
    assert min(found) >= WANTED[precision], found


def test_a_row_is_the_same_alone_and_in_every_bucket(planned: tuple[str, bool, Bundle, Engine]) -> None:
    engine = planned[3]
    alone = [engine.run([request])[0].image_float.tobytes() for request in REQUESTS]
    assert len(set(alone)) == len(alone)
    for count in range(2, engine.buckets[-1] + 1):
        chosen = [index % len(REQUESTS) for index in range(count)]
        together = engine.run([REQUESTS[index] for index in chosen])
        assert [picture.image_float.tobytes() for picture in together] == [alone[index] for index in chosen]


def test_the_inspector_tells_of_every_plan(planned: tuple[str, bool, Bundle, Engine], builder: Builder) -> None:
    precision, plugins, bundle, _ = planned
    options = BuildOptions(plugins=plugins)
    told = {
        graph: store_of(bundle).inspector(key) or ""
        for graph, key in keys_of(bundle, precision, options, builder.target).items()
    }
    assert all("Layers" in each for each in told.values())
    assert ("modulated_conv" in told["synthesis"]) == plugins


def test_its_time_beside_the_torch_backends(planned: tuple[str, bool, Bundle, Engine]) -> None:
    precision, plugins, bundle, engine = planned
    way = precision if precision in DTYPES else "fp16"
    torch_engine = open_engine(bundle, backend="torch", precision=way, device="cuda")
    torch_engine.warm_up()
    for rows in (1, engine.buckets[-1]):
        times = {name: milliseconds(each, rows) for name, each in (("tensorrt", engine), ("torch", torch_engine))}
        kind = f"{precision}{' with plugins' if plugins else ''}"
        print(
            f"{torch.cuda.get_device_name()}: {kind}, {rows} pictures: tensorrt {times['tensorrt']:.2f} ms, "
            f"torch in {way} {times['torch']:.2f} ms"
        )
        assert min(times.values()) > 0.0
    torch_engine.close()


def milliseconds(engine: Engine, rows: int) -> float:
    """Median time of a batch."""
    requests = [PictureRequest(seed=seed) for seed in range(rows)]
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        engine.run(requests)
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


def test_stylegan3_with_its_plugin_makes_the_pictures_of_the_cpu(builder: Builder, tmp_path: Path) -> None:
    bundle = open_bundle(write_tiny_stylegan3(tmp_path, c_dim=0, radial_filters=False, conv_kernel=3))
    exact = [
        picture.image_float for picture in open_engine(bundle, backend="onnxruntime").run([PictureRequest(seed=1)])
    ]
    build_plans(bundle, "fp32", builder, BuildOptions(plugins=True))
    found = open_engine(bundle, backend="tensorrt", device="cuda").run([PictureRequest(seed=1)])
    assert psnr(found[0].image_float, exact[0]) >= WANTED["fp32"]


@pytest.mark.parametrize("family", ["gan", "vae", "vq"])
def test_other_families_in_fp16_make_the_pictures_of_the_cpu(family: str, builder: Builder, tmp_path: Path) -> None:
    plain = open_bundle(write_tiny_family(tmp_path, family))
    codes = np.random.default_rng(0).integers(0, 16, (8, 8))
    request = PictureRequest(codes=codes) if family == "vq" else PictureRequest(seed=1)
    (exact,) = open_engine(plain, backend="onnxruntime").run([request])
    bundle = open_bundle(add_precision(plain, tmp_path, "fp16"))
    build_plans(bundle, "fp16", builder)
    (found,) = open_engine(bundle, backend="tensorrt", precision="fp16", device="cuda").run([request])
    assert psnr(found.image_float, exact.image_float) >= WANTED["fp16"]


def test_new_weights_are_refitted_into_a_plan(builder: Builder, tmp_path: Path) -> None:
    options = BuildOptions(refit=True)
    pictures = []
    for version in ("1", "2"):
        weights = random_generator(TINY, seed=int(version)).state_dict()
        bundle = open_bundle(publish_stylegan2(TINY, weights, "refitted", tmp_path, version=version))
        stages: list[str] = []
        build_plans(bundle, "fp32", builder, options, stages.append)
        assert bool(stages) == (version == "1"), "the second version takes the first one's plans"
        exact = open_engine(bundle, backend="onnxruntime").run([PictureRequest(seed=1)])
        found = open_engine(bundle, backend="tensorrt", device="cuda").run([PictureRequest(seed=1)])
        assert psnr(found[0].image_float, exact[0].image_float) >= WANTED["fp32"]
        pictures.append(found[0].image_float)
    assert psnr(*pictures) < 40.0


def test_a_model_without_plans_serves_while_they_are_built_and_then_runs_on_them(
    builder: Builder, tmp_path: Path
) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path, c_dim=0))
    engine = open_engine(bundle, backend="tensorrt", device="cuda")
    assert isinstance(engine, SwappingEngine)
    assert engine.backend != "tensorrt"
    engine.warm_up()
    made = 0
    while not engine.wait(0.0):
        made += len(engine.run(REQUESTS[:1]))
    assert made
    assert engine.backend == "tensorrt"
    assert len(engine.run(REQUESTS)) == len(REQUESTS)
    engine.close()


def test_a_plan_of_another_driver_is_not_loaded(builder: Builder, tmp_path: Path) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path, c_dim=0))
    build_plans(bundle, "fp32", builder)
    assert load_plans(bundle, "fp32", builder.target) is not None
    assert load_plans(bundle, "fp32", dataclasses.replace(builder.target, driver="1.0")) is None
