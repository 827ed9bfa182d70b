"""Trains a tiny model of every trainer twice: once unbroken, once killed at random points and begun again each time.

Run as `python -m tests.training.killed_runs OUT KILLS`; the runs are in OUT/NAME/whole and OUT/NAME/broken, and the
points of the kills, as (steps in the curve, event), on standard output as JSON. Each run is a fork of this process,
which has imported all that building a trainer imports, and has trained nothing.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers  # noqa: F401 (the forks must not import it each)
import numpy as np
import torch
from PIL import Image

from impasto.generators.gan import GANConfig
from impasto.generators.residual import ResidualConfig
from impasto.generators.spade import SPADEConfig
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.generators.vae import VAEConfig
from impasto.generators.vq import VQConfig
from impasto.training import diffusion, gan, image_to_image, stylegan2, vae
from impasto.training.curve import FILE

BATCH = 4
COMMON: dict[str, Any] = {
    "pictures": 30 * BATCH,
    "batch": BATCH,
    "crop": (16, 32),
    "sheet_pictures": 50,
    "save_seconds": 0.0,
    "bfloat16": False,
}
SHAPE: dict[str, Any] = {"resolution": 16, "channel_base": 8, "channel_max": 16}
STYLEGAN2 = StyleGAN2Config(resolution=32, z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, channel_max=8)
DISCRIMINATOR: dict[str, Any] = {"channel_base": 128, "channel_max": 8, "r1_interval": 3}

Pictures = Sequence[Image.Image]

TRAINERS: dict[str, Callable[[Pictures, Path], Any]] = {
    "stylegan2": lambda pictures, out: stylegan2.Trainer(
        stylegan2.TrainingPlan(STYLEGAN2, **COMMON, grow_from=8, grow_pictures=40, r1_interval=3), pictures, out
    ),
    "diffusion": lambda pictures, out: diffusion.Trainer(
        diffusion.DiffusionPlan(**COMMON | {"resolution": 16}, channels=(8, 8), attention=(8,), warm_up_pictures=40),
        pictures,
        out,
    ),
    "gan": lambda pictures, out: gan.Trainer(
        gan.GANPlan(GANConfig(**SHAPE, z_dim=8, c_dim=2, attention=8), **COMMON, classes=("a", "b")),
        pictures,
        out,
        labels=[0, 1],
    ),
    "vae": lambda pictures, out: vae.Trainer(
        vae.VAEPlan(VAEConfig(**SHAPE, latent_side=4), **COMMON, **DISCRIMINATOR, sharpen_pictures=40), pictures, out
    ),
    "image-to-image": lambda pictures, out: image_to_image.Trainer(
        image_to_image.ImageToImagePlan(
            ResidualConfig(channels=4, blocks=1), resolution=16, **COMMON, **DISCRIMINATOR, adversarial_from=40
        ),
        pictures,
        out,
    ),
    "label_maps": lambda pictures, out: image_to_image.Trainer(
        image_to_image.ImageToImagePlan(
            SPADEConfig(classes=6, channels=4, ups=1, hidden=8, z_dim=4),
            resolution=16,
            **COMMON,
            **DISCRIMINATOR,
            adversarial_from=40,
        ),
        pictures,
        out,
    ),
    "vq": lambda pictures, out: vae.Trainer(
        vae.VAEPlan(VQConfig(**SHAPE, latent_side=4, codes=8), **COMMON, adversarial=0.0), pictures, out
    ),
}


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(2)]


def begin(name: str, out: Path, events: int) -> int:
    """Fork a run that writes a byte to `events` whenever it begins a step, begins to save, and has saved."""
    if child := os.fork():
        return child
    try:
        trainer = TRAINERS[name](pictures(), out)
        step, save = trainer.step, trainer.save

        def told_step() -> Any:
            os.write(events, b"t")
            return step()

        def told_save() -> None:
            os.write(events, b"s")
            save()
            os.write(events, b"d")

        trainer.step, trainer.save = told_step, told_save
        trainer.run()
        os._exit(0)
    except BaseException as error:
        print(name, repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def kill_at_random(name: str, out: Path, rng: random.Random) -> tuple[int, str]:
    """Begin the run, let some events pass and a little time more, and kill it; where that was."""
    reader, writer = os.pipe()
    child = begin(name, out, writer)
    os.close(writer)
    last = b""
    for _ in range(rng.randrange(7)):
        last = os.read(reader, 1) or last
    time.sleep(rng.uniform(0.0, 0.004))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    curve = out / FILE
    return curve.read_bytes().count(b"\n") if curve.exists() else 0, last.decode()


def run_whole(name: str, out: Path) -> None:
    with Path(os.devnull).open("wb") as sink:
        _, status = os.waitpid(begin(name, out, sink.fileno()), 0)
    if status:
        raise SystemExit(f"{name}: a run ended with status {status}")


def main(out: Path, kills: int) -> None:
    torch.set_num_threads(1)
    points = {}
    for name, build in TRAINERS.items():
        build(pictures(), out / name / "built").sheet()
        rng = random.Random(name)
        run_whole(name, out / name / "whole")
        points[name] = [kill_at_random(name, out / name / "broken", rng) for _ in range(kills)]
        run_whole(name, out / name / "broken")
    print(json.dumps(points))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
