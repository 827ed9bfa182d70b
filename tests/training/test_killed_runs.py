from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from impasto.training.curve import FILE, Curve, read_curve
from impasto.training.diffusion import Trainer
from impasto.training.state import replaced
from tests.training.killed_runs import BATCH, COMMON, TRAINERS, pictures

KILLS = 20
STEPS = COMMON["pictures"] // BATCH


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[tuple[int, str]]]]:
    """Every trainer's run, whole and killed twenty times, and where the kills were."""
    out = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "tests.training.killed_runs", str(out), str(KILLS)]
    done = subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=1500
    )
    return out, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_a_run_killed_twenty_times_has_the_curve_of_an_unbroken_one(name: str, runs: Any) -> None:
    out, points = runs
    assert len(points[name]) == KILLS
    assert len({curve for curve, _ in points[name]}) >= 8  # it got on between the kills
    assert {"t", "s"} <= {event for _, event in points[name]}  # some fell into a step, some into a save
    whole, broken = (read_curve(out / name / run) for run in ("whole", "broken"))
    seen = [step["seen"] for step in whole]
    assert seen == sorted(set(seen))
    assert seen[-1] >= COMMON["pictures"]
    assert len(whole) >= STEPS // 2
    assert [step.keys() for step in broken] == [step.keys() for step in whole]
    losses = [np.array([[*step.values()] for step in curve]) for curve in (whole, broken)]
    assert np.isfinite(losses[0]).all()
    assert losses[0][:, 1].std() > 1e-3
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_a_killed_run_leaves_the_files_of_an_unbroken_one(name: str, runs: Any) -> None:
    out, _ = runs
    whole, broken = (
        {path.relative_to(out / name / run) for path in (out / name / run).rglob("*")} for run in ("whole", "broken")
    )
    assert {path for path in broken if path.suffix != ".part"} == whole
    ours, theirs = (Image.open(out / name / run / "sheet_final.png") for run in ("whole", "broken"))
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


COMMAND = """
import functools, sys, time
from impasto.training import vae
vae.VAEPlan = functools.partial(vae.VAEPlan, save_seconds=0.0)  # else a run as short as this saves nothing
last, step = int(sys.argv.pop()), vae.Trainer.step

def waiting(trainer):
    if trainer.seen == last:
        time.sleep(1000.0)
    return step(trainer)

vae.Trainer.step = waiting
from impasto.cli import app
app()
"""
COMMAND_STEPS = 60


def trains(data: Path, out: Path, steps: int = COMMAND_STEPS) -> subprocess.Popen[bytes]:
    """Begin `impasto train`, of a tiny VAE that saves after every step; after so many it waits to be killed."""
    shape = ["--resolution", "16", "--latent-side", "4", "--channels", "4", "--most-channels", "8"]
    length = ["--pictures", str(COMMAND_STEPS * BATCH), "--batch", str(BATCH), "--crop", "16", "32", "--threads", "1"]
    command = [sys.executable, "-c", COMMAND, "train", "vae", "--data", str(data), "--out", str(out), *shape, *length]
    command.append(str(steps * BATCH))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def steps_in(out: Path) -> int:
    """Steps in the curve so far."""
    return (out / FILE).read_bytes().count(b"\n") if (out / FILE).exists() else 0


@pytest.mark.slow
def test_the_command_that_is_killed_and_typed_again_leaves_the_files_of_an_unbroken_one(tmp_path: Path) -> None:
    data, whole, broken = (tmp_path / name for name in ("data", "whole", "broken"))
    data.mkdir()
    for number, picture in enumerate(pictures()):
        picture.save(data / f"{number}.png")
    chance = random.Random(0)
    for reached in sorted(chance.sample(range(1, COMMAND_STEPS - 10), 3)):
        run = trains(data, broken, COMMAND_STEPS - 5)
        while steps_in(broken) < reached and run.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.05))
        run.kill()
        assert run.wait() == -signal.SIGKILL
        assert reached <= steps_in(broken) < COMMAND_STEPS
    for out in (whole, broken):
        told, _ = trains(data, out).communicate(timeout=500)
        assert told.decode() == f"{out / 'weights.safetensors'}\n"
    assert steps_in(whole) == COMMAND_STEPS
    for name in (FILE, "weights.safetensors", "sheet_final.png"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()


def test_a_kill_while_a_state_is_written_leaves_the_state_before_it(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save({"seen": 1}, path)

    class Killed(BaseException):
        pass

    def write_and_be_killed() -> None:
        with replaced(path) as part:
            part.write_bytes(b"half of a st")
            raise Killed

    with pytest.raises(Killed):
        write_and_be_killed()
    assert torch.load(path) == {"seen": 1}
    with replaced(path) as part:
        torch.save({"seen": 2}, part)
    assert torch.load(path) == {"seen": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def test_a_curve_goes_on_from_the_state_without_a_gap_or_a_double(tmp_path: Path) -> None:
    curve = Curve(tmp_path, 0)
    for seen in (4, 8, 12):
        curve.append(seen, {"loss": 1.0 / seen})
    with curve.path.open("ab") as stream:
        stream.write(b'{"seen": 16, "lo')  # killed here
    again = Curve(tmp_path, 8)
    again.append(12, {"loss": 0.5})
    again.close()
    assert read_curve(tmp_path) == [
        {"seen": 4, "loss": 0.25},
        {"seen": 8, "loss": 0.125},
        {"seen": 12, "loss": 0.5},
    ]


def test_a_curve_without_a_state_begins_anew(tmp_path: Path) -> None:
    Curve(tmp_path, 0).append(4, {"loss": 1.0})
    Curve(tmp_path, 0).append(4, {"loss": 2.0})
    assert read_curve(tmp_path) == [{"seen": 4, "loss": 2.0}]


def test_a_run_that_goes_on_with_other_pictures_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def stopped(which: list[Image.Image]) -> Trainer:
        trainer: Trainer = TRAINERS["diffusion"](which, tmp_path)
        trainer.run(stop=lambda: trainer.seen > 0)
        return trainer

    stopped(pictures())
    stopped(pictures())
    assert not caplog.records
    stopped([*pictures(), Image.new("RGB", (40, 40))])
    assert "these are not the pictures that the run" in caplog.text
