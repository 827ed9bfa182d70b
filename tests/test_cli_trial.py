"""What `impasto import` says to try first makes a picture when it is typed as it stands, for every family."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from impasto.cli import app
from impasto.generators.families import FAMILIES
from impasto.generators.family import save_weights
from tests.generators.tiny_pipelines import save_tiny
from tests.support import families, image_to_image
from tests.support.generators import TINY, TINY3_R, random_generator, random_stylegan3

SIDE = 32
"""Of the picture for a model that takes any."""
PIPELINES = ("ddpm", "sd15", "inpaint")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def checkpoint(kind: str, folder: Path) -> Path:
    """A tiny model of the family, or of the pipeline, as `impasto import` takes it."""
    if kind in PIPELINES:
        return save_tiny(kind, folder / "pipeline")
    if kind == "stylegan2":
        config, module = TINY, random_generator(TINY)
    elif kind == "stylegan3":
        config, module = TINY3_R, random_stylegan3(TINY3_R)
    elif kind in families.TINY:
        config = families.TINY[kind]
        module = families.random_module(kind, config)
    else:
        config = image_to_image.TINY[kind]
        module = image_to_image.random_model(kind, config)
    save_weights(folder / "weights.safetensors", kind, config, module.state_dict())
    return folder / "weights.safetensors"


def brought(file: str, described: str) -> None:
    """Make the file that the command names, in the size that it is described with: black, a class of any palette."""
    found = re.search(r"(\d+)×(\d+) pixels", described)
    width, height = (int(found[1]), int(found[2])) if found else (SIDE, SIDE)
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("stylegan2", ()),
        ("stylegan3", ()),
        ("gan", ()),
        ("vae", ()),
        ("vq", ("--image",)),
        ("residual", ("--image",)),
        ("spade", ("--image",)),
        ("ddpm", ()),
        ("sd15", ("--prompt",)),
        ("inpaint", ("--image", "--mask", "--prompt")),
    ],
)
def test_the_command_to_try_makes_a_picture(
    kind: str, options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    imported = run("import", checkpoint(kind, tmp_path), "--name", "mine", "--models", "my models")
    assert imported.exit_code == 0, imported.output
    said = imported.stderr.splitlines()
    (at,) = (place for place, line in enumerate(said) if line.startswith("try it: "))
    command = shlex.split(said[at].removeprefix("try it: "))
    files = [line.split(": ", 1) for line in said[at + 1 :]]
    assert [word for word in command if word.startswith("--")] == [*options, "--models"]
    assert [file for file, _ in files] == [word for word in command if word.endswith(".png")]
    for file, described in files:
        brought(file, files[0][1] if "same size" in described else described)
    assert command[:2] == ["impasto", "generate"]
    made = run(*command[1:])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "mine-0.png").exists()


def test_every_family_is_tried() -> None:
    (mark,) = test_the_command_to_try_makes_a_picture.pytestmark  # type: ignore[attr-defined]
    assert {kind for kind, _ in mark.args[1]} == {*FAMILIES, "stylegan2", "stylegan3", *PIPELINES}


def test_an_older_version_is_asked_for_by_its_number(tmp_path: Path) -> None:
    file = checkpoint("gan", tmp_path)
    options = ("--name", "mine", "--models", tmp_path / "models")
    newer, older = (run("import", file, *options, "--version", version) for version in (7, 3))
    assert "--model-version" not in newer.stderr
    assert "try it: impasto generate mine --model-version 3 --models" in older.stderr
