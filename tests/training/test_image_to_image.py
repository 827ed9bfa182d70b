from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

from impasto.cli import app
from impasto.errors import InvalidRequest
from impasto.generators.families import family_of
from impasto.generators.residual import ResidualConfig
from impasto.training.curve import read_curve
from impasto.training.flat_colours import flat_colours, random_flat_colours
from impasto.training.image_to_image import ImageToImagePlan, Trainer
from tests.support.image_to_image import scene
from tests.support.training import image_to_image_plan, same_though_killed

CONFIG = ResidualConfig(channels=4, blocks=1, adds=True, resizes=True, noise=1)


def plan(config: ResidualConfig = CONFIG, **changes: Any) -> ImageToImagePlan:
    return image_to_image_plan(config, **changes)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.fromarray(scene(64, 48))]


def test_flat_colours_are_few_and_near_the_pictures_own() -> None:
    picture = scene(64, 48)
    flat = flat_colours(picture, blur=2.0, colours=6)
    assert flat.shape == picture.shape
    # A median in each channel may mix colours of two areas where they meet.
    colours, counts = np.unique(flat.reshape(-1, 3), axis=0, return_counts=True)
    assert np.sort(counts)[-6:].sum() > 0.9 * counts.sum()
    assert len(colours) < 0.1 * len(np.unique(picture.reshape(-1, 3), axis=0))
    assert np.abs(flat.mean(axis=(0, 1)) - picture.mean(axis=(0, 1))).max() < 10


def test_what_is_drawn_decides_how_flat() -> None:
    picture = scene(64, 48)
    drawn = [random_flat_colours(picture, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_it_learns_to_paint(pictures: list[Image.Image], tmp_path: Path) -> None:
    quick: dict[str, Any] = {"learning_rate": 1e-3, "ema_pictures": 60.0, "save_seconds": 1e3, "sheet_pictures": 10**6}
    trainer = Trainer(plan(pictures=1000, batch=8, **quick), pictures, tmp_path)
    trainer.run()
    distances = [step["distance"] for step in read_curve(tmp_path)]
    assert np.mean(distances[-20:]) < 0.97 * np.mean(distances[:10])
    flat, real = trainer._pairs(16, np.random.default_rng(1))
    with torch.no_grad():
        made = trainer.ema(*trainer.condition.inputs(flat, torch.Generator().manual_seed(1)))
    grain = [(crops[..., 1:] - crops[..., :-1]).abs().mean().item() for crops in (flat, made, real)]
    assert grain[0] < 0.6 * grain[2]
    assert 1.5 * grain[0] < grain[1] < 1.4 * grain[2]
    torch.testing.assert_close(made.mean(dim=(2, 3)), real.mean(dim=(2, 3)), atol=0.15, rtol=0.0)


def test_a_run_that_is_killed_goes_on_to_the_same_state_bit_for_bit(
    pictures: list[Image.Image], tmp_path: Path
) -> None:
    same_though_killed(lambda out: Trainer(plan(), pictures, out), tmp_path)


def test_the_weights_are_the_averaged_network_and_load_by_their_header(
    pictures: list[Image.Image], tmp_path: Path
) -> None:
    trainer = Trainer(plan(), pictures, tmp_path)
    trainer.run()
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    family = family_of(header["family"])
    config = family.config(**json.loads(header["config"]))
    assert config == CONFIG
    flat, _ = trainer._pairs(2, np.random.default_rng(0))
    (given,) = trainer.condition.inputs(flat, torch.Generator().manual_seed(0))
    torch.testing.assert_close(family.load(config, tensors)(given), trainer.ema(given))
    assert any(not torch.equal(tensors[name], last) for name, last in trainer.generator.state_dict().items())
    # Twice flat colours, what is painted of them, and the crops.
    assert Image.open(tmp_path / "sheet_final.png").size == (6 * 16 + 5, 6 * 16 + 5)


def test_a_folder_that_holds_another_run_is_refused(pictures: list[Image.Image], tmp_path: Path) -> None:
    trainer = Trainer(plan(), pictures, tmp_path)
    trainer.run(stop=lambda: trainer.seen >= 8)
    with pytest.raises(ValueError, match="state of another network"):
        Trainer(plan(ResidualConfig(channels=4, blocks=2, adds=True)), pictures, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 24}, "resolution: found 24; allowed is a power of two from 16 on"),
        ({"resolution": 8}, "resolution: found 8; allowed is a power of two from 16 on"),
        ({"adversarial": 0.0}, r"adversarial: found 0\.0; allowed is more than 0"),
        ({"learning_rate": 0.0}, r"learning_rate: found 0\.0; allowed is more than 0"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        plan(**changes)


def test_the_command_trains_and_names_the_weights(pictures: list[Image.Image], tmp_path: Path) -> None:
    pictures[0].save(tmp_path / "picture.png")
    (tmp_path / "broken.png").write_bytes(b"")
    shape = ("--resolution", "16", "--channels", "4", "--blocks", "1", "--threads", "1")
    command = ["train", "image-to-image", "--data", str(tmp_path), "--out", str(tmp_path / "run"), *shape]
    result = CliRunner().invoke(app, [*command, "--pictures", "4", "--batch", "4"])
    weights = tmp_path / "run" / "weights.safetensors"
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{weights}\n"
    assert "broken.png: found an empty file" in result.stderr.replace("\n", "")
    with safe_open(weights, "pt") as file:
        assert json.loads(file.metadata()["config"]) == {
            "channels": 4,
            "blocks": 1,
            "adds": True,
            "resizes": True,
            "noise": 1,
        }
