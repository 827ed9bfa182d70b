"""Every snippet of the README runs, in its order and in one folder, as its reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import impasto
from benchmarks.peers.process import free_port
from benchmarks.tables import README, with_tables
from impasto.server.config import load_config
from tests.generators.test_gan import published_dcgan, saved
from tests.generators.test_residual import Published
from tests.generators.tiny_pipelines import save_tiny
from tests.support.generators import TINY, TINY3, random_generator, random_stylegan3
from tests.support.official_pickle import official_networks, pickled
from tests.support.rosinality import torch_file

TEXT = README.read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_readme_has_the_snippets_that_this_module_runs() -> None:
    assert [language for language, _ in BLOCKS] == ["bash"] * 13 + ["toml"] + ["python"] * 6 + ["bash"]


def test_the_tables_are_those_that_the_benchmarks_wrote() -> None:
    assert TEXT.count("<!-- table:") == 9
    assert with_tables(TEXT) == TEXT


def test_the_configuration_is_one_that_the_server_takes(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(BLOCKS[13][1])
    config = load_config(tmp_path / "server.toml")
    assert config.batching.max_queue_delay_ms == 5
    assert config.tls is not None


@pytest.fixture(scope="module")
def ports() -> tuple[str, str]:
    first = free_port(2)
    second = first + 1
    return str(first), str(second)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader is: with a checkpoint and a painting of its own."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "network-snapshot.pkl").write_bytes(pickled(official_networks(random_generator(TINY))))
    (folder / "stylegan3-t-landscapes.pkl").write_bytes(pickled(official_networks(random_stylegan3(TINY3))))
    save_tiny("sd15", folder / "my-pipeline")
    (folder / "netG_epoch_24.pth").write_bytes(torch_file(saved(published_dcgan([6, 8, 4, 3]))))
    (folder / "latest_net_G.pth").write_bytes(torch_file(Published(4, 2).state_dict()))
    (folder / "paintings").mkdir()
    noise = Image.effect_noise((96, 64), 80).convert("RGB")
    noise.save(folder / "paintings" / "noise.png")
    for name in ("night", "sea"):
        (folder / "scenes" / name).mkdir(parents=True)
        noise.save(folder / "scenes" / name / "noise.png")
    noise.resize((40, 24)).save(folder / "flat.png")
    Image.fromarray(np.arange(24 * 40, dtype=np.uint8).reshape(24, 40) // 5 % 8).save(folder / "map.png")
    return folder


def surroundings(folder: Path) -> dict[str, str]:
    """The reader's environment, with models in the folder."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "XDG_DATA_HOME": str(folder / "data"),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("IMPASTO_MODELS", None)
    return environment


def run(code: list[str], folder: Path) -> None:
    subprocess.run(code, cwd=folder, env=surroundings(folder), check=True, timeout=1500)


def script(index: int, ports: tuple[str, str]) -> str:
    """A snippet on free ports, and with training cut short: what it says is run, not how long."""
    code = BLOCKS[index][1].replace("8001", ports[0]).replace("8002", ports[1])
    for written, run_here in SHORTER.items():
        code = code.replace(written, run_here)
    return code


SHORTER = {
    "runs/mine --pictures 100000": "runs/mine --pictures 64 --resolution 16 --grow-pictures 32",
    "runs/swirls --pictures 100000": "runs/swirls --pictures 16 --resolution 16",
    "runs/gan --pictures 100000": "runs/gan --pictures 16 --resolution 16",
    "runs/vae --pictures 100000": "runs/vae --pictures 16 --resolution 16",
    "runs/vq --pictures 100000": "runs/vq --pictures 16 --resolution 16",
    "runs/paint --pictures 100000": "runs/paint --pictures 8 --resolution 16",
    "runs/map --pictures 100000": "runs/map --pictures 8 --resolution 16",
    "--steps 300": "--steps 20",
    "--seconds 10": "--seconds 0.5",
}

MADE = {
    0: ["seven.png", "pictures", "sheet.png", "mixed.webp"],
    1: ["night3.png", "again.png"],
    2: ["painted.png", "between.png"],
    3: ["walk.gif", "mixing.png", "truncation.png", "found/ws.npy"],
    4: [],
    5: ["mine.png", "turned.png"],
    6: ["night.png"],
    7: ["faces.png"],
    8: ["eight.png", "data/impasto/models/starry/2/synthesis.int8.onnx"],
    9: ["runs/mine/sheet_final.png"],
    10: ["runs/swirls/sheet_final.png", "data/impasto/models/swirls/1/denoiser.onnx"],
    11: ["stroke.png", "postcard.png", "mosaic.png", "over.png", "scenery.png"],
    20: ["starry.json", "report.html"],
}


@pytest.mark.parametrize("index", MADE)
def test_the_commands_run(index: int, folder: Path, ports: tuple[str, str]) -> None:
    run(["bash", "-euc", script(index, ports)], folder)
    assert all((folder / name).exists() for name in MADE[index])
    assert not list(folder.glob("*.preview.*"))


def test_the_served_snippets_give_the_same_pictures(folder: Path, ports: tuple[str, str], triton_python: Path) -> None:
    serve, generate = script(12, ports).strip().splitlines()
    command = serve.removesuffix(" &").split()
    server = subprocess.Popen([sys.executable, "-m", "impasto.cli", *command[1:]], cwd=folder, env=surroundings(folder))
    try:
        impasto.Client(f"127.0.0.1:{ports[0]}").wait_until_ready(300.0)
        run(["bash", "-euc", generate], folder)
        for index, python in (*((index, None) for index in range(14, 19)), (19, triton_python)):
            run([str(python or sys.executable), "-c", script(index, ports)], folder)
    finally:
        server.terminate()
        server.wait()
    assert (folder / "now.png").exists()
    assert (folder / "local1.png").read_bytes() == (folder / "served1.png").read_bytes()
    assert (folder / "local2.png").read_bytes() == (folder / "served2.png").read_bytes()
    # Of the version that `impasto export` has made meanwhile, with the same float32 graph.
    assert Image.open(folder / "seven-grpc.png").tobytes() == Image.open(folder / "seven.png").tobytes()
    assert len(list((folder / "served").iterdir())) == 4
