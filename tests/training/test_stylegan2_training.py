from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from impasto.generators.stylegan2 import StyleGAN2
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.kernels import upfirdn
from impasto.training import discriminator
from impasto.training.augment import MAX_PROBABILITY, adapt, augment
from impasto.training.crops import Crops
from impasto.training.discriminator import adversarial_loss
from impasto.training.pictures import read_pictures
from impasto.training.stylegan2 import Trainer, TrainingPlan
from tests.support.training import kill_after

CONFIG = StyleGAN2Config(resolution=16, z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, channel_max=8)


def plan(**changes: object) -> TrainingPlan:
    values = {
        "pictures": 96,
        "batch": 4,
        "crop": (16, 32),
        "grow_from": 8,
        "grow_pictures": 32,
        "sheet_pictures": 64,
        "bfloat16": False,
        "save_seconds": 0.0,
    }
    return TrainingPlan(CONFIG, **(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8))]


def test_a_run_grows_writes_sheets_and_weights_that_load(pictures: list[Image.Image], tmp_path: Path) -> None:
    resolutions = []
    trainer = Trainer(plan(), pictures, tmp_path)
    resolutions.append(trainer.resolution)
    trainer.run()
    assert resolutions == [8]
    assert trainer.resolution == 16
    assert trainer.seen == 96
    assert Image.open(tmp_path / "sheet_final.png").size == (4 * 16 + 3, 4 * 16 + 3)
    generator = StyleGAN2(CONFIG)
    generator.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert all(torch.isfinite(tensor).all() for tensor in generator.state_dict().values())


def test_a_run_that_is_broken_off_goes_on_to_the_same_weights(pictures: list[Image.Image], tmp_path: Path) -> None:
    Trainer(plan(), pictures, tmp_path / "whole").run()
    for steps in (2, 3, 7):
        kill_after(steps, Trainer(plan(), pictures, tmp_path / "broken"))
    Trainer(plan(), pictures, tmp_path / "broken").run()
    whole, broken = (load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "broken"))
    for name, tensor in whole.items():
        torch.testing.assert_close(broken[name], tensor, atol=1e-6, rtol=1e-5)


def test_a_folder_that_holds_another_run_is_refused(pictures: list[Image.Image], tmp_path: Path) -> None:
    Trainer(plan(), pictures, tmp_path).run()
    with pytest.raises(ValueError, match="state of another network"):
        Trainer(TrainingPlan(dataclasses.replace(CONFIG, z_dim=9)), pictures, tmp_path)
    with pytest.raises(ValueError, match=r"pictures: found 50; the run in .* has already seen 96"):
        Trainer(plan(pictures=50), pictures, tmp_path)


def test_the_discriminator_learns_to_tell_noise_from_grey(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = discriminator.Discriminator(16, 128, 8)
    optimizer = torch.optim.Adam(model.parameters(), 2.5e-3, betas=(0.0, 0.99))
    for _ in range(80):
        real, fake = torch.randn(8, 3, 16, 16), torch.zeros(8, 3, 16, 16)
        loss = adversarial_loss(model(real), real=True) + adversarial_loss(model(fake), real=False)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    noise, grey = model(torch.randn(8, 3, 16, 16)), model(torch.zeros(8, 3, 16, 16))
    assert all((score > 0).float().mean() > 0.9 for score in (noise.whole, noise.patches))
    assert all((score < 0).all() for score in (grey.whole, grey.patches))


def test_a_grown_discriminator_begins_with_what_it_saw_before(pictures: list[Image.Image], tmp_path: Path) -> None:
    trainer = Trainer(plan(), pictures, tmp_path)
    batch = torch.randn(4, 3, 16, 16)
    halved = torch.nn.functional.avg_pool2d(batch, 2)
    before = trainer.discriminator(halved).whole
    trainer._grow(16)
    trainer.discriminator.fade = 0.0
    torch.testing.assert_close(trainer.discriminator(batch).whole, before)
    trainer.discriminator.fade = 0.5
    assert not torch.allclose(trainer.discriminator(batch).whole, before)


def test_each_stage_but_the_first_fades_in() -> None:
    long = plan(pictures=1000, grow_pictures=100, fade_pictures=50)
    assert [long.fade(seen) for seen in (0, 99, 100, 125, 150, 900)] == [1.0, 1.0, 0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("size", [1, 3])
def test_a_down_convolution_is_blur_then_convolution_with_stride_two(size: int) -> None:
    torch.manual_seed(size)
    layer = discriminator.Conv(3, 5, size, down=True, linear=True)
    x = torch.randn(2, 3, 8, 8)
    # The filter's 4 taps and the kernel together, padded so that 8 pixels become 4.
    pad = (size + 1) // 2
    blurred = upfirdn.reference(x, upfirdn.binomial_filter(), padding=(pad, pad))
    expected = torch.conv2d(blurred, layer.weight * layer.gain, stride=2)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    assert layer(x).shape == (2, 5, 4, 4)


def test_crops_are_not_mirrored_unless_wanted() -> None:
    gradient = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (48, 1, 3))
    batch = Crops([Image.fromarray(gradient)], 16, (16, 40), mirror=False).batch(32, np.random.default_rng(1))
    assert (batch[:, 0, 0, -1] > batch[:, 0, 0, 0]).all()


def test_layers_above_noise_to_get_no_noise(pictures: list[Image.Image], tmp_path: Path) -> None:
    trainer = Trainer(plan(noise_to=8), pictures, tmp_path)
    trainer.run()
    strengths = {name: p.abs() for name, p in trainer.ema.named_parameters() if name.endswith("noise_strength")}
    assert all((strength == 0) == ("b16" in name) for name, strength in strengths.items())


def test_a_run_that_goes_on_with_less_noise_silences_what_had_it(pictures: list[Image.Image], tmp_path: Path) -> None:
    Trainer(plan(), pictures, tmp_path).run()
    trainer = Trainer(plan(noise_to=8, pictures=104), pictures, tmp_path)
    trainer.run()
    for network in (trainer.generator, trainer.ema):
        strengths = {name: p for name, p in network.named_parameters() if name.endswith("noise_strength")}
        assert all((strength == 0) == ("b16" in name) for name, strength in strengths.items())


def test_the_state_of_an_older_trainer_is_refused(pictures: list[Image.Image], tmp_path: Path) -> None:
    Trainer(plan(), pictures, tmp_path).run()
    state = torch.load(tmp_path / "state.pt", weights_only=False)
    del state["encoder"]
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="without encoder, of an older trainer"):
        Trainer(plan(), pictures, tmp_path)


def test_a_run_needs_no_pairs(pictures: list[Image.Image], tmp_path: Path) -> None:
    trainer = Trainer(plan(paired=0.0), pictures, tmp_path)
    before = {name: tensor.clone() for name, tensor in trainer.encoder.state_dict().items()}
    trainer.run()
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.encoder.state_dict().items())


def test_crops_come_from_the_picture_at_its_scales() -> None:
    gradient = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (48, 1, 3))
    batch = Crops([Image.fromarray(gradient)], 16, (16, 40)).batch(32, np.random.default_rng(1))
    assert batch.shape == (32, 3, 16, 16)
    assert batch.min() >= -1.0
    assert batch.max() <= 1.0
    rising = batch[:, 0, 0, -1] > batch[:, 0, 0, 0]
    assert 4 < int(rising.sum()) < 28  # mirrored half of the time
    slopes = (batch[:, 0, 0, -1] - batch[:, 0, 0, 0]).abs()
    assert slopes.max() > 1.5 * slopes.min()


def test_a_picture_smaller_than_every_crop_is_refused(pictures: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="data: found no picture with both sides of 100 pixels or more"):
        Crops(pictures, 16, (100, 200))


def test_a_broken_file_is_skipped_and_named(pictures: list[Image.Image], tmp_path: Path) -> None:
    pictures[0].save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a picture")
    read, skipped = read_pictures(tmp_path)
    assert len(read) == 1
    assert sorted(Path(line.split(": ")[0]).name for line in skipped) == ["broken.png", "empty.jpg"]


def test_a_folder_of_small_pictures_is_refused_with_their_sizes(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    line = (
        r"both sides of 24 pixels or more, the smallest crop; .*small\.png: found 30×20 pixels; allowed are sides of 24"
    )
    with pytest.raises(ValueError, match=line):
        read_pictures(tmp_path, 24)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data: found no readable picture"):
        read_pictures(tmp_path)


def test_augmentation_with_probability_zero_changes_nothing_and_with_one_everything() -> None:
    rng = torch.Generator().manual_seed(0)
    batch = torch.randn(8, 3, 16, 16)
    assert augment(batch, 0.0, rng) is batch
    changed = augment(batch, 1.0, rng)
    assert changed.shape == batch.shape
    assert all(not torch.equal(changed[i], batch[i]) for i in range(8))


def test_augmentation_adapts_to_the_discriminators_certainty() -> None:
    assert adapt(0.1, 0.9, 1000) == pytest.approx(0.11)
    assert adapt(0.1, 0.2, 1000) == pytest.approx(0.09)
    assert adapt(0.0, 0.2, 1000) == 0.0
    assert adapt(MAX_PROBABILITY, 0.9, 1000) == MAX_PROBABILITY
