from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import impasto
from impasto.cli import app
from impasto.engine.cores import Cores
from impasto.engine.picture import PictureRequest, StyleMix
from impasto.engine.registry import open_engine
from impasto.engine.stylegan2 import StyleGAN2Engine
from impasto.errors import BackendUnavailable
from impasto.export.bundle import open_bundle
from impasto.images import Picture
from tests.support.bundles import write_tiny_bundle
from tests.support.engines import assert_rows_stand_alone
from tests.support.inference import serving

has_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU does not multiply bfloat16"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 64×64 pictures, so that its last four layers are bfloat16."""
    models = tmp_path_factory.mktemp("models")
    write_tiny_bundle(models, resolution=64, channel_base=1024, channel_max=64, c_dim=0, w_dim=16, z_dim=16)
    return models


@pytest.fixture(scope="module")
def bf16(models: Path) -> Iterator[StyleGAN2Engine]:
    engine = open_engine(open_bundle(models / "tiny" / "1"), precision="bf16", threads=2)
    assert isinstance(engine, StyleGAN2Engine)
    engine.warm_up()
    yield engine
    engine.close()


REQUESTS = [
    PictureRequest(seed=0),
    PictureRequest(seed=7, psi=0.7, noise_mode="random"),
    PictureRequest(seed=7, noise_mode="none", mix=StyleMix(seed=9, first=1, last=3)),
    PictureRequest(z=np.linspace(-1, 1, 16, dtype=np.float32)),
    PictureRequest(ws=np.linspace(-1, 1, 160, dtype=np.float32).reshape(10, 16)),
]


@has_bfloat16
def test_a_row_is_the_same_alone_in_every_batch_and_in_every_slot(bf16: StyleGAN2Engine) -> None:
    assert_rows_stand_alone(bf16, REQUESTS)


@has_bfloat16
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rows_stay_side_by_side_and_have_the_same_bytes_on_so_many_cores(
    models: Path, bf16: StyleGAN2Engine, threads: int, caplog: pytest.LogCaptureFixture
) -> None:
    engine = open_engine(open_bundle(models / "tiny" / "1"), precision="bf16", threads=threads)
    with caplog.at_level(logging.WARNING):
        engine.warm_up()
    assert caplog.messages == []
    found = [picture.image_float.tobytes() for picture in engine.run(REQUESTS)]
    assert found == [picture.image_float.tobytes() for picture in bf16.run(REQUESTS)]
    engine.close()


@has_bfloat16
def test_pictures_are_those_of_fp32_to_45_decibels_and_not_the_same(models: Path, bf16: StyleGAN2Engine) -> None:
    fp32 = open_engine(open_bundle(models / "tiny" / "1"), backend="onnxruntime")
    for found, expected in zip(bf16.run(REQUESTS), fp32.run(REQUESTS), strict=True):
        error = float(np.square(found.image_float - expected.image_float).mean())
        assert error > 0
        assert 10 * math.log10(2.0**2 / error) >= 45


@has_bfloat16
async def test_python_the_command_and_the_server_give_the_same_picture(models: Path, tmp_path: Path) -> None:
    with impasto.load("tiny", models=models, precision="bf16") as generator:
        (expected,) = generator.generate(seeds=5)
    options = ["--models", str(models), "--precision", "bf16", "--seed", "5", "--out", str(tmp_path / "p.npy")]
    written = CliRunner().invoke(app, ["generate", "tiny", *options, "--format", "uint8"])
    assert written.exit_code == 0, written.output
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), expected.array)

    async with (
        serving(models, "tiny", precision="bf16") as server,
        impasto.AsyncClient(server.address) as client,
    ):
        (served,) = await client.generate("tiny", seeds=5)
        assert isinstance(served, Picture)
        np.testing.assert_array_equal(served.array, expected.array)
        backends = {model.name: model.backend for model in await client.models()}
        assert backends["tiny"] == "torch-bf16"


def test_a_precision_that_is_not_there_is_refused(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(models / "tiny" / "1")
    with pytest.raises(BackendUnavailable, match="found 'fp4'; allowed is one of fp32, bf16, fp16, int8, fp8"):
        open_engine(bundle, precision="fp4")
    for precision in ("fp16", "int8", "fp8"):
        remedy = f"no such graph; remedy: impasto export tiny --precision {precision}"
        with pytest.raises(BackendUnavailable, match=remedy):
            open_engine(bundle, precision=precision)
        with pytest.raises(BackendUnavailable, match=f"precision: found '{precision}' on cpu; allowed is fp32 or bf16"):
            open_engine(bundle, precision=precision, backend="torch")
    with pytest.raises(BackendUnavailable, match=r"precision: onnxruntime has no bf16 .*; remedy: backend torch"):
        open_engine(bundle, precision="bf16", backend="onnxruntime")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(BackendUnavailable, match=r"precision: found 'bf16'.*remedy: precision fp32"):
        open_engine(bundle, precision="bf16")


def test_an_engine_leaves_the_threads_of_torch_as_they_were() -> None:
    before = torch.get_num_threads()
    cores = Cores(3)
    rows = [{"x": np.zeros(1, np.float32)}] * 5
    threads = [cores.run(lambda row: np.array(torch.get_num_threads(), np.float32), some) for some in (rows, rows[:1])]
    cores.close()
    assert threads == [[1] * 5, [3]]
    assert torch.get_num_threads() == before
