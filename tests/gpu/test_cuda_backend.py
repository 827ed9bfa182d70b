"""The torch backend on a card: CUDA graphs, buckets and copies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from impasto.engine.picture import Engine, PictureRequest, StyleMix
from impasto.engine.registry import open_engine
from impasto.export.bundle import open_bundle
from impasto.images.pixels import to_uint8
from tests.support.bundles import write_tiny_bundle

WANTED = {"fp32": 90.0, "fp16": 50.0, "bf16": 35.0}
"""PSNR against float32 on the CPU, in decibels."""

REQUESTS = [
    PictureRequest(seed=0),
    PictureRequest(seed=7, psi=0.7, noise_mode="random"),
    PictureRequest(seed=7, noise_mode="none", mix=StyleMix(seed=9, first=1, last=3)),
    PictureRequest(z=np.linspace(-1, 1, 16, dtype=np.float32)),
    PictureRequest(ws=np.linspace(-1, 1, 160, dtype=np.float32).reshape(10, 16)),
]


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    return write_tiny_bundle(
        models, resolution=64, channel_base=2048, channel_max=64, c_dim=0, w_dim=16, z_dim=16, conv_clamp=256.0
    )


@pytest.fixture(scope="module", params=list(WANTED))
def engine(request: pytest.FixtureRequest, bundle_path: Path) -> Iterator[Engine]:
    opened = open_engine(open_bundle(bundle_path), backend="torch", precision=request.param, device="cuda")
    opened.warm_up()
    yield opened
    opened.close()


def test_a_row_is_the_same_alone_in_every_bucket_and_in_every_slot(engine: Engine) -> None:
    alone = [engine.run([request])[0].image_float.tobytes() for request in REQUESTS]
    assert len(set(alone)) == len(alone)
    for count in range(2, len(REQUESTS) + 1):
        for shift in range(len(REQUESTS)):
            chosen = [(shift + i) % len(REQUESTS) for i in range(count)]
            together = engine.run([REQUESTS[i] for i in chosen])
            assert [picture.image_float.tobytes() for picture in together] == [alone[i] for i in chosen]


def test_rows_run_in_batches(engine: Engine) -> None:
    batches = engine._backend.batches  # type: ignore[attr-defined]
    assert batches == engine.buckets
    assert max(batches) > 1


def test_pictures_are_those_of_the_cpu(engine: Engine, bundle_path: Path) -> None:
    expected = open_engine(open_bundle(bundle_path), backend="onnxruntime").run(REQUESTS)
    wanted = WANTED[engine.backend.partition("-")[2] or "fp32"]
    for found, exact in zip(engine.run(REQUESTS), expected, strict=True):
        error = float(np.square(found.image_float - exact.image_float).mean())
        assert 10 * math.log10(2.0**2 / max(error, 1e-30)) >= wanted


def test_bytes_are_those_of_the_floats_and_outlive_the_next_batches(engine: Engine) -> None:
    kept = engine.run(REQUESTS)
    before = [picture.array.copy() for picture in kept]
    for seed in range(100, 110):
        engine.run([PictureRequest(seed=seed)] * len(REQUESTS))
    for picture, array in zip(kept, before, strict=True):
        np.testing.assert_array_equal(picture.array, array)
        np.testing.assert_array_equal(to_uint8(picture.image_float), array)
