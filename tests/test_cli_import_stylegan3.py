"""An official StyleGAN3 pickle through the command: imported, a picture made, turned and moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from impasto.cli import app
from impasto.export.bundle import open_bundle
from impasto.images import read_metadata
from tests.support.generators import TINY3, random_stylegan3
from tests.support.official_pickle import official_networks, pickled


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_pickle_becomes_a_bundle_whose_pictures_turn_and_move(tmp_path: Path) -> None:
    (tmp_path / "official.pkl").write_bytes(pickled(official_networks(random_stylegan3(TINY3))))
    imported = run("import", tmp_path / "official.pkl", "--name", "three", "--models", tmp_path / "models")
    assert imported.exit_code == 0, imported.output
    manifest = open_bundle(tmp_path / "models" / "three" / "1").manifest
    assert manifest.family == "stylegan3"
    assert manifest.provenance["source"] == "stylegan3 pickle"
    assert [entry.batch for entry in manifest.parity] == [1, 3, 8]
    assert all(entry.max_abs_error <= 1e-4 for entry in manifest.parity)

    pixels = []
    for options in ((), ("--rotate", 20), ("--rotate", 20, "--translate", 0.25, -0.5)):
        file = tmp_path / f"{len(options)}.png"
        made = run("generate", "three", "--seed", 5, *options, "--out", file, "--models", tmp_path / "models")
        assert made.exit_code == 0, made.output
        pixels.append(np.asarray(Image.open(file)))
    assert pixels[0].shape == (16, 16, 3)
    assert all((pixels[a] != pixels[b]).any() for a, b in ((0, 1), (1, 2), (0, 2)))
    parameters = read_metadata(tmp_path / "5.png")["parameters"]
    assert (parameters["rotation"], parameters["translation"]) == (20.0, [0.25, -0.5])
