"""A DCGAN of pytorch/examples through the command: imported, listed, a picture made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from typer.testing import CliRunner

from impasto.cli import app
from impasto.export.bundle import open_bundle
from impasto.images import read_metadata
from tests.generators.test_gan import published_dcgan, saved
from tests.support.rosinality import torch_file


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_state_dict_becomes_a_bundle_that_makes_its_pictures(tmp_path: Path) -> None:
    network = published_dcgan([6, 8, 1])
    (tmp_path / "netG_epoch_9.pth").write_bytes(torch_file(saved(network)))
    models = tmp_path / "models"
    imported = run("import", tmp_path / "netG_epoch_9.pth", "--name", "digits", "--models", models)
    assert imported.exit_code == 0, imported.output
    manifest = open_bundle(models / "digits" / "1").manifest
    assert (manifest.family, manifest.provenance["source"]) == ("gan", "pytorch-examples DCGAN")

    (row,) = (row for row in json.loads(run("models", "--models", models, "--json").stdout) if row["name"] == "digits")
    assert (row["family"], row["size"], row["width"]) == ("gan", "8×8", 8)

    made = run("generate", "digits", "--seed", 5, "--psi", 0.7, "--out", tmp_path / "5.png", "--models", models)
    assert made.exit_code == 0, made.output
    z = 0.7 * torch.from_numpy(np.random.RandomState(5).randn(1, 6, 1, 1)).float()
    expected = (127.5 * network(z)[0, 0] + 128).clamp(0, 255)
    pixels = np.asarray(Image.open(tmp_path / "5.png"), np.float32)
    assert expected.std() > 10
    assert np.abs(pixels - expected.numpy()[:, :, None]).max() <= 1.01
    assert read_metadata(tmp_path / "5.png")["parameters"] == {"psi": 0.7}
