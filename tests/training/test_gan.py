from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn
from typer.testing import CliRunner

from impasto.cli import app
from impasto.errors import InvalidRequest
from impasto.generators.families import family_of
from impasto.generators.gan import GANConfig
from impasto.training.critic import Critic, gradient_penalty
from impasto.training.gan import GANPlan, Trainer
from impasto.training.gan_losses import LOSS_NAMES, LOSSES, LossName
from tests.support.training import same_though_killed

SHAPE: dict[str, Any] = {"resolution": 16, "z_dim": 8, "channel_base": 16, "channel_max": 16}
CLASSES = {"night": (30, 40, 200), "sea": (200, 160, 40)}


def plan(config: GANConfig | None = None, **changes: Any) -> GANPlan:
    values: dict[str, Any] = {
        "pictures": 32,
        "batch": 4,
        "crop": (16, 24),
        "sheet_pictures": 24,
        "bfloat16": False,
        "save_seconds": 0.0,
    }
    return GANPlan(config or GANConfig(**SHAPE), **(values | changes))


def test_a_class_has_its_colour(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (24, 24), colour) for colour in CLASSES.values()]
    config = GANConfig(**SHAPE, c_dim=2)
    long: dict[str, Any] = {"pictures": 2400, "batch": 16, "sheet_pictures": 10_000, "save_seconds": 1000.0}
    quick = {"learning_rate": 2e-3, "ema_pictures": 160.0, "augment": False, "classes": tuple(CLASSES)}
    trainer = Trainer(plan(config, **long, **quick), pictures, tmp_path, labels=[0, 1])
    trainer.run()
    for number, colour in enumerate(CLASSES.values()):
        c = torch.eye(2)[number].expand(8, 2)
        with torch.no_grad():
            made = trainer.ema(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)), c)
        found = made.mean(dim=(0, 2, 3)) * 127.5 + 127.5
        torch.testing.assert_close(found, torch.tensor(colour).float(), atol=60.0, rtol=0.0)
    # A row of four seeds for each class.
    assert trainer.sheet().size == (4 * 16 + 3, 2 * 16 + 1)


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_a_run_that_is_killed_goes_on_to_the_same_state_bit_for_bit(
    loss: LossName, pictures: list[Image.Image], tmp_path: Path
) -> None:
    config = GANConfig(**SHAPE, attention=8)
    length = {"pictures": 8 * 4 * LOSSES[loss].critic_steps, "loss": loss, "spectral": loss != "wgan-gp"}
    curve = same_though_killed(lambda out: Trainer(plan(config, **length), pictures, out), tmp_path)
    assert len(curve) == 8
    assert np.isfinite([[*step.values()] for step in curve]).all()


def test_the_weights_are_the_averaged_generator_and_load_by_their_header(
    pictures: list[Image.Image], tmp_path: Path
) -> None:
    trainer = Trainer(plan(), pictures, tmp_path)
    trainer.run()
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    family = family_of(header["family"])
    generator = family.load(family.config(**json.loads(header["config"])), tensors)
    z = torch.randn(2, 8)
    torch.testing.assert_close(generator(z), trainer.ema(z))
    assert any(not torch.equal(tensors[name], last) for name, last in trainer.generator.state_dict().items())
    assert Image.open(tmp_path / "sheet_final.png").size == (4 * 16 + 3, 4 * 16 + 3)


def test_the_losses_are_those_of_their_papers() -> None:
    real, fake = torch.tensor([0.5, 2.0], dtype=torch.float64), torch.tensor([-1.0, 0.25], dtype=torch.float64)
    sigmoid = torch.sigmoid
    expected = {
        "non-saturating": (-sigmoid(fake).log().mean(), -(sigmoid(real).log() + (1 - sigmoid(fake)).log()).mean()),
        "least-squares": (((fake - 1) ** 2).mean() / 2, ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2),
        "wgan-gp": (-fake.mean(), fake.mean() - real.mean()),
    }
    for name, (generator, discriminator) in expected.items():
        torch.testing.assert_close(LOSSES[name].generator(fake), generator)
        torch.testing.assert_close(LOSSES[name].discriminator(real, fake), discriminator)


class Linear(nn.Module):
    """A critic whose gradient is known: D(x) = a·Σx."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, pictures: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        return self.a * pictures.sum(dim=(1, 2, 3))


@pytest.mark.parametrize("a", [0.1, 0.5])
def test_the_gradient_penalty_is_how_far_the_slope_is_from_1(a: float) -> None:
    critic: Any = Linear(a)
    real, fake = torch.randn(4, 3, 4, 4), torch.randn(4, 3, 4, 4)
    penalty = gradient_penalty(critic, real, fake, None, torch.Generator().manual_seed(0))
    slope = a * 48**0.5
    assert penalty.item() == pytest.approx((slope - 1.0) ** 2, rel=1e-4)
    (gradient,) = torch.autograd.grad(penalty, critic.a)
    assert gradient.item() == pytest.approx(2.0 * (slope - 1.0) * 48**0.5, rel=1e-4)


def test_spectral_normalisation_bounds_every_layer() -> None:
    torch.manual_seed(0)
    critic = Critic(GANConfig(**SHAPE, c_dim=2, attention=8), spectral=True)
    for _ in range(20):
        critic(torch.randn(2, 3, 16, 16), torch.eye(2))
    layers = [layer for layer in critic.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    # Two strided convolutions, four of attention, features, score, projection.
    assert len(layers) == 9
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("spectral", [True, False])
def test_a_score_depends_on_no_other_picture_but_on_the_class(spectral: bool) -> None:
    torch.manual_seed(0)
    critic = Critic(GANConfig(**SHAPE, c_dim=2), spectral=spectral).eval()
    pictures, c = torch.randn(3, 3, 16, 16), torch.eye(2)[[0, 1, 0]]
    scores = critic(pictures, c)
    torch.testing.assert_close(critic(pictures[1:2], c[1:2]), scores[1:2], atol=1e-5, rtol=1e-5)
    assert (critic(pictures, 1.0 - c) - scores).abs().min() > 1e-4


def test_a_run_may_go_on_at_another_learning_rate(pictures: list[Image.Image], tmp_path: Path) -> None:
    trainer = Trainer(plan(), pictures, tmp_path)
    trainer.run(stop=lambda: trainer.seen >= 8)
    again = Trainer(plan(learning_rate=5e-5), pictures, tmp_path)
    assert again.seen == 8
    assert all(getattr(again, name).param_groups[0]["lr"] == 5e-5 for name in ("optimizer_g", "optimizer_d"))


def test_a_folder_that_holds_another_run_is_refused(pictures: list[Image.Image], tmp_path: Path) -> None:
    trainer = Trainer(plan(), pictures, tmp_path)
    trainer.run(stop=lambda: trainer.seen >= 8)
    for other in (plan(loss="wgan-gp"), plan(spectral=False), plan(GANConfig(**SHAPE, attention=8))):
        with pytest.raises(ValueError, match="state of another network"):
            Trainer(other, pictures, tmp_path)


def test_what_does_not_fit_is_refused(pictures: list[Image.Image], tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="loss: found 'hinge'; allowed is one of non-saturating"):
        plan(loss="hinge")
    with pytest.raises(InvalidRequest, match="classes: found 0; allowed is 2, as many as c has numbers"):
        plan(GANConfig(**SHAPE, c_dim=2))
    with pytest.raises(InvalidRequest, match="labels: found 0; allowed is 1, one a picture"):
        Trainer(plan(GANConfig(**SHAPE, c_dim=2), classes=("a", "b")), pictures, tmp_path)


def train(data: Path, *more: str) -> Any:
    options = ["--data", str(data), "--out", str(data / "run"), "--resolution", "8", "--threads", "1"]
    lengths = ["--pictures", "4", "--batch", "4", "--z-dim", "8", "--crop", "8", "16"]
    return CliRunner().invoke(app, ["train", "gan", *options, *lengths, *more])


def test_the_command_trains_classes_and_names_the_weights(pictures: list[Image.Image], tmp_path: Path) -> None:
    for name in CLASSES:
        (tmp_path / name).mkdir()
        pictures[0].save(tmp_path / name / "picture.png")
    result = train(tmp_path, "--classes", "--attention", "4", "--loss", "least-squares", "--no-spectral")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'run' / 'weights.safetensors'}\n"
    assert "class 0: night\nclass 1: sea\n" in result.stderr
    with safe_open(tmp_path / "run" / "weights.safetensors", "pt") as file:
        header = file.metadata()
    assert header["family"] == "gan"
    assert json.loads(header["config"])["c_dim"] == 2
    assert (tmp_path / "run" / "classes.txt").read_text() == "0\tnight\n1\tsea\n"


def test_a_command_that_cannot_start_says_why_in_one_line(pictures: list[Image.Image], tmp_path: Path) -> None:
    pictures[0].save(tmp_path / "picture.png")
    for option, message in (
        (("--loss", "hinge"), "loss: found 'hinge'; allowed is one of non-saturating, least-squares, wgan-gp"),
        (("--classes",), "picture.png in no class; allowed are subfolders, one a class"),
    ):
        result = train(tmp_path, *option)
        assert result.exit_code == 1
        assert result.stderr.replace("\n", " ").strip().endswith(message)
