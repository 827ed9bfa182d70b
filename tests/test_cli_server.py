from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from impasto.engine.null import write_null_bundle

COMMAND = [sys.executable, "-m", "impasto.cli"]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_null_bundle(tmp_path / "models")
    return tmp_path / "models"


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`impasto serve` on a free port, and its address as it tells it."""
    command = [*COMMAND, "serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"serving on (\S+)", line):
                yield process, found[1]
                break
    finally:
        process.kill()
        process.wait()


def test_pictures_from_a_served_model_have_the_bytes_of_those_made_here(models: Path, tmp_path: Path) -> None:
    with serving("--models", models) as (_, address):
        for name, where in (("there", ["--server", address]), ("here", ["--models", models])):
            arguments = ["generate", "null", "--count", "3", "--out", tmp_path / name, *where]
            subprocess.run([*COMMAND, *map(str, arguments)], check=True)
    for seed in range(3):
        there, here = (tmp_path / name / f"null-{seed}.png" for name in ("there", "here"))
        assert there.read_bytes() == here.read_bytes()


def test_sigterm_ends_the_server_with_status_0(models: Path) -> None:
    with serving("--models", models) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == 0


def test_options_go_before_the_configuration_file(models: Path, tmp_path: Path) -> None:
    config = tmp_path / "impasto.toml"
    config.write_text(f'listen = "nowhere"\nmodels = ["{models}"]\n[limits]\nmax_pictures = 2\n')
    with serving("--config", config) as (_, address):
        arguments = ["generate", "null", "--server", address, "--count", "3", "--out", str(tmp_path / "out"), "--json"]
        refused = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
        assert refused.returncode == 1
        assert refused.stderr.startswith("impasto: ")
        assert "3" in refused.stderr
        arguments[5] = "2"
        told = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=True)
    assert [picture["seed"] for picture in json.loads(told.stdout)["pictures"]] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--listen", "nowhere"], "impasto: configuration: listen: found 'nowhere'"),
        (["--config", "/nowhere/impasto.toml"], "impasto: config: found '/nowhere/impasto.toml'"),
        (["--load", "nul", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"], "impasto: model: found no"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(arguments: list[str], message: str, models: Path) -> None:
    environment = {**os.environ, "IMPASTO_MODELS": str(models)}
    ended = subprocess.run([*COMMAND, "serve", *arguments], capture_output=True, text=True, env=environment)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in ended.stderr
