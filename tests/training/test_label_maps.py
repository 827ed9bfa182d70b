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
from impasto.generators.spade import SPADEConfig
from impasto.training.curve import read_curve
from impasto.training.image_to_image import ImageToImagePlan, Trainer
from impasto.training.label_maps import LabelMaps, common_colours, label_map
from tests.support.image_to_image import scene
from tests.support.training import image_to_image_plan, same_though_killed

CONFIG = SPADEConfig(classes=6, channels=4, ups=1, hidden=8, z_dim=3)
COLOURS = np.array([[10, 10, 60], [40, 120, 40], [200, 60, 30], [240, 240, 220]], np.float32)


def plan(config: SPADEConfig = CONFIG, **changes: Any) -> ImageToImagePlan:
    return image_to_image_plan(config, **changes)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.fromarray(scene(64, 48))]


def colours_of(pictures: torch.Tensor) -> np.ndarray[Any, Any]:
    """The different colours of pictures [N, 3, R, R] in [-1, 1], 0 to 255."""
    return np.unique(((pictures + 1.0) * 127.5).round().permute(0, 2, 3, 1).reshape(-1, 3).numpy(), axis=0)


def test_common_colours_are_those_that_pixels_lie_around_from_dark_to_light() -> None:
    rng = np.random.default_rng(1)
    pixels = rng.permutation(COLOURS).repeat(200, axis=0) + rng.integers(-8, 9, (800, 3))
    found = common_colours(pixels.astype(np.uint8), 4)
    np.testing.assert_allclose(found, COLOURS, atol=1.5)
    assert np.array_equal(found, found.round())
    assert np.array_equal(common_colours(pixels.astype(np.uint8), 4), found)


def test_more_labels_than_there_are_colours_are_refused() -> None:
    assert np.array_equal(common_colours(COLOURS.astype(np.uint8), 4), COLOURS)
    with pytest.raises(InvalidRequest, match="labels: found 5; allowed is 4 or fewer: the pictures have no more"):
        common_colours(COLOURS.astype(np.uint8), 5)


def test_a_label_map_has_the_nearest_colours_without_what_is_finer_than_the_brush() -> None:
    picture = np.empty((32, 32, 3), np.uint8)
    picture[:, :16], picture[:, 16:] = COLOURS[1], COLOURS[2]
    picture[8, 4] = picture[20, 25] = COLOURS[0]
    labels = label_map(picture + np.random.default_rng(0).integers(0, 9, picture.shape, np.uint8), COLOURS, blur=1.0)
    assert labels.shape == (32, 32)
    assert (labels[:, :14] == 1).all()
    assert (labels[:, 18:] == 2).all()


def test_what_is_drawn_of_crops_are_colours_of_the_palette_and_their_labels(
    pictures: list[Image.Image], tmp_path: Path
) -> None:
    trainer = Trainer(plan(), pictures, tmp_path)
    assert isinstance(trainer.condition, LabelMaps)
    palette = trainer.condition.network.palette
    drawn, real = trainer._pairs(8, np.random.default_rng(0))
    assert {*map(tuple, colours_of(drawn))} <= {*map(tuple, palette.tolist())}
    assert len(colours_of(drawn)) >= 4
    assert len(colours_of(real)) > 500
    labels, z = trainer.condition.inputs(drawn, torch.Generator().manual_seed(0))
    assert labels.shape == (8, CONFIG.classes, 16, 16)
    assert z.shape == (8, CONFIG.z_dim)
    assert torch.equal(labels.sum(dim=1), torch.ones(8, 16, 16))
    painted = torch.einsum("nlhw,lc->nchw", labels, palette)
    torch.testing.assert_close(painted, (drawn + 1.0) * 127.5, atol=1e-3, rtol=0.0)
    # Regions, not grain: few places differ from the one beside them.
    assert (drawn[..., 1:] != drawn[..., :-1]).any(dim=1).float().mean() < 0.2
    torch.testing.assert_close(drawn.mean(), real.mean(), atol=0.1, rtol=0.0)


def test_it_learns_to_paint(pictures: list[Image.Image], tmp_path: Path) -> None:
    quick: dict[str, Any] = {"ema_pictures": 60.0, "save_seconds": 1e3, "sheet_pictures": 10**6}
    trainer = Trainer(plan(pictures=320, batch=8, **quick), pictures, tmp_path)
    trainer.run()
    distances = [step["distance"] for step in read_curve(tmp_path)]
    assert np.mean(distances[-20:]) < 0.85 * np.mean(distances[:10])
    drawn, real = trainer._pairs(16, np.random.default_rng(1))
    with torch.no_grad():
        made = trainer.ema(*trainer.condition.inputs(drawn, torch.Generator().manual_seed(1)))
    assert (made - real).abs().mean() < 0.8 * (real.mean(dim=(0, 2, 3), keepdim=True) - real).abs().mean()


def test_a_run_that_is_killed_goes_on_to_the_same_state_bit_for_bit(
    pictures: list[Image.Image], tmp_path: Path
) -> None:
    same_though_killed(lambda out: Trainer(plan(), pictures, out), tmp_path)


def test_a_run_that_goes_on_keeps_its_palette_whatever_the_pictures_are(
    pictures: list[Image.Image], tmp_path: Path
) -> None:
    first = Trainer(plan(), pictures, tmp_path)
    first.run(stop=lambda: first.seen > 0)
    again = Trainer(plan(), [Image.fromarray(255 - scene(64, 48))], tmp_path)
    assert torch.equal(again.generator.get_buffer("palette"), first.generator.get_buffer("palette"))


def test_a_crop_smaller_than_the_smallest_map_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="resolution: found 16; allowed is 32 or more for 5 ups"):
        plan(SPADEConfig(classes=6, channels=4, ups=5, hidden=8))


def test_the_command_trains_and_leaves_weights_and_the_palette_to_paint_with(
    pictures: list[Image.Image], tmp_path: Path
) -> None:
    pictures[0].save(tmp_path / "picture.png")
    out = tmp_path / "run"
    shape = ("--labels", "5", "--resolution", "16", "--channels", "4", "--threads", "1")
    command = ["train", "image-to-image", "--data", str(tmp_path / "picture.png"), "--out", str(out), *shape]
    result = CliRunner().invoke(app, [*command, "--pictures", "4", "--batch", "4"])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out / 'weights.safetensors'}\n"
    with safe_open(out / "weights.safetensors", "pt") as file:
        header, palette = file.metadata(), file.get_tensor("palette")
    assert header["family"] == "spade"
    assert json.loads(header["config"]) == {"classes": 5, "channels": 4, "ups": 1, "hidden": 8, "z_dim": 16}
    title, _, _, *colours = (out / "palette.gpl").read_text().splitlines()
    assert title == "GIMP Palette"
    assert colours == [f"{r:.0f} {g:.0f} {b:.0f}\t{label}" for label, (r, g, b) in enumerate(palette.tolist())]
    # Twice label maps in the palette's colours, what is painted of them, and the crops.
    sheet = np.asarray(Image.open(out / "sheet_final.png").convert("RGB"))
    assert sheet.shape == (6 * 16 + 5, 6 * 16 + 5, 3)
    assert {*map(tuple, sheet[:16, :16].reshape(-1, 3).tolist())} <= {*map(tuple, palette.int().tolist())}
