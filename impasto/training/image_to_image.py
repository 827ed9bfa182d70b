"""Train a generator to paint: what a person would draw in, the picture that it was made from out.

The pairs come from crops of pictures, each drawn as areas of flat colours for a residual generator, and as a label map
for SPADE. Where the strokes of a crop lie cannot be known from that, so a picture made is held to the crop's layout and
to the strength and direction of its strokes, and a discriminator of patches judges the strokes themselves (Isola et al.
2017, "Image-to-image translation with conditional adversarial networks"; feature matching: Wang et al. 2018,
"High-resolution image synthesis and semantic manipulation with conditional GANs", §3.3).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from impasto.errors import InvalidRequest
from impasto.generators.family import save_weights
from impasto.generators.residual import Residual, ResidualConfig
from impasto.generators.spade import SPADE, SPADEConfig
from impasto.images.pixels import Bytes
from impasto.training.crops import Crops
from impasto.training.discriminator import Discriminator, Judgement, adversarial_loss, judge, step_discriminator
from impasto.training.flat_colours import FlatColours
from impasto.training.label_maps import LabelMaps
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

    A SPADEConfig makes it SPADE. `adversarial` is the weight of the discriminator's verdict, which it has in full after
    `adversarial_from` pictures; `channel_base` and `channel_max` are the discriminator's. InvalidRequest if a value
    does not fit.
    """

    config: ResidualConfig | SPADEConfig
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
        if isinstance(self.config, SPADEConfig) and self.resolution < self.config.multiple:
            raise InvalidRequest(
                "resolution", self.resolution, f"{self.config.multiple} or more for {self.config.ups} ups"
            )
        if self.adversarial <= 0.0:
            raise InvalidRequest("adversarial", self.adversarial, "more than 0")
        if self.learning_rate <= 0.0:
            raise InvalidRequest("learning_rate", self.learning_rate, "more than 0")

    @property
    def family(self) -> str:
        return "spade" if isinstance(self.config, SPADEConfig) else "residual"

    @property
    def network(self) -> dict[str, object]:
        """What must be equal for a state to fit."""
        sizes = {"resolution": self.resolution, "discriminator": [self.channel_base, self.channel_max]}
        return {"family": self.family, **dataclasses.asdict(self.config), **sizes}


def spade_config(labels: int, resolution: int, channels: int) -> SPADEConfig:
    """SPADE with the proportions of the paper's, that begins at 8² places or more of a crop."""
    ups = max(1, min(5, (resolution // 8).bit_length() - 1))
    return SPADEConfig(labels, channels, ups, hidden=2 * channels, z_dim=16)


class Condition(Protocol):
    """What a generator makes pictures from, with that generator."""

    @property
    def network(self) -> nn.Module: ...

    def draw(self, crop: Bytes, rng: np.random.Generator) -> Bytes:
        """What a person would draw for a crop, both uint8 [R, R, 3]."""

    def inputs(self, drawn: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
        """What the network takes for drawn pictures [N, 3, R, R] in [-1, 1]."""

    def write(self, out: Path) -> None:
        """Write what a person needs to draw so beside the weights."""


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
        self.condition = _condition(plan, self.crops)
        self.generator = placed(self.condition.network, self.device)
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
        drawn, real = self._pairs(plan.batch, self.data_rng)
        judged = self._judge(real)
        made, losses = self._step_generator(drawn, real, judged)
        losses["loss_d"] = self._step_discriminator(real, judged, made)
        self.seen += plan.batch
        average(self.ema, self.generator, self.seen, plan.batch, plan.ema_pictures)
        return losses

    def save(self) -> None:
        save_state(self, {"network": self.plan.network})

    def write(self) -> Path:
        """Write the averaged network as `weights.safetensors` with its family and hyperparameters in the header."""
        self.condition.write(self.out)
        path = self.out / "weights.safetensors"
        with replaced(path) as part:
            save_weights(part, self.plan.family, self.plan.config, self.ema.state_dict())
        return path

    @torch.no_grad()
    def sheet(self) -> Image.Image:
        """Rows of pictures, twice: what is drawn, what the averaged network paints of it, the crops it is of."""
        rows = []
        for seed in (0, 1):
            drawn, real = self._pairs(SHEET_COLUMNS, np.random.default_rng(seed))
            rows += [drawn, self.ema(*self.condition.inputs(drawn, torch.Generator().manual_seed(seed))), real]
        return sheet_of(torch.cat(rows), SHEET_COLUMNS)

    def _pairs(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """What is drawn and the crops that it is of, both [N, 3, R, R] in [-1, 1]."""
        real = self.crops.batch(count, rng)
        pixels = ((real + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        drawn = torch.from_numpy(np.stack([self.condition.draw(crop, rng) for crop in pixels])).permute(0, 3, 1, 2)
        pair = drawn.float() / 127.5 - 1.0, real
        on_device = [pictures.to(self.device, memory_format=torch.channels_last) for pictures in pair]
        return on_device[0], on_device[1]

    def _step_generator(self, drawn: Tensor, real: Tensor, judged_real: Judgement) -> tuple[Tensor, dict[str, float]]:
        """One step of the generator; the pictures that it made, and its losses."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.bfloat16):
            made = self.generator(*self.condition.inputs(drawn, self.rng)).float()
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
        penalised = self.seen // plan.batch % plan.r1_interval == 0
        r1 = plan.r1_gamma / 2 * plan.r1_interval if penalised else 0.0
        return step_discriminator(self._judge, self.optimizer_d, real, judged_real, made, r1)

    def _judge(self, pictures: Tensor) -> Judgement:
        return judge(self.discriminator, pictures, bfloat16=self.plan.bfloat16)


def _condition(plan: ImageToImagePlan, crops: Crops) -> Condition:
    if isinstance(plan.config, SPADEConfig):
        return LabelMaps(SPADE(plan.config), crops)
    return FlatColours(Residual(plan.config))
