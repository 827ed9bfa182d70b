"""A diffusers folder through `impasto import`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from impasto.cli import app
from impasto.export.bundle import open_bundle
from tests.generators.tiny_pipelines import save_tiny, tiny_pipeline

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("ddpm", tmp_path_factory.mktemp("pipelines") / "ddpm")


def test_a_folder_becomes_a_bundle_of_two_bytes_a_parameter(folder: Path, tmp_path: Path) -> None:
    options = ("--name", "mine", "--models", tmp_path, "--weights", "fp16", "--licence", "MIT")
    result = run("import", folder, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'mine' / '1'}\n"
    manifest = open_bundle(tmp_path / "mine" / "1").manifest
    assert (manifest.family, manifest.licence, manifest.graph["weights"]) == ("diffusion", "MIT", "fp16")
    assert manifest.provenance == {
        "folder": "ddpm",
        "source": "DDPMPipeline",
        "sha256": {WEIGHTS: hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()},
    }
    parameters = sum(parameter.numel() for parameter in tiny_pipeline("ddpm").unet.parameters())
    nodes = 90_000  # what describes the graph weighs more than weights as few as these
    assert sum(entry.size for entry in manifest.files.values()) < 2 * parameters + nodes
    again = run("export", "mine", "--models", tmp_path)
    assert again.exit_code == 1
    assert "family: found 'diffusion'" in again.stderr.splitlines()[-1]


def test_a_broken_folder_is_one_line(folder: Path, tmp_path: Path) -> None:
    result = run("import", folder.parent, "--name", "mine", "--models", tmp_path)
    assert result.exit_code == 1
    assert "model_index.json: the file is missing" in result.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())
