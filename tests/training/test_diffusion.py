from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from PIL import Image
from typer.testing import CliRunner

from impasto.cli import app
from impasto.errors import InvalidRequest
from impasto.training.diffusion import DiffusionPlan, Trainer, loss_weights
from tests.support.training import same_though_killed

COLOUR = (32, 96, 224)


def plan(**changes: Any) -> DiffusionPlan:
    values: dict[str, Any] = {
        "resolution": 8,
        "pictures": 48,
        "batch": 4,
        "crop": (8, 16),
        "channels": (16, 32),
        "attention": (4,),
        "warm_up_pictures": 16,
        "sheet_pictures": 32,
        "bfloat16": False,
        "save_seconds": 0.0,
    }
    return DiffusionPlan(**(values | changes))


@pytest.fixture(scope="module")
def blue(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, list[float]]:
    """A network trained on a picture of one colour, and the loss of each step."""
    long = plan(pictures=1600, ema_pictures=200.0, learning_rate=2e-3, sheet_pictures=10_000, save_seconds=1000.0)
    trainer = Trainer(long, [Image.new("RGB", (32, 32), COLOUR)], tmp_path_factory.mktemp("blue"))
    losses: list[float] = []
    step = trainer._step

    def recorded() -> float:
        losses.append(step())
        return losses[-1]

    trainer._step = recorded  # type: ignore[method-assign]
    trainer.run()
    return trainer, losses


def test_the_loss_falls(blue: tuple[Trainer, list[float]]) -> None:
    _, losses = blue
    assert np.mean(losses[-40:]) < 0.1 * np.mean(losses[:10])


def test_a_network_that_saw_one_colour_makes_pictures_of_it(blue: tuple[Trainer, list[float]]) -> None:
    trainer, _ = blue
    made = trainer.sample([1, 2, 3]).mean(dim=(2, 3)) * 127.5 + 127.5
    torch.testing.assert_close(made, torch.tensor(COLOUR).float().expand(3, 3), atol=12.0, rtol=0.0)


def test_a_picture_is_the_same_alone_and_among_others(blue: tuple[Trainer, list[float]]) -> None:
    trainer, _ = blue
    torch.testing.assert_close(trainer.sample([2]), trainer.sample([1, 2, 3])[1:2], atol=1e-5, rtol=0.0)


def test_the_folder_is_a_pipeline_of_diffusers_with_the_averaged_weights(blue: tuple[Trainer, list[float]]) -> None:
    trainer, _ = blue
    pipeline = DDPMPipeline.from_pretrained(trainer.out / "model")
    assert (trainer.out / "model" / "unet" / "diffusion_pytorch_model.safetensors").exists()
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.beta_schedule == "squaredcos_cap_v2"
    averaged, written, last = (network.state_dict() for network in (trainer.ema, pipeline.unet, trainer.unet))
    assert averaged.keys() == written.keys()
    assert all(torch.equal(averaged[name], written[name]) for name in averaged)
    assert any(not torch.equal(averaged[name], last[name]) for name in averaged)


def test_a_run_writes_a_sheet_of_sixteen_and_the_model_beside_it(pictures: list[Image.Image], tmp_path: Path) -> None:
    trainer = Trainer(plan(), pictures, tmp_path)
    trainer.run(stop=lambda: trainer.seen >= 36)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.jsonl", "model", "sheet_0000032.png", "state.pt"]
    with Image.open(tmp_path / "sheet_0000032.png") as sheet:
        assert sheet.size == (4 * 8 + 3, 4 * 8 + 3)
        assert len(np.unique(np.asarray(sheet))) > 16
    trainer.run()
    assert (tmp_path / "sheet_final.png").exists()


def test_a_run_that_is_killed_goes_on_to_the_same_state_bit_for_bit(
    pictures: list[Image.Image], tmp_path: Path
) -> None:
    same_though_killed(lambda out: Trainer(plan(), pictures, out), tmp_path, kills=(2, 5))


def test_a_batch_has_a_timestep_of_each_part_of_the_schedule(pictures: list[Image.Image], tmp_path: Path) -> None:
    trainer = Trainer(plan(batch=5), pictures, tmp_path)
    drawn = torch.stack([trainer._timesteps() for _ in range(200)])
    assert (drawn // 200 == torch.arange(5)).all()
    assert drawn.min() < 20
    assert drawn.max() >= 980


def test_a_loss_weighs_as_much_in_x0_as_the_signal_does_up_to_a_ceiling() -> None:
    alphas_cumprod = torch.tensor([0.999, 0.9, 0.8, 0.5, 0.1, 0.0], dtype=torch.float64)
    snr = alphas_cumprod / (1.0 - alphas_cumprod)
    in_x0 = loss_weights(alphas_cumprod, 5.0) * (snr + 1.0)
    expected = torch.tensor([5.0, 5.0, 5.0, 2.0, 1.0 / 0.9, 1.0], dtype=torch.float64)
    torch.testing.assert_close(in_x0, expected)


def test_a_folder_that_holds_another_run_is_refused(pictures: list[Image.Image], tmp_path: Path) -> None:
    trainer = Trainer(plan(), pictures, tmp_path)
    trainer.run(stop=lambda: trainer.seen >= 8)
    with pytest.raises(ValueError, match="state of another network"):
        Trainer(plan(channels=(16, 16)), pictures, tmp_path)
    with pytest.raises(ValueError, match=r"pictures: found 4; the run in .* has already seen 8"):
        Trainer(plan(pictures=4), pictures, tmp_path)
    torch.save({"generator": {}, "seen": 0}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="state of another network"):
        Trainer(plan(), pictures, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 9}, "resolution: found 9; allowed is a multiple of 2"),
        ({"channels": (16, 20)}, "channels: found .* allowed is one or more multiples of 8"),
        ({"channels": ()}, "channels: found"),
        ({"crop": (16, 8)}, "crop: found .* the smallest and the largest side"),
        ({"learning_rate": 0.0}, r"learning_rate: found 0\.0; allowed is more than 0"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        dataclasses.replace(plan(), **changes)


def train(data: Path, out: Path, *more: object) -> Any:
    options = ["--data", data, "--out", out, "--resolution", 8, "--pictures", 4, "--batch", 4, "--threads", 1]
    return CliRunner().invoke(app, ["train", "diffusion", *map(str, options), *map(str, more)])


def test_the_command_trains_and_names_the_model(pictures: list[Image.Image], tmp_path: Path) -> None:
    pictures[0].resize((64, 64)).save(tmp_path / "picture.png")
    result = train(tmp_path / "picture.png", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'run' / 'model'}\n"
    assert "training from 0 to 4 pictures" in result.stderr
    assert f"next: impasto import {tmp_path / 'run' / 'model'} --name NAME" in result.stderr
    assert (tmp_path / "run" / "model" / "model_index.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resolution", 20), "resolution: found 20; allowed is a multiple of 8"),
        (("--crop", 100, 200), "data: found no picture with both sides of 100 pixels or more, the smallest crop; "),
        (("--learning-rate", 0), "learning_rate: found 0.0; allowed is more than 0"),
    ],
)
def test_a_command_that_cannot_start_says_why_in_one_line(
    options: tuple[object, ...], message: str, pictures: list[Image.Image], tmp_path: Path
) -> None:
    pictures[0].resize((64, 64)).save(tmp_path / "picture.png")
    result = train(tmp_path / "picture.png", tmp_path / "run", *options)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"impasto: {message}")
