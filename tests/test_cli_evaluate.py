from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from impasto.cli import app
from impasto.installing import install_command
from tests.evaluation.folders import write_textures


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tuple(write_textures(tmp_path / name, range(2), 6.0) for name in ("a", "b"))  # type: ignore[return-value]


def test_two_folders_are_measured_for_people_and_for_scripts(folders: tuple[Path, Path]) -> None:
    result = run("evaluate", *folders)
    assert result.exit_code == 0, result.stderr
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["metric", "value"],
        ["psnr", "inf"],
        ["ssim", "1.00000"],
        ["swd", "0.00000"],
    ]
    assert "2 and 2 pictures, 2 pairs" in result.stderr
    assert "without fid, kid, is, for lack of the weights of Inception v3 (--inception FILE): " in result.stderr
    told = json.loads(run("evaluate", *folders, "--metrics", "psnr,swd", "--json").stdout)
    assert told["values"] == {"psnr": None, "swd": 0.0}
    assert told["swd_levels"] == {"48": 0.0, "24": 0.0}
    assert (told["pictures"], told["pairs"], told["lacking"]) == ([2, 2], 2, {})


def test_a_folder_is_measured_beside_a_model_and_broken_files_are_named(folders: tuple[Path, Path]) -> None:
    (folders[0] / "broken.png").write_bytes(b"\x89PNG")
    result = run("evaluate", folders[0], "starry", "--seeds", "1-3", "--threads", 1, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["pictures"] == [2, 3]
    assert list(told["values"]) == ["swd"]
    assert told["values"]["swd"] > 0.0
    assert "broken.png" in result.stderr


def test_what_cannot_be_measured_is_one_line(folders: tuple[Path, Path]) -> None:
    (folders[0] / "no.pth").write_text("no weights")
    for arguments, message in (
        ((folders[0], "nowhere"), "impasto: model: found no 'nowhere'; there are: "),
        ((*folders, "--metrics", "fid"), "impasto: metrics: found 'fid'; allowed is what can be had here: fid lacks"),
        ((*folders, "--metrics", "sharpness"), "impasto: metrics: found 'sharpness'; allowed is of psnr"),
        ((*folders, "--inception", folders[0] / "no.pth"), "impasto: inception: "),
        ((*folders, "--inception", folders[0] / "none.pth"), f"impasto: {folders[0] / 'none.pth'}: No such file"),
    ):
        result = run("evaluate", *arguments)
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith(message)


def test_without_its_library_the_extra_is_named(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    result = run("evaluate", *folders)
    assert result.exit_code == 1
    assert result.stderr == f"impasto: torchmetrics is not installed; run: {install_command('evaluate')}\n"
