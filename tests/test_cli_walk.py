from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import impasto
from impasto.cli import app
from impasto.images import read_metadata
from impasto.installing import install_command
from tests.client.conftest import running

STARRY = ("starry", "--threads", 1)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def frames_in(folder: Path) -> list[np.ndarray]:  # type: ignore[type-arg]
    return [np.asarray(Image.open(file)) for file in sorted(folder.glob("frame-*.png"))]


def test_a_walk_goes_from_one_seeds_picture_to_the_next(tmp_path: Path) -> None:
    options = ("--seeds", "3,4", "--frames", 3, "--noise", "const")
    assert run("walk", *STARRY, *options, "--out", tmp_path / "a").exit_code == 0
    frames = frames_in(tmp_path / "a")
    with impasto.load("starry", threads=1) as generator:
        wanted = generator.generate(seeds=[3, 4], noise_mode="const")
    assert len(frames) == 3
    for frame, picture in zip(frames[::2], wanted, strict=True):
        assert np.array_equal(frame, picture.array)
    assert not np.array_equal(frames[1], frames[0])
    walked = read_metadata(tmp_path / "a" / "frame-00001.png")["walk"]
    assert walked == {"seeds": [3, 4], "frame": 1, "frames": 3}


@pytest.mark.parametrize("space", ["z", "w"])
def test_the_same_command_makes_the_same_frames(space: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        options = ("--seeds", "1-2", "--frames", 3, "--loop", "--psi", 0.7, "--space", space)
        assert run("walk", *STARRY, *options, "--out", tmp_path / name).exit_code == 0
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("a", "b"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert len(first) == 3


def test_a_walk_through_styles_that_were_found_needs_no_seeds(tmp_path: Path) -> None:
    ws = np.random.RandomState(0).randn(2, 12, 128).astype(np.float32)
    for index, each in enumerate(ws):
        np.save(tmp_path / f"{index}.npy", each)
    files = ("--ws", tmp_path / "0.npy", "--ws", tmp_path / "1.npy")
    assert run("walk", *STARRY, *files, "--frames", 3, "--out", tmp_path / "a").exit_code == 0
    with impasto.load("starry", threads=1) as generator:
        wanted = generator.generate(ws=[ws[0], 0.5 * (ws[0] + ws[1]), ws[1]])
    for frame, picture in zip(frames_in(tmp_path / "a"), wanted, strict=True):
        assert np.abs(frame.astype(int) - picture.array).max() <= 1


def test_a_random_walk_is_a_film_and_tells_of_itself(tmp_path: Path) -> None:
    options = ("--random", 5, "--frames", 8, "--fps", 4, "--out", tmp_path / "a.gif", "--json")
    told = json.loads(run("walk", *STARRY, *options).stdout)
    assert (told["path"], told["frames"], len(told["seeds"])) == (str(tmp_path / "a.gif"), 8, 2)
    with Image.open(tmp_path / "a.gif") as film:
        assert (film.n_frames, film.size) == (8, (128, 128))


def test_a_diffusion_model_walks_from_noise_to_noise(tmp_path: Path) -> None:
    options = ("--seeds", "1,2", "--frames", 2, "--steps", 1, "--sampler", "ddim", "--threads", 1)
    assert run("walk", "starry-ddpm", *options, "--out", tmp_path / "a").exit_code == 0
    with impasto.load("starry-ddpm", threads=1) as generator:
        wanted = generator.generate(seeds=[1, 2], steps=1, sampler="ddim")
    # What is drawn later is the first seed's in all frames; ddim draws nothing.
    for frame, picture in zip(frames_in(tmp_path / "a"), wanted, strict=True):
        assert np.array_equal(frame, picture.array)


def test_a_server_makes_the_same_frames_and_sheets(tmp_path: Path) -> None:
    sheet = ("--rows", "1", "--columns", "2", "--layers", "0-3")
    with running(tmp_path, load=("starry",)) as address:
        for name, where in (("there", ("--server", address)), ("here", ("--threads", 1))):
            walked = run("walk", "starry", "--seeds", "1,2", "--frames", 3, *where, "--out", tmp_path / name)
            assert walked.exit_code == 0, walked.stderr
            assert run("sheet", "mixing", "starry", *sheet, *where, "--out", tmp_path / f"{name}.png").exit_code == 0
        options = ("--seeds", "1,2", "--space", "w", "--server", address, "--out", tmp_path / "x")
        refused = run("walk", "starry", *options)
    here, there = (frames_in(tmp_path / name) for name in ("here", "there"))
    assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "there.png").read_bytes()
    assert refused.stderr.startswith("impasto: space: found 'w'; allowed is z; a server does not tell")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("keys", [("--seeds", "1,2", "--loop"), ("--random", 7, "--fps", 2)])
def test_a_server_walks_through_the_noise_of_a_diffusion_model(keys: tuple[object, ...], tmp_path: Path) -> None:
    options = (*keys, "--frames", 5, "--steps", 2, "--sampler", "euler_a")
    with running(tmp_path, load=("starry-ddpm",)) as address:
        for name, where in (("there", ("--server", address)), ("here", ("--threads", 1))):
            walked = run("walk", "starry-ddpm", *options, *where, "--out", tmp_path / name)
            assert walked.exit_code == 0, walked.stderr
    here, there = (frames_in(tmp_path / name) for name in ("here", "there"))
    assert len(here) == 5
    assert not np.array_equal(here[0], here[2])
    assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("model", ["residual", "vq"])
def test_a_model_that_no_seed_has_a_latent_of_is_refused_alike_here_and_at_a_server(
    model: str, family_models: Path, image_to_image_models: Path, tmp_path: Path
) -> None:
    models = {"residual": image_to_image_models, "vq": family_models}[model]
    walk = ("walk", model, "--seeds", "1,2", "--out", tmp_path / "a")
    with running(models, load=(model,)) as address:
        refused = [run(*walk, *where) for where in (("--server", address), ("--models", models))]
    for result in refused:
        assert result.exit_code == 1
        assert result.stderr == (
            "impasto: model: found 'one that no seed has a latent of'; allowed is a model that takes seeds, and z or a "
            "latent\n"
        )


def test_a_truncation_sheet_starts_at_the_average_picture(tmp_path: Path) -> None:
    options = ("--seeds", "1-2", "--psi", "0,1", "--noise", "const", "--out", tmp_path / "s.png")
    assert run("sheet", "truncation", *STARRY, *options).exit_code == 0
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    with impasto.load("starry", threads=1) as generator:
        wanted = generator.generate(seeds=[1, 2], noise_mode="const")
    assert sheet.shape == (258, 258, 3)
    assert np.array_equal(sheet[:128, :128], sheet[130:, :128])
    assert np.array_equal(sheet[:128, 130:], wanted[0].array)
    assert np.array_equal(sheet[130:, 130:], wanted[1].array)
    assert read_metadata(tmp_path / "s.png")["psi"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "found none; allowed is one of --seeds, --random, --ws"),
        (["--seeds", "1,2", "--random", "3"], "found --seeds and --random"),
        (["--random", "3", "--space", "w"], "--random walks in z"),
        (["--ws", "a.npy", "--psi", "0.5"], "--ws are styles as they are"),
        (["--seeds", "1,x"], "--seeds: found 'x'"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run("walk", *STARRY, *arguments, "--out", tmp_path / "a")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "seeds: found '1 to walk through'; allowed is two or more"),
        (
            ["--seeds", "1,2", "--out", "a.avi"],
            "path: found 'a.avi'; allowed is a file name in .mp4, .gif, or a folder",
        ),
        (["--ws", "none.npy"], "none.npy: No such file or directory"),
    ],
)
def test_what_cannot_be_walked_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("walk", *STARRY, "--out", "a", *arguments)
    assert result.exit_code == 1
    assert result.stderr == f"impasto: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_an_mp4_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    result = run("walk", *STARRY, "--seeds", "1,2", "--frames", 2, "--out", tmp_path / "a.mp4")
    assert result.exit_code == 1
    assert result.stderr == f"impasto: av is not installed; run: {install_command('video')}\n"
    assert list(tmp_path.iterdir()) == []
