from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from typer.testing import CliRunner

import impasto
from impasto.cli import app


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_picture_is_projected_into_styles_that_generate_takes(tmp_path: Path) -> None:
    Image.new("RGB", (200, 300), (40, 70, 120)).save(tmp_path / "blue.png")
    options = ("--steps", 3, "--noise", "const", "--threads", 1, "--out", tmp_path / "found", "--json")
    result = run("project", "starry", tmp_path / "blue.png", *options)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["picture.png", "sheet.png", "ws.npy"]
    assert told["ws"] == str(tmp_path / "found" / "ws.npy")
    assert told["psnr"] > 10.0
    found = np.asarray(Image.open(told["picture"])).astype(int)
    with impasto.load("starry", threads=1) as generator:
        [made] = generator.generate(ws=np.load(told["ws"]), noise_mode="const")
    assert np.abs(made.array - found).max() <= 1
    with Image.open(told["sheet"]) as sheet:
        assert sheet.size == (3 * 128 + 2 * 2, 128)
        assert sheet.getpixel((64, 64)) == (40, 70, 120)


def test_what_is_no_picture_or_no_generator_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for arguments, message in (
        (("starry", tmp_path / "text.png"), "impasto: picture: found "),
        (("starry", tmp_path / "none.png"), f"impasto: {tmp_path / 'none.png'}: No such file"),
        (("starry-ddpm", tmp_path / "a.png"), "impasto: model: found 'one of the family diffusion'"),
    ):
        result = run("project", *arguments, "--out", tmp_path / "found")
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith(message)
    assert not (tmp_path / "found").exists()
