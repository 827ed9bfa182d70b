"""`impasto models` over every family: what runs it, and what size its pictures are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from impasto.cli import app
from impasto.engine.backend import BACKENDS
from impasto.engine.null import write_null_bundle
from impasto.engine.registry import open_engine
from impasto.errors import BackendUnavailable
from impasto.export.bundle import open_bundle
from impasto.generators.families import FAMILIES
from tests.support.bundles import write_tiny_bundle, write_tiny_stylegan3
from tests.support.diffusion import write_tiny_diffusion

HERE = ("onnxruntime", "torch")
"""Backends that need no GPU."""


@pytest.fixture(scope="module")
def models(
    family_models: Path, image_to_image_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A bundle of every family."""
    folder = tmp_path_factory.mktemp("all")
    for source in (family_models, image_to_image_models):
        shutil.copytree(source, folder, dirs_exist_ok=True)
    write_tiny_bundle(folder, "stylegan2")
    write_tiny_stylegan3(folder, "stylegan3")
    write_tiny_diffusion(folder).parent.rename(folder / "diffusion")
    write_null_bundle(folder)
    return {path.name: path / "1" for path in folder.iterdir()}


@pytest.fixture(scope="module")
def listed(models: dict[str, Path]) -> dict[str, dict[str, object]]:
    """The rows of the list by the models' families."""
    told = CliRunner().invoke(app, ["models", "--models", str(models["null"].parent.parent), "--json"])
    rows = {row["family"]: row for row in json.loads(told.stdout) if Path(row["path"]) in models.values()}
    assert rows.keys() == models.keys()
    return rows


@pytest.mark.parametrize("family", [*FAMILIES, "diffusion", "stylegan2", "stylegan3"])
def test_the_backends_listed_are_those_that_open_the_model(
    family: str, models: dict[str, Path], listed: dict[str, dict[str, object]]
) -> None:
    bundle = open_bundle(models[family])
    opened, refused = [], []
    for backend in BACKENDS:
        try:
            open_engine(bundle, backend=backend, threads=1).close()
            opened.append(backend)
        except BackendUnavailable as error:
            if "models" in str(error) and "run on onnxruntime" in str(error):
                refused.append(backend)
    assert listed[family]["backends"] == [backend for backend in BACKENDS if backend not in refused]
    assert opened == [backend for backend in HERE if backend not in refused]
    assert "onnxruntime" in opened


def test_a_model_that_is_its_own_engine_has_no_backend(listed: dict[str, dict[str, object]]) -> None:
    assert listed["null"]["backends"] == []


def test_the_size_is_that_of_a_models_pictures_or_any(listed: dict[str, dict[str, object]]) -> None:
    sizes = {family: row["size"] for family, row in listed.items()}
    assert sizes == {
        "null": "64×64",
        "stylegan2": "8×8",
        "stylegan3": "16×16",
        "gan": "16×16",
        "vae": "16×16",
        "vq": "16×16",
        "diffusion": "16×16",
        "residual": "any",
        "spade": "any",
    }
