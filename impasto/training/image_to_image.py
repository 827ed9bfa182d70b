"""Train a residual generator to paint: areas of flat colours in, the picture that they were made from out.

The pairs come from crops of pictures, each flattened by `flat_colours`. Where the strokes of a crop lie cannot be known
from its colours, so a picture made is held to the crop's layout and to the strength and direction of its strokes, and
a discriminator of patches judges the strokes themselves (Isola et al. 2017, "Image-to-image translation with
conditional adversarial networks"; feature matching: Wang et al. 2018, "High-resolution image synthesis and semantic
manipulation with conditional GANs", §3.3).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from impasto.errors import InvalidRequest
from impasto.generators.family import save_weights
from impasto.generators.residual import Residual, ResidualConfig
from impasto.training.crops import Crops
from impasto.training.discriminator import Discriminator, Judgement, adversarial_loss, r1_penalty
from impasto.training.flat_colours import random_flat_colours
from impasto.training.likeness import layout_distance, stroke_distance, texture_distance
from impasto.training.loop import Losses, Report, Stop, sheet_of, train
from impasto.training.networks import average, placed
from impasto.training.state import read_state, replaced, restore, save_state

PIXELS, LAYOUT, STROKES, TEXTURE = 1.0, 2.0, 0.5, 1.0
"""Weights of the distances; that of the discriminator's verdict is in the plan."""
DISCRIMINATOR_RATE = 2e-3
SHEET_COLUMNS = 6
LEAST = 16
"""Pixels of a crop: the discriminator judges patches of it."""


@dataclasses.dataclass(frozen=True)
class ImageToImagePlan:
    """What to train and for how long. Sizes in pixels, lengths in pictures seen.

    `adversarial` is the weight of the discriminator's verdict, which it has in full after `adversarial_from` pictures;
    `channel_base` and `channel_max` are the discriminator's. InvalidRequest if a value does not fit.
    """

    config: ResidualConfig
    resolution: int = 128
    pictures: int = 100_000
    batch: int = 8
    crop: tuple[int, int] = (128, 192)
    mirror: bool = True
    adversarial: float = 0.5
    adversarial_from: int = 4_000
    learning_rate: float = 1e-3
    channel_base: int = 1024
    channel_max: int = 128
    r1_interval: int = 16
    r1_gamma: float = 0.5
    ema_pictures: float = 3_000.0
    bfloat16: bool = True
    seed: int = 0
    sheet_pictures: int = 5_000
    save_seconds: float = 120.0

    def __post_init__(self) -> None:
        if self.resolution < LEAST or self.resolution.bit_count() != 1:
            raise InvalidRequest("resolution", self.resolution, f"a power of two from {LEAST} on")
        if self.adversarial <= 0.0:
            raise InvalidRequest("adversarial", self.adversarial, "more than 0")
        if self.learning_rate <= 0.0:
            raise InvalidRequest("learning_rate", self.learning_rate, "more than 0")

    @property
    def network(self) -> dict[str, object]:
        """What must be equal for a state to fit."""
        sizes = {"resolution": self.resolution, "discriminator": [self.channel_base, self.channel_max]}
        return {"family": "residual", **dataclasses.asdict(self.config), **sizes}


class Trainer:
    """One run in one folder: `run()` goes on from the last saved state and returns when all pictures are seen."""

    stateful = ("generator", "ema", "optimizer", "discriminator", "optimizer_d")

    def __init__(self, plan: ImageToImagePlan, pictures: Sequence[Image.Image], out: Path, device: str = "cpu") -> None:
        self.plan = plan
        self.out = out
        self.device = torch.device(device)
        self.pictures = pictures
        self.seen = 0
        out.mkdir(parents=True, exist_ok=True)
        saved = read_state(out, {"network": plan.network}, self.stateful, plan.pictures)
        self.crops = Crops(pictures, plan.resolution, plan.crop, mirror=plan.mirror)
        self.data_rng = np.random.default_rng(plan.seed)
        self.rng = torch.Generator().manual_seed(plan.seed)
        torch.manual_seed(plan.seed)
        self.generator = placed(Residual(plan.config), self.device)
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), plan.learning_rate, betas=(0.5, 0.99))
        discriminator = Discriminator(plan.resolution, plan.channel_base, plan.channel_max)
        self.discriminator = placed(discriminator, self.device)
        self.optimizer_d = torch.optim.Adam(discriminator.parameters(), DISCRIMINATOR_RATE, betas=(0.0, 0.99))
        if saved:
            restore(self, saved)

    def run(self, report: Report = lambda progress: None, stop: Stop = lambda: False) -> None:
        """Train to the end, or until `stop` is true: `impasto.training.loop.train`."""
        train(self, report, stop)

    def step(self) -> Losses:
        plan = self.plan
        flat, real = self._pairs(plan.batch, self.data_rng)
        judged = self._judge(real)
        made, losses = self._step_generator(flat, real, judged)
        losses["loss_d"] = self._step_discriminator(real, judged, made)
        self.seen += plan.batch
        average(self.ema, self.generator, self.seen, plan.batch, plan.ema_pictures)
        return losses

    def save(self) -> None:
        save_state(self, {"network": self.plan.network})

    def write(self) -> Path:
        """Write the averaged network as `weights.safetensors` with its family and hyperparameters in the header."""
        path = self.out / "weights.safetensors"
        with replaced(path) as part:
            save_weights(part, "residual", self.plan.config, self.ema.state_dict())
        return path

    @torch.no_grad()
    def sheet(self) -> Image.Image:
        """Rows of pictures, twice: flat colours, what the averaged network paints of them, the crops they are of."""
        rows = []
        for seed in (0, 1):
            flat, real = self._pairs(SHEET_COLUMNS, np.random.default_rng(seed))
            rows += [flat, self.ema(self._with_noise(flat, torch.Generator().manual_seed(seed))), real]
        return sheet_of(torch.cat(rows), SHEET_COLUMNS)

    def _pairs(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Flat colours and the crops that they are of, both [N, 3, R, R] in [-1, 1]."""
        real = self.crops.batch(count, rng)
        pixels = ((real + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        flat = torch.from_numpy(np.stack([random_flat_colours(crop, rng) for crop in pixels])).permute(0, 3, 1, 2)
        pair = flat.float() / 127.5 - 1.0, real
        on_device = [pictures.to(self.device, memory_format=torch.channels_last) for pictures in pair]
        return on_device[0], on_device[1]

    def _with_noise(self, flat: Tensor, rng: torch.Generator) -> Tensor:
        """Flat colours with noise beside them, evenly from -1 to 1: what the network takes."""
        shape = (len(flat), self.plan.config.noise, *flat.shape[2:])
        noise = torch.rand(shape, generator=rng).to(flat.device) * 2.0 - 1.0
        return torch.cat([flat, noise], dim=1).contiguous(memory_format=torch.channels_last)

    def _step_generator(self, flat: Tensor, real: Tensor, judged_real: Judgement) -> tuple[Tensor, dict[str, float]]:
        """One step of the generator; the pictures that it made, and its losses."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.bfloat16):
            made = self.generator(self._with_noise(flat, self.rng)).float()
        self.discriminator.requires_grad_(False)
        judged = self._judge(made)
        self.discriminator.requires_grad_(True)
        verdict = adversarial_loss(judged, real=True)
        distance = PIXELS * (made - real).abs().mean() + LAYOUT * layout_distance(made, real)
        distance = distance + STROKES * stroke_distance(made, real)
        distance = distance + TEXTURE * texture_distance(judged.features, [f.detach() for f in judged_real.features])
        total = distance + self.plan.adversarial * min(self.seen / self.plan.adversarial_from, 1.0) * verdict
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.generator.parameters(), 1.0)
        self.optimizer.step()
        return made.detach(), {"distance": distance.item(), "loss_g": verdict.item()}

    def _step_discriminator(self, real: Tensor, judged_real: Judgement, made: Tensor) -> float:
        """One step of the discriminator; its loss."""
        plan = self.plan
        loss = adversarial_loss(judged_real, real=True) + adversarial_loss(self._judge(made), real=False)
        total = loss
        if self.seen // plan.batch % plan.r1_interval == 0:
            total = total + r1_penalty(self._judge, real) * (plan.r1_gamma / 2 * plan.r1_interval)
        self.optimizer_d.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer_d.step()
        return loss.item()

    def _judge(self, pictures: Tensor) -> Judgement:
        dtype = torch.bfloat16 if self.plan.bfloat16 else torch.float32
        judged: Judgement = self.discriminator(pictures.contiguous(memory_format=torch.channels_last), dtype)
        return judged
