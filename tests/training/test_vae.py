from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch.distributions import Normal, kl_divergence
from typer.testing import CliRunner

from impasto.cli import app
from impasto.errors import InvalidRequest
from impasto.generators.families import family_of
from impasto.generators.vae import VAE, VAEConfig
from impasto.generators.vq import VQ, VQConfig
from impasto.training.bottlenecks import Codebook, Gaussian
from impasto.training.curve import read_curve
from impasto.training.vae import Trainer, VAEPlan
from tests.support.training import same_though_killed

SHAPE: dict[str, Any] = {"resolution": 8, "latent_side": 2, "channel_base": 8, "channel_max": 16}
COLOURS = ((200, 60, 60), (60, 80, 200))


def plan(config: VAEConfig | VQConfig | None = None, **changes: Any) -> VAEPlan:
    values: dict[str, Any] = {
        "pictures": 28,
        "batch": 4,
        "crop": (8, 16),
        "channel_base": 64,
        "channel_max": 8,
        "sheet_pictures": 20,
        "sharpen_pictures": 16,
        "r1_interval": 2,
        "bfloat16": False,
        "save_seconds": 0.0,
    }
    return VAEPlan(config or VAEConfig(**SHAPE), **(values | changes))


@pytest.fixture(scope="module")
def colours() -> list[Image.Image]:
    """Two pictures, each of one colour that gets lighter from left to right."""
    ramp = np.linspace(-40, 40, 16)[None, :, None]
    return [Image.fromarray((np.tile(ramp, (16, 1, 3)) + colour).astype(np.uint8)) for colour in COLOURS]


@pytest.mark.parametrize("config", [VAEConfig(**SHAPE), VQConfig(**SHAPE, codes=8)], ids=["vae", "vq"])
def test_it_learns_to_reconstruct(config: VAEConfig | VQConfig, colours: list[Image.Image], tmp_path: Path) -> None:
    quick = {"learning_rate": 3e-3, "ema_pictures": 80.0, "sharpen_pictures": 10_000, "adversarial": 0.0}
    rare = {"sheet_pictures": 10_000, "save_seconds": 1000.0}
    trainer = Trainer(plan(config, pictures=1280, batch=8, **quick, **rare), colours, tmp_path)
    trainer.run()
    distances = [step["distance"] for step in read_curve(tmp_path)]
    assert np.mean(distances[-10:]) < 0.5 * np.mean(distances[:5])
    crops = trainer.crops.batch(8, np.random.default_rng(1))
    with torch.no_grad():
        again = trainer.ema.reconstruct(trainer.ema.means(crops))
    colour = crops.mean(dim=(2, 3))
    assert colour.std(dim=0).max() > 0.3
    error = (again.mean(dim=(2, 3)) - colour).abs().mean()
    apart = (colour - colour.mean(dim=0)).abs().mean()
    assert error < 0.4 * apart


@pytest.mark.parametrize("config", [VAEConfig(**SHAPE), VQConfig(**SHAPE, codes=8)], ids=["vae", "vq"])
def test_a_run_that_is_killed_goes_on_to_the_same_state_bit_for_bit(
    config: VAEConfig | VQConfig, pictures: list[Image.Image], tmp_path: Path
) -> None:
    same_though_killed(lambda out: Trainer(plan(config), pictures, out), tmp_path)


def test_the_weights_are_the_averaged_network_and_load_by_their_header(
    pictures: list[Image.Image], tmp_path: Path
) -> None:
    trainer = Trainer(plan(), pictures, tmp_path)
    trainer.run()
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    family = family_of(header["family"])
    network = family.load(family.config(**json.loads(header["config"])), tensors)
    crops = trainer.crops.batch(2, np.random.default_rng(0))
    mean, _ = network.encode(crops)
    torch.testing.assert_close(network.decode(mean), trainer.ema.reconstruct(trainer.ema.means(crops)))
    assert any(not torch.equal(tensors[name], last) for name, last in trainer.bottleneck.network.state_dict().items())
    # Crops, reconstructions, a way between two, and two rows of samples.
    assert Image.open(tmp_path / "sheet_final.png").size == (8 * 8 + 7, 5 * 8 + 4)


def test_the_divergence_is_that_of_the_posterior_from_the_prior() -> None:
    torch.manual_seed(0)
    bottleneck = Gaussian(VAE(VAEConfig(**SHAPE)), beta=3.0)
    crops = torch.rand(4, 3, 8, 8) * 2 - 1
    mean, log_variance = bottleneck.network.encode(crops)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    expected = 3.0 * kl_divergence(posterior, Normal(0.0, 1.0)).sum() / crops.numel()
    _, penalties = bottleneck.encode(crops, torch.Generator().manual_seed(0))
    torch.testing.assert_close(penalties["divergence"], expected)


def test_latents_are_drawn_from_the_posterior_and_measured() -> None:
    torch.manual_seed(0)
    bottleneck = Gaussian(VAE(VAEConfig(**SHAPE)), beta=1.0)
    crops, rng = torch.rand(1, 3, 8, 8).expand(256, 3, 8, 8) * 2 - 1, torch.Generator().manual_seed(0)
    mean, log_variance = (tensor[0] for tensor in bottleneck.network.encode(crops[:1]))
    with torch.no_grad():
        drawn = torch.cat([bottleneck.encode(crops, rng)[0] for _ in range(10)])
    torch.testing.assert_close(drawn.mean(dim=0), mean, atol=0.1, rtol=0.0)
    torch.testing.assert_close(drawn.std(dim=0), (0.5 * log_variance).exp(), atol=0.1, rtol=0.0)
    with torch.no_grad():
        for _ in range(700):
            bottleneck._measure(drawn)
    network = bottleneck.network
    torch.testing.assert_close(network.latent_mean.flatten(), drawn.mean(dim=(0, 2, 3)), atol=1e-2, rtol=0.0)
    torch.testing.assert_close(network.latent_std.flatten(), drawn.std(dim=(0, 2, 3)), atol=1e-2, rtol=1e-2)
    samples = bottleneck.sample(500, rng)
    torch.testing.assert_close(samples.std(dim=(0, 2, 3)), network.latent_std.flatten(), atol=0.0, rtol=0.1)


def test_a_codebooks_gradient_goes_straight_through() -> None:
    torch.manual_seed(0)
    bottleneck = Codebook(VQ(VQConfig(**SHAPE, codes=8)))
    bottleneck.usage.fill_(1.0)
    crops = torch.rand(4, 3, 8, 8) * 2 - 1
    quantised, penalties = bottleneck.encode(crops, torch.Generator())
    latents, network = bottleneck.network.encode(crops), bottleneck.network
    nearest = torch.cdist(latents.permute(0, 2, 3, 1).flatten(0, 2), network.codebook).argmin(dim=1)
    entries = network.codebook[nearest].reshape(4, 2, 2, -1).permute(0, 3, 1, 2)
    torch.testing.assert_close(quantised, entries)
    torch.testing.assert_close(penalties["quantisation"], 1.25 * (latents - entries).square().mean())
    (gradient,) = torch.autograd.grad(quantised.sum(), network.encoder.layers[-1].bias)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 16.0))


def test_a_code_that_is_not_used_becomes_a_latent() -> None:
    torch.manual_seed(0)
    bottleneck = Codebook(VQ(VQConfig(**SHAPE, codes=3)))
    bottleneck.usage.copy_(torch.tensor([1.0, 0.0, 1.0]))
    before, latents = bottleneck.network.codebook.detach().clone(), torch.randn(4, 16, 2, 2)
    bottleneck._restart(latents, torch.Generator().manual_seed(0))
    after = bottleneck.network.codebook.detach()
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    rows = latents.permute(0, 2, 3, 1).flatten(0, 2)
    assert (rows == after[1]).all(dim=1).sum() == 1
    assert bottleneck.usage.tolist() == [1.0, 1.0, 1.0]


def test_a_run_may_go_on_at_another_learning_rate(pictures: list[Image.Image], tmp_path: Path) -> None:
    trainer = Trainer(plan(), pictures, tmp_path)
    trainer.run(stop=lambda: trainer.seen >= 8)
    again = Trainer(plan(learning_rate=5e-5), pictures, tmp_path)
    assert again.seen == 8
    assert all(getattr(again, name).param_groups[0]["lr"] == 5e-5 for name in ("optimizer",))


def test_a_folder_that_holds_another_run_is_refused(pictures: list[Image.Image], tmp_path: Path) -> None:
    trainer = Trainer(plan(), pictures, tmp_path)
    trainer.run(stop=lambda: trainer.seen >= 8)
    for other in (plan(VQConfig(**SHAPE, codes=8)), plan(adversarial=0.0)):
        with pytest.raises(ValueError, match="state of another network"):
            Trainer(other, pictures, tmp_path)
    (tmp_path / "state.pt").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match=r"out: .*state\.pt is no state that can be read"):
        Trainer(plan(), pictures, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": -1.0}, r"beta: found -1\.0; allowed is 0 or more"),
        ({"adversarial": -1.0}, r"adversarial: found -1\.0; allowed is 0 or more"),
        ({"learning_rate": 0.0}, r"learning_rate: found 0\.0; allowed is more than 0"),
        ({"config": VAEConfig(**SHAPE, img_channels=1)}, "img_channels: found 1; allowed is 3"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        plan(**changes)


@pytest.mark.parametrize(("more", "family"), [((), "vae"), (("--codebook", "8", "--adversarial", "0"), "vq")])
def test_the_command_trains_and_names_the_weights(
    more: tuple[str, ...], family: str, pictures: list[Image.Image], tmp_path: Path
) -> None:
    pictures[0].resize((64, 64)).save(tmp_path / "picture.png")
    (tmp_path / "broken.png").write_bytes(b"")
    shape = ("--resolution", "16", "--channels", "8", "--most-channels", "16", "--threads", "1")
    lengths = ("--pictures", "4", "--batch", "4", "--beta", "0.5")
    command = ["train", "vae", "--data", str(tmp_path), "--out", str(tmp_path / "run"), *shape, *lengths, *more]
    result = CliRunner().invoke(app, command)
    weights = tmp_path / "run" / "weights.safetensors"
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{weights}\n"
    assert "broken.png: found an empty file" in result.stderr.replace("\n", "")
    assert "next: impasto import" in result.stderr
    with safe_open(weights, "pt") as file:
        assert file.metadata()["family"] == family


def test_a_command_that_cannot_start_says_why_in_one_line(pictures: list[Image.Image], tmp_path: Path) -> None:
    pictures[0].resize((64, 64)).save(tmp_path / "picture.png")
    command = ["train", "vae", "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--resolution", "20"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("impasto: resolution: found 20; allowed is a power of two")
