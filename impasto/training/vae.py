"""Train an autoencoder on crops of pictures: a VAE, or a VQ-VAE.

Pictures are compared pixel by pixel, by layout and by strokes. A discriminator compares them too, and judges pictures
of random latents beside the reconstructions: so both are sharp (VAE/GAN, Larsen et al. 2016, "Autoencoding beyond
pixels using a learned similarity metric"; a discriminator of patches over a small latent map: Esser et al. 2021,
"Taming transformers for high-resolution image synthesis").
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
from impasto.generators.vae import VAE, VAEConfig
from impasto.generators.vq import VQ, VQConfig
from impasto.training.bottlenecks import Codebook, Gaussian
from impasto.training.crops import Crops
from impasto.training.discriminator import (
    Discriminator,
    Judgement,
    adversarial_loss,
    judge,
    r1_gamma,
    step_discriminator,
)
from impasto.training.likeness import layout_distance, stroke_distance, texture_distance
from impasto.training.loop import Losses, Report, Stop, sheet_of, train
from impasto.training.networks import average, placed
from impasto.training.state import read_state, replaced, restore, save_state

PIXELS, LAYOUT, STROKES, TEXTURE = 4.0, 2.0, 0.1, 0.1
"""Weights of the distances; that of the discriminator's verdict is in the plan."""
DISCRIMINATOR_RATE = 4e-3
SHEET_COLUMNS = 8


@dataclasses.dataclass(frozen=True)
class VAEPlan:
    """What to train and for how long. Sizes in pixels, lengths in pictures seen.

    A VQConfig makes it a VQ-VAE, for which `beta`, the weight of the divergence, means nothing. `adversarial` is the
    weight of the discriminator's verdict; with 0 there is no discriminator. What makes pictures sharp, it and the
    distance of strokes, comes in over the first `sharpen_pictures`, when layout and colours have been learnt.
    InvalidRequest if a value does not fit.
    """

    config: VAEConfig | VQConfig
    pictures: int = 150_000
    batch: int = 16
    crop: tuple[int, int] = (112, 224)
    mirror: bool = True
    beta: float = 0.2
    adversarial: float = 0.1
    sharpen_pictures: int = 8_000
    learning_rate: float = 1e-3
    channel_base: int = 1024
    channel_max: int = 128
    r1_interval: int = 16
    ema_pictures: float = 5_000.0
    bfloat16: bool = True
    seed: int = 0
    sheet_pictures: int = 10_000
    save_seconds: float = 120.0

    def __post_init__(self) -> None:
        if self.config.img_channels != 3:
            raise InvalidRequest("img_channels", self.config.img_channels, "3: crops have colour")
        for name in ("beta", "adversarial"):
            if getattr(self, name) < 0.0:
                raise InvalidRequest(name, getattr(self, name), "0 or more")
        if self.learning_rate <= 0.0:
            raise InvalidRequest("learning_rate", self.learning_rate, "more than 0")

    @property
    def network(self) -> dict[str, object]:
        """What must be equal for a state to fit."""
        judges = self.adversarial > 0.0
        discriminator = [self.channel_base, self.channel_max] if judges else None
        return {"family": type(self.config).__name__, **dataclasses.asdict(self.config), "discriminator": discriminator}


class Trainer:
    """One run in one folder: `run()` goes on from the last saved state and returns when all pictures are seen."""

    def __init__(self, plan: VAEPlan, pictures: Sequence[Image.Image], out: Path, device: str = "cpu") -> None:
        self.plan = plan
        self.out = out
        self.device = torch.device(device)
        self.pictures = pictures
        self.seen = 0
        out.mkdir(parents=True, exist_ok=True)
        saved = read_state(out, {"network": plan.network}, self.stateful, plan.pictures)
        self.crops = Crops(pictures, plan.config.resolution, plan.crop, mirror=plan.mirror)
        self.data_rng = np.random.default_rng(plan.seed)
        self.rng = torch.Generator().manual_seed(plan.seed)
        torch.manual_seed(plan.seed)
        self.bottleneck = placed(_build(plan), self.device)
        self.ema = copy.deepcopy(self.bottleneck).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.bottleneck.network.parameters(), plan.learning_rate, betas=(0.5, 0.99))
        if plan.adversarial:
            discriminator = Discriminator(plan.config.resolution, plan.channel_base, plan.channel_max)
            self.discriminator = placed(discriminator, self.device)
            self.optimizer_d = torch.optim.Adam(discriminator.parameters(), DISCRIMINATOR_RATE, betas=(0.0, 0.99))
        if saved:
            restore(self, saved)
            self.optimizer.param_groups[0]["lr"] = plan.learning_rate

    @property
    def stateful(self) -> tuple[str, ...]:
        judges = ("discriminator", "optimizer_d") if self.plan.adversarial else ()
        return ("bottleneck", "ema", "optimizer", *judges)

    def run(self, report: Report = lambda progress: None, stop: Stop = lambda: False) -> None:
        """Train to the end, or until `stop` is true: `impasto.training.loop.train`."""
        train(self, report, stop)

    def step(self) -> Losses:
        plan = self.plan
        real = self.crops.batch(plan.batch, self.data_rng).to(self.device, memory_format=torch.channels_last)
        judged = self._judge(real) if plan.adversarial else None
        fake, losses = self._step_autoencoder(real, judged)
        if judged:
            losses["loss_d"] = self._step_discriminator(real, judged, fake)
        self.seen += plan.batch
        average(self.ema, self.bottleneck, self.seen, plan.batch, plan.ema_pictures)
        return losses

    def save(self) -> None:
        save_state(self, {"network": self.plan.network})

    def write(self) -> Path:
        """Write the averaged network as `weights.safetensors` with its family and hyperparameters in the header."""
        path = self.out / "weights.safetensors"
        with replaced(path) as part:
            save_weights(part, self.bottleneck.family, self.plan.config, self.ema.network.state_dict())
        return path

    @torch.no_grad()
    def sheet(self) -> Image.Image:
        """Rows of pictures by the averaged network: crops, their reconstructions, a way between two; samples."""
        columns = SHEET_COLUMNS
        crops = self.crops.batch(columns, np.random.default_rng(0)).to(self.device)
        latents = self.ema.means(crops)
        way = torch.stack([latents[0].lerp(latents[1], blend) for blend in torch.linspace(0, 1, columns).tolist()])
        rows = [crops, *(self.ema.reconstruct(row) for row in (latents, way))]
        samples = self.ema.sample(2 * columns, torch.Generator().manual_seed(0))
        if samples is not None:
            rows.append(self.ema.network.decode(samples))
        return sheet_of(torch.cat(rows), columns)

    def _step_autoencoder(self, real: Tensor, judged: Judgement | None) -> tuple[Tensor, dict[str, float]]:
        """One step of encoder and decoder; the pictures that they made [M, 3, R, R], and their losses."""
        bottleneck, half = self.bottleneck, len(real) // 2
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.bfloat16):
            latents, penalties = bottleneck.encode(real, self.rng)
            sampled = bottleneck.sample(half, self.rng) if judged else None
            decoded = bottleneck.network.decode(latents if sampled is None else torch.cat([latents, sampled])).float()
        made = decoded[: len(real)]
        distance = self._distance(made, real)
        total = distance + sum(penalties.values())
        if judged:
            total = total + self._verdict(decoded, judged)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(bottleneck.network.parameters(), 1.0)
        self.optimizer.step()
        losses = {"loss": total, "distance": distance, **penalties}
        return decoded.detach(), {name: loss.item() for name, loss in losses.items()}

    def _distance(self, made: Tensor, real: Tensor) -> Tensor:
        """How far pictures are from the crops that they reconstruct."""
        pixels = (made - real).abs().mean()
        strokes = self._sharpening * stroke_distance(made, real)
        return PIXELS * pixels + LAYOUT * layout_distance(made, real) + STROKES * strokes

    def _verdict(self, decoded: Tensor, judged_real: Judgement) -> Tensor:
        """What the discriminator says of all that was decoded, and how it tells reconstructions from their crops."""
        self.discriminator.requires_grad_(False)
        judged = self._judge(decoded)
        self.discriminator.requires_grad_(True)
        theirs = [features.detach() for features in judged_real.features]
        ours = [features[: len(wanted)] for features, wanted in zip(judged.features, theirs, strict=True)]
        verdict = TEXTURE * texture_distance(ours, theirs) + self.plan.adversarial * adversarial_loss(judged, real=True)
        return self._sharpening * verdict

    @property
    def _sharpening(self) -> float:
        return min(self.seen / self.plan.sharpen_pictures, 1.0)

    def _step_discriminator(self, real: Tensor, judged_real: Judgement, fake: Tensor) -> float:
        """One step of the discriminator; its loss."""
        plan = self.plan
        penalised = self.seen // plan.batch % plan.r1_interval == 0
        r1 = r1_gamma(plan.config.resolution) / 2 * plan.r1_interval if penalised else 0.0
        return step_discriminator(self._judge, self.optimizer_d, real, judged_real, fake, r1)

    def _judge(self, pictures: Tensor) -> Judgement:
        return judge(self.discriminator, pictures, bfloat16=self.plan.bfloat16)


def _build(plan: VAEPlan) -> Gaussian | Codebook:
    if isinstance(plan.config, VQConfig):
        return Codebook(VQ(plan.config))
    return Gaussian(VAE(plan.config), plan.beta)
