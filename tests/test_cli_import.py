"""The way of a model through the command: trained, imported, exported, a picture made."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from impasto.cli import app
from impasto.images import read_metadata


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one picture of 64×64 pixels, and a file that is none."""
    folder = tmp_path_factory.mktemp("data")
    colours = np.random.RandomState(0).randint(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(colours).resize((64, 64), Image.Resampling.BICUBIC).save(folder / "colours.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def train(data: Path, out: Path, pictures: int) -> list[str]:
    options = {"--data": data, "--out": out, "--resolution": 8, "--pictures": pictures, "--batch": 4, "--threads": 1}
    return ["train", "stylegan2", *(str(item) for pair in options.items() for item in pair)]


@pytest.fixture(scope="module")
def weights(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a short training run leaves."""
    out = tmp_path_factory.mktemp("run")
    result = run(*train(data, out, 8))
    assert result.exit_code == 0, result.output
    assert "left out" in result.stderr
    assert "broken.png" in result.stderr
    assert result.stdout == f"{out / 'weights.safetensors'}\n"
    return out / "weights.safetensors"


@pytest.fixture(scope="module")
def models(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory into which the weights were imported as `mine`."""
    folder = tmp_path_factory.mktemp("models")
    result = run("import", weights, "--name", "mine", "--models", folder, "--licence", "CC0-1.0")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{folder / 'mine' / '1'}\n"
    return folder


def test_an_imported_model_makes_pictures(models: Path, tmp_path: Path) -> None:
    result = run("generate", "mine", "--models", models, "--seed", 3, "--psi", 0.7, "--out", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    metadata = read_metadata(tmp_path / "a.png")
    assert (metadata["model"], metadata["seed"]) == ("mine", 3)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (8, 8)


def test_an_imported_model_tells_where_it_came_from(models: Path, weights: Path) -> None:
    manifest = json.loads((models / "mine" / "1" / "manifest.json").read_text())
    assert manifest["licence"] == "CC0-1.0"
    assert manifest["provenance"]["file"] == weights.name
    assert manifest["provenance"]["source"] == "impasto safetensors"


def test_importing_a_name_twice_is_refused(models: Path, weights: Path) -> None:
    result = run("import", weights, "--name", "mine", "--models", models)
    assert result.exit_code == 1
    assert "there is a bundle already" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["", "../mine", "a/b", ".hidden"])
def test_a_name_that_is_no_folder_name_is_refused(name: str, weights: Path, tmp_path: Path) -> None:
    result = run("import", weights, "--name", name, "--models", tmp_path / "models" / "here")
    assert result.exit_code == 1
    assert "name" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "models").exists()


def test_export_makes_the_next_version_with_the_same_pictures(models: Path, tmp_path: Path) -> None:
    assert run("export", "mine", "--models", models).stdout == f"{models / 'mine' / '2'}\n"
    for version in ("1", "2"):
        out = tmp_path / f"{version}.npy"
        assert run("generate", "mine", "--models", models, "--model-version", version, "--out", out).exit_code == 0
    assert np.array_equal(np.load(tmp_path / "1.npy"), np.load(tmp_path / "2.npy"))


def test_training_is_saved_on_an_interrupt_and_goes_on_from_there(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "impasto.cli", *train(data, tmp_path, 10_000_000)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any("training from 0 to 10000000 pictures" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "the same command goes on from there" in told
    assert (tmp_path / "state.pt").exists()
    seen = int(re.search(r"saved at (\d+) of", told)[1])  # type: ignore[index]
    again = run(*train(data, tmp_path, seen + 1))
    assert again.exit_code == 0
    assert f"training from {seen} to {seen + 1} pictures" in again.stderr


def test_an_import_that_hides_an_embedded_model_says_so(weights: Path, tmp_path: Path) -> None:
    note = "note: from now on starry is this model, and not the one that comes with impasto\n"
    assert note in run("import", weights, "--name", "starry", "--models", tmp_path).stderr
    assert "note" not in run("import", weights, "--name", "other", "--models", tmp_path).stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--resolution": 20}, "resolution: found 20; allowed is a power of two"),
        ({"--crop": "100 200"}, "data: found no picture with both sides of 100 pixels or more"),
        ({"--device": "cuda:99"}, "device: found 'cuda:99'"),
    ],
)
def test_training_that_cannot_start_says_why(changes: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    arguments = train(data, tmp_path / "out", 8)
    for option, value in changes.items():
        arguments += [option, *str(value).split()]
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr.splitlines()[-1]
