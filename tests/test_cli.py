from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from impasto.cli import app
from impasto.cli.generate import parse_mix, parse_seeds
from impasto.cli.source import Where
from impasto.engine.null import write_null_bundle
from impasto.images import read_metadata
from impasto.installing import install_command


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_null_bundle(tmp_path / "models", width=24, height=16)
    return tmp_path / "models"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_generate_writes_a_file_a_seed_here(models: Path, here: Path) -> None:
    result = run("generate", "null", "--models", models, "--seed", 7, "--count", 2)
    assert result.exit_code == 0
    assert result.stdout.split() == ["null-7.png", "null-8.png"]
    assert files_in(here) == ["null-7.png", "null-8.png"]
    assert read_metadata(here / "null-8.png")["seed"] == 8


def test_seeds_are_a_list_with_ranges(models: Path, here: Path) -> None:
    assert run("generate", "null", "--models", models, "--seeds", "1,5-6", "--out", "d").exit_code == 0
    assert files_in(here) == ["d/null-1.png", "d/null-5.png", "d/null-6.png"]


@pytest.mark.parametrize(
    ("format", "suffix", "kind"),
    [("png", ".png", "PNG"), ("jpeg", ".jpg", "JPEG"), ("webp", ".webp", "WEBP")],
)
def test_format_chooses_the_files(format: str, suffix: str, kind: str, models: Path, here: Path) -> None:
    assert run("generate", "null", "--models", models, "--format", format).exit_code == 0
    with Image.open(here / f"null-0{suffix}") as image:
        assert image.format == kind


@pytest.mark.parametrize(("format", "shape"), [("uint8", (16, 24, 3)), ("float32", (3, 16, 24))])
def test_tensors_are_numpy_files(format: str, shape: tuple[int, ...], models: Path, here: Path) -> None:
    assert run("generate", "null", "--models", models, "--format", format, "--out", "a/t.npy").exit_code == 0
    tensor = np.load(here / "a" / "t.npy")
    assert tensor.shape == shape
    assert tensor.dtype.name == format


def test_a_sheet_alone_writes_no_other_files_and_tells_its_seeds(models: Path, here: Path) -> None:
    result = run("generate", "null", "--models", models, "--count", 4, "--sheet", "s.png")
    assert result.exit_code == 0
    assert files_in(here) == ["s.png"]
    assert read_metadata(here / "s.png")["seeds"] == [0, 1, 2, 3]
    with Image.open(here / "s.png") as sheet:
        assert sheet.size == (2 * 24 + 1, 2 * 16 + 1)


def test_json_tells_paths_and_timing(models: Path, here: Path) -> None:
    result = run("generate", "null", "--models", models, "--count", 2, "--sheet", "s.webp", "--out", ".", "--json")
    told = json.loads(result.stdout)
    assert told["pictures"] == [{"seed": 0, "path": "null-0.png"}, {"seed": 1, "path": "null-1.png"}]
    assert told["sheet"] == "s.webp"
    assert told["timing"]["batch_sizes"] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nul"], "impasto: model: found no 'nul'; there are: dabs, null, "),
        (["null", "--seed", "-1"], "impasto: seeds: found -1; allowed is an integer from 0 to 4294967295"),
        (["null", "--backend", "tpu"], "impasto: backend: found 'tpu'; allowed is one of"),
        (["null", "--out", "/dev/null/d"], "impasto: /dev/null/d: Not a directory"),
        (["null", "--server", "127.0.0.1:1", "--timeout", "0.1"], "impasto: 127.0.0.1:1: "),
        (["null", "--server", "127.0.0.1:1", "--ca", "no.pem"], "impasto: tls.ca: found 'no.pem'"),
    ],
)
def test_an_error_that_the_user_can_mend_is_one_line(
    arguments: list[str], message: str, models: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPASTO_MODELS", str(models))
    result = run("generate", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert files_in(here) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1,x"], "--seeds: found 'x'"),
        (["--seeds", "1", "--count", "2"], "--seeds goes with neither --seed nor --count"),
        (["--mix", "1:2"], "--mix: found '1:2'"),
        (["--count", "0"], "--count"),
        (["--out", "a.gif"], "a.gif: a file name ends in"),
        (["--out", "a.png", "--count", "2"], "a.png: a file holds one picture, not 2"),
        (["--out", "a.png", "--format", "webp"], "a.png: --format webp does not go with .png"),
        (["--sheet", "a.npy"], "a.npy: a sheet's file name ends in"),
        (["--noise", "loud"], "loud"),
        (["--format", "gif"], "gif"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], message: str, models: Path, here: Path) -> None:
    result = run("generate", "null", "--models", models, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert files_in(here) == []


@pytest.mark.parametrize("command", [("generate",), ("walk",), ("sheet", "mixing"), ("sheet", "truncation")])
def test_every_command_that_makes_pictures_asks_a_server_alike(command: tuple[str, ...]) -> None:
    found: Any = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]
    options = {parameter.name: parameter for parameter in found.params}
    assert {field.name for field in dataclasses.fields(Where)} <= options.keys()
    assert (options["device"].default, options["timeout"].default, options["key"].metavar) == ("cpu", None, "PEM")
    assert options["model"].required


def test_seed_lists_are_read_in_order() -> None:
    assert parse_seeds(None, 1, "7, 1-3,2") == [7, 1, 2, 3, 2]
    assert parse_seeds(5, 3, None) == [5, 6, 7]
    assert parse_seeds(None, 2, None) == [0, 1]


@pytest.mark.parametrize("seeds", ["", "5-2", "1,,2", "-3", "1-99999999", "99999999999"])
def test_other_seed_lists_are_refused(seeds: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_seeds(None, 1, seeds)


def test_style_mixing_is_seed_and_layers() -> None:
    assert parse_mix("42:0-3") == (42, 0, 3)


def test_models_are_listed_for_people_and_for_scripts(models: Path) -> None:
    lines = run("models", "--models", models).stdout.splitlines()
    assert lines[0].split() == ["name", "version", "family", "size", "digest", "backends", "licence", "path"]
    assert lines[1].split()[:4] == ["null", "1", "null", "24×16"]
    (row,) = (row for row in json.loads(run("models", "--models", models, "--json").stdout) if row["name"] == "null")
    assert (row["width"], row["height"], row["licence"]) == (24, 16, "Apache-2.0")
    assert len(row["digest"]) == 64


def test_a_broken_bundle_is_listed_with_its_fault(models: Path) -> None:
    (models / "null" / "1" / "manifest.json").write_text("{")
    result = run("models", "--models", models)
    assert result.exit_code == 0
    assert "manifest.json: Invalid JSON" in result.stdout


def test_doctor_tells_what_is_missing_and_the_remedy() -> None:
    report = json.loads(run("doctor", "--json").stdout)
    assert report["python"] == sys.version.split()[0]
    assert report["packages"]["numpy"] == np.__version__
    backends = {backend["name"]: backend for backend in report["backends"]}
    assert backends["onnxruntime on cpu"]["available"]
    assert all(backend["available"] or backend["remedy"] for backend in backends.values())
    shown = run("doctor").stdout
    assert all(name in shown for name in backends)


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        ("null", ["--precision", "fp4"], "precision: found 'fp4'; allowed is fp32, fp16, bf16, int8, fp8"),
        ("null", ["--precision", "fp16"], "precision: found 'fp16' for family 'null'; allowed is fp32"),
        ("null", ["--plugins"], "tensorrt: found '--plugins without it'; allowed is --plugins beside --tensorrt"),
        ("null", ["--hardware", "ampere and later"], "tensorrt: found '--hardware without it'; allowed is "),
        ("null", ["--tensorrt"], f"backend tensorrt: No module named 'tensorrt'; remedy: {install_command('gpu')}"),
    ],
)
def test_export_says_what_it_cannot_make_and_writes_nothing(
    model: str, options: list[str], reason: str, models: Path
) -> None:
    result = run("export", model, "--models", models, *options)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"impasto: {reason}")
    assert [path.name for path in (models / model).iterdir()] == ["1"]


def test_import_of_what_is_no_checkpoint_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"no checkpoint")
    result = run("import", tmp_path / "x.pkl", "--name", "x", "--models", tmp_path / "models")
    assert result.exit_code == 1
    assert "impasto: " in result.stderr.splitlines()[-1]
    assert not (tmp_path / "models").exists()


def test_the_command_shows_its_help_and_version_as_a_program() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "impasto.cli", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for command in ("generate", "serve", "import", "export", "models", "train", "doctor"):
        assert command in shown
    version = subprocess.run([sys.executable, "-m", "impasto.cli", "--version"], capture_output=True, text=True)
    assert version.stdout.startswith("impasto ")
