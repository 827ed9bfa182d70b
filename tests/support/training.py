"""Runs that are killed, and what they leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from impasto.generators.residual import ResidualConfig
from impasto.generators.spade import SPADEConfig
from impasto.training.curve import read_curve
from impasto.training.image_to_image import ImageToImagePlan


class Killed(BaseException):
    pass


def kill_after(steps: int, trainer: Any) -> None:
    """Run some steps and die, as a kill does: with nothing saved since the last save."""
    step, left = trainer.step, iter(range(steps))

    def interrupted() -> Any:
        if next(left, None) is None:
            raise Killed
        return step()

    trainer.step = interrupted
    with pytest.raises(Killed):
        trainer.run()


def same_though_killed(
    build: Callable[[Path], Any], folder: Path, kills: tuple[int, ...] = (2, 3)
) -> list[dict[str, float]]:
    """Run the trainer of a folder to its end, and once more with kills, each after so many steps more; the curve.

    Asserts that both have the same state, bit for bit, and the same curve. The trainer saves after every step.
    """
    build(folder / "whole").run()
    for steps in kills:
        kill_after(steps, build(folder / "broken"))
    broken = build(folder / "broken")
    curve = read_curve(folder / "whole")
    assert broken.seen == curve[sum(kills) - 1]["seen"]
    broken.run()
    ours, theirs = (leaves(torch.load(folder / run / "state.pt")) for run in ("whole", "broken"))
    assert len(ours) == len(theirs) > 100
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(ours, theirs, strict=True))
    assert read_curve(folder / "broken") == curve
    return curve


def image_to_image_plan(config: ResidualConfig | SPADEConfig, **changes: Any) -> ImageToImagePlan:
    """A short run of a tiny network that saves after every step."""
    values: dict[str, Any] = {
        "resolution": 16,
        "pictures": 28,
        "batch": 4,
        "crop": (16, 24),
        "channel_base": 128,
        "channel_max": 8,
        "sheet_pictures": 20,
        "adversarial_from": 16,
        "r1_interval": 2,
        "bfloat16": False,
        "save_seconds": 0.0,
    }
    return ImageToImagePlan(config, **(values | changes))


def leaves(state: Any) -> list[Any]:
    """Every value of a state, dictionaries and lists taken apart."""
    if isinstance(state, dict):
        return [leaf for key in sorted(state, key=str) for leaf in leaves(state[key])]
    if isinstance(state, list | tuple):
        return [leaf for item in state for leaf in leaves(item)]
    return [state]
