"""What Ctrl-C and SIGTERM do to `impasto train`: the state is saved, and the same command goes on from it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from impasto.cli.training import run
from impasto.training.curve import read_curve

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GUARD = 300.0
"""Seconds after which a process that hangs is given up."""


def command(folder: Path, *more: str) -> list[str]:
    options = ["--data", str(folder / "data"), "--out", str(folder / "run"), "--resolution", "8", "--threads", "1"]
    lengths = ["--batch", "4", "--z-dim", "8", "--channels", "4", "--crop", "8", "16"]
    return [sys.executable, "-m", "impasto.cli", "train", "gan", *options, *lengths, *more]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "data" / "noise.png")
    return tmp_path


def wait_for_steps(process: subprocess.Popen[str], out: Path) -> None:
    """Return once the run has made a step."""
    until = time.monotonic() + GUARD
    while not ((out / "curve.jsonl").exists() and read_curve(out)):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_that_is_told_to_stop_saves_its_state_and_goes_on_from_there(
    number: signal.Signals, folder: Path
) -> None:
    with subprocess.Popen(command(folder, "--pictures", "100000000"), stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for_steps(process, folder / "run")
            process.send_signal(number)
            _, told = process.communicate(timeout=GUARD)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    last = re.fullmatch(
        r"saved at (\d+) of 100000000 pictures; the same command goes on from there", told.splitlines()[-1]
    )
    assert last
    seen = int(last[1])
    assert torch.load(folder / "run" / "state.pt")["seen"] == seen == read_curve(folder / "run")[-1]["seen"]
    rest = command(folder, "--pictures", str(seen + 4))
    ended = subprocess.run(rest, capture_output=True, text=True, timeout=GUARD, check=True)
    assert f"training from {seen} to {seen + 4} pictures" in ended.stderr
    assert (folder / "run" / "weights.safetensors").exists()


class Interrupted:
    """A trainer of 8 pictures that gets signals during its run, and stops when it is told to."""

    seen = 0

    def __init__(self, *numbers: signal.Signals) -> None:
        self.numbers = numbers
        self.asked: list[bool] = []

    def run(self, report: object, stop: Callable[[], bool]) -> None:
        self.asked.append(stop())
        for number in self.numbers:
            signal.raise_signal(number)
            self.asked.append(stop())
        self.seen = 4 if self.numbers else 8


class AtOnce(BaseException):
    """What a signal raised that met the handler from before the run."""


@pytest.fixture
def handlers() -> Iterator[object]:
    def end(number: int, frame: object) -> None:
        raise AtOnce(number)

    before = {number: signal.signal(number, end) for number in SIGNALS}
    yield end
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_stops_the_run_with_its_own_status(number: signal.Signals, handlers: object) -> None:
    trainer = Interrupted(number)
    with pytest.raises(typer.Exit) as ended:
        run(trainer, 8, lambda progress: "", Path("model"))
    assert ended.value.exit_code == 128 + number
    assert trainer.asked == [False, True]
    assert [signal.getsignal(each) for each in SIGNALS] == [handlers, handlers]


@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_signal_of_either_kind_ends_it_at_once(
    first: signal.Signals, second: signal.Signals, handlers: object
) -> None:
    trainer = Interrupted(first, second)
    with pytest.raises(AtOnce, match=str(int(second))):
        run(trainer, 8, lambda progress: "", Path("model"))
    assert trainer.asked == [False, True]


def test_a_run_that_ends_by_itself_leaves_the_handlers_as_they_were(
    handlers: object, capsys: pytest.CaptureFixture[str]
) -> None:
    run(Interrupted(), 8, lambda progress: "", Path("model"))
    assert capsys.readouterr().out == "model\n"
    assert [signal.getsignal(each) for each in SIGNALS] == [handlers, handlers]
