"""Train a small StyleGAN2 on crops of pictures.

Non-saturating loss, lazy R1 regularisation, exponential moving average, style mixing, adaptive augmentation, growing
from a low resolution. A part of each batch is made from the latents of real crops, and must be like them: the layout is
learnt from far fewer pictures then (VAE/GAN, Larsen et al. 2016, "Autoencoding beyond pixels using a learned similarity
metric").
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from impasto.errors import InvalidRequest
from impasto.generators.family import save_weights
from impasto.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from impasto.training.augment import adapt, augment
from impasto.training.crops import Crops
from impasto.training.discriminator import Discriminator, Judgement, adversarial_loss, r1_gamma, r1_penalty
from impasto.training.encoder import Encoder
from impasto.training.likeness import layout_distance, stroke_distance, texture_distance
from impasto.training.loop import Losses, Report, Stop, sheet_of, train
from impasto.training.networks import average, placed
from impasto.training.state import read_state, replaced, restore, save_state


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """What to train and for how long. Sizes in pixels, lengths in pictures shown to the discriminator.

    `paired` is the share of a batch that is made from real crops' latents. Layers above `noise_to` get no noise (None:
    all do): noise finer than a stroke makes dots, not strokes. InvalidRequest if a value does not fit.
    """

    config: StyleGAN2Config
    pictures: int = 150_000
    batch: int = 8
    crop: tuple[int, int] = (224, 448)
    mirror: bool = True
    paired: float = 0.5
    noise_to: int | None = None
    grow_from: int = 32
    grow_pictures: int = 24_000
    fade_pictures: int = 6_000
    learning_rate: float = 2.5e-3
    r1_interval: int = 16
    r1_gamma: float | None = None
    ema_pictures: float = 5_000.0
    mixing: float = 0.5
    augment: bool = True
    bfloat16: bool = True
    seed: int = 0
    sheet_pictures: int = 5_000
    save_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name, side in (("resolution", self.config.resolution), ("grow_from", self.grow_from)):
            if side < SMALLEST:
                raise InvalidRequest(name, side, f"{SMALLEST} or more: the discriminator judges patches")

    def stages(self) -> list[tuple[int, int]]:
        """(resolution, pictures at which it ends), low to high; each lower resolution lasts `grow_pictures`."""
        resolutions = [r for r in self.config.resolutions if r >= min(self.grow_from, self.config.resolution)]
        ends = [self.grow_pictures * (index + 1) for index in range(len(resolutions) - 1)]
        return [*zip(resolutions[:-1], ends, strict=True), (resolutions[-1], self.pictures)]

    def fade(self, seen: int) -> float:
        """How far the discriminator's highest block is faded in after `seen` pictures, from 0 to 1."""
        ends = [0, *(end for _, end in self.stages()[:-1])]
        start = max(end for end in ends if end <= seen)
        return 1.0 if start == 0 else min((seen - start) / self.fade_pictures, 1.0)

    def stage(self, seen: int) -> int:
        """The resolution trained after `seen` pictures."""
        return next((resolution for resolution, end in self.stages() if seen < end), self.config.resolution)


class Trainer:
    """One run in one folder: `run()` goes on from the last saved state and returns when all pictures are seen."""

    stateful = ("generator", "discriminator", "encoder", "ema", "optimizer_g", "optimizer_d", "optimizer_e")

    def __init__(self, plan: TrainingPlan, pictures: Sequence[Image.Image], out: Path, device: str = "cpu") -> None:
        self.plan = plan
        self.out = out
        self.device = torch.device(device)
        self.pictures = pictures
        self.seen = 0
        self.augmentation = 0.0
        out.mkdir(parents=True, exist_ok=True)
        saved = read_state(out, {"config": dataclasses.asdict(plan.config)}, self.stateful, plan.pictures)
        torch.manual_seed(plan.seed)
        self.data_rng = np.random.default_rng(plan.seed)
        self.rng = torch.Generator().manual_seed(plan.seed)
        self.encoder = placed(Encoder(plan.config.z_dim, min(plan.config.channel_max, ENCODER_CHANNELS)), self.device)
        self.optimizer_e = torch.optim.Adam(self.encoder.parameters(), ENCODER_RATE, betas=(0.5, 0.99))
        self._build(saved["resolution"] if saved else plan.stage(0))
        if saved:
            restore(self, saved)
            self.steps, self.augmentation = saved["steps"], saved["augmentation"]
            self._limit_noise()

    def run(self, report: Report = lambda progress: None, stop: Stop = lambda: False) -> None:
        """Train to the end, or until `stop` is true: `impasto.training.loop.train`."""
        train(self, report, stop)

    def step(self) -> Losses:
        if (resolution := self.plan.stage(self.seen)) != self.resolution:
            self._grow(resolution)
        self.discriminator.fade = self.plan.fade(self.seen)
        loss_g, loss_d, real_sign = self._step()
        return {"loss_g": loss_g, "loss_d": loss_d, "real_sign": real_sign, "augmentation": self.augmentation}

    @torch.no_grad()
    def sheet(self, rows: int = 4) -> Image.Image:
        """A square sheet of the averaged generator's pictures for seeds 0, 1, …, each with noise of its own."""
        count = rows * rows
        z = np.concatenate([np.random.RandomState(seed).randn(1, self.plan.config.z_dim) for seed in range(count)])
        noise = torch.randn(count, self.ema.config.noise_size, generator=torch.Generator().manual_seed(0))
        latents = torch.from_numpy(z).float().to(self.device)
        return sheet_of(self.ema(latents, noise=noise.to(self.device)), rows)

    def write(self) -> Path:
        """Write the averaged generator as `weights.safetensors` with its hyperparameters in the header."""
        path = self.out / "weights.safetensors"
        with replaced(path) as part:
            save_weights(part, "stylegan2", self.ema.config, self.ema.state_dict())
        return path

    def save(self) -> None:
        more = {"config": dataclasses.asdict(self.plan.config), "resolution": self.resolution}
        save_state(self, {**more, "steps": self.steps, "augmentation": self.augmentation})

    @property
    def resolution(self) -> int:
        """The resolution trained now."""
        return int(self.generator.config.resolution)

    @property
    def batch(self) -> int:
        """The batch of this stage: a lower resolution takes twice that of the last."""
        return self.plan.batch * min(self.plan.config.resolution // self.resolution, 2)

    def _build(self, resolution: int) -> None:
        plan = self.plan
        # A run that goes on builds the last resolution only: its new layers must not depend on the others'.
        torch.manual_seed(plan.seed + resolution)
        levels = int(math.log2(resolution)) - 2
        config = dataclasses.replace(plan.config, resolution=resolution, num_fp16_res=levels)
        self.generator = placed(StyleGAN2(config), self.device)
        self.discriminator = placed(
            Discriminator(resolution, plan.config.channel_base, plan.config.channel_max), self.device
        )
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self._limit_noise()
        # Lazy regularisation runs once in r1_interval steps: Adam's constants are scaled to match.
        ratio = plan.r1_interval / (plan.r1_interval + 1)
        rate = plan.learning_rate
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), rate, betas=(0.0, 0.99))
        self.optimizer_d = torch.optim.Adam(
            self.discriminator.parameters(), rate * ratio, betas=(0.0, 0.99**ratio), eps=1e-8
        )
        self.crops = Crops(self.pictures, resolution, plan.crop, mirror=plan.mirror)
        self.steps = 0

    def _limit_noise(self) -> None:
        """Silence the layers above `noise_to` for good, also those that an earlier part of the run gave noise."""
        if self.plan.noise_to is None:
            return
        for network in (self.generator, self.ema):
            for name, parameter in network.named_parameters():
                if name.endswith("noise_strength") and _resolution_of(name) > self.plan.noise_to:
                    parameter.requires_grad_(False).zero_()

    def _grow(self, resolution: int) -> None:
        """Rebuild both networks at a higher resolution and take over every tensor that fits."""
        old_g, old_d, old_ema = self.generator, self.discriminator, self.ema
        self._build(resolution)
        top = getattr(self.generator.synthesis, f"b{resolution}")
        with torch.no_grad():
            top.torgb.weight.zero_()
        for new, old in ((self.generator, old_g), (self.ema, old_ema), (self.discriminator, old_d)):
            wanted = new.state_dict()
            kept = {k: v for k, v in old.state_dict().items() if k in wanted and wanted[k].shape == v.shape}
            new.load_state_dict({k: v for k, v in kept.items() if "_rgb" not in k}, strict=False)
        self.discriminator.previous_rgb.load_state_dict(old_d.from_rgb.state_dict())
        ema_top = getattr(self.ema.synthesis, f"b{resolution}")
        ema_top.load_state_dict(top.state_dict())

    def _step(self) -> tuple[float, float, float]:
        """One step of each network on one batch; (generator loss, discriminator loss, mean sign on real pictures)."""
        size = self.batch
        real = self.crops.batch(size, self.data_rng).to(self.device)
        fake, loss_g = self._step_generator(real)
        loss_d, sign = self._step_discriminator(real, fake)
        average(self.ema, self.generator, self.seen + size, size, self.plan.ema_pictures)
        if self.plan.augment:
            self.augmentation = adapt(self.augmentation, sign, size)
        self.seen += size
        self.steps += 1
        return loss_g, loss_d, sign

    def _step_generator(self, real: Tensor) -> tuple[Tensor, float]:
        """One step of the generator, and of the encoder; its pictures [N, 3, R, R], and its adversarial loss."""
        pairs = round(self.plan.paired * len(real))
        self.discriminator.requires_grad_(False)
        latents, divergence = self._latents(real[:pairs])
        fake = self._fake(len(real), latents)
        loss = adversarial_loss(self._judge(fake), real=True)
        total = loss + self._unlikeness(fake[:pairs], real[:pairs]) + DIVERGENCE * divergence if pairs else loss
        self.optimizer_g.zero_grad(set_to_none=True)
        self.optimizer_e.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.discriminator.requires_grad_(True)
        self._clean_and_step(self.generator, self.optimizer_g)
        self._clean_and_step(self.encoder, self.optimizer_e)
        return fake.detach(), loss.item()

    def _latents(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [n, z_dim] drawn from what the encoder makes of crops; its divergence from N(0, 1), nats a crop."""
        if not len(crops):
            return crops.new_empty(0, self.plan.config.z_dim), crops.new_zeros(())
        mean, log_variance = self.encoder(crops, self._dtype)
        spread = torch.randn(mean.shape, generator=self.rng).to(self.device)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1).mean()
        return mean + spread * (0.5 * log_variance).exp(), divergence

    def _unlikeness(self, made: Tensor, wanted: Tensor) -> Tensor:
        """How far pictures are from the crops whose latents they were made from."""
        with torch.no_grad():
            theirs = self.discriminator(wanted.contiguous(memory_format=torch.channels_last), self._dtype).features
        ours = self.discriminator(made.contiguous(memory_format=torch.channels_last), self._dtype).features
        strokes = stroke_distance(made.float(), wanted)
        return LAYOUT * layout_distance(made, wanted) + texture_distance(ours, theirs) + STROKES * strokes

    def _step_discriminator(self, real: Tensor, fake: Tensor) -> tuple[float, float]:
        """One step of the discriminator; its loss, and the mean sign of its scores of real pictures."""
        judged_real, judged_fake = self._judge(real), self._judge(fake)
        loss = adversarial_loss(judged_real, real=True) + adversarial_loss(judged_fake, real=False)
        total = loss
        if self.steps % self.plan.r1_interval == 0:
            total = total + self._r1(real) * self.plan.r1_interval
        self.optimizer_d.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self._clean_and_step(self.discriminator, self.optimizer_d)
        return loss.item(), judged_real.whole.detach().sign().mean().item()

    def _fake(self, size: int, latents: Tensor) -> Tensor:
        """Pictures in training: of these latents [n, z_dim], and of random ones, with styles mixed now and then."""
        generator, config, given = self.generator, self.generator.config, len(latents)
        z = torch.randn(2, size, config.z_dim, generator=self.rng).to(self.device)
        w = generator.mapping(torch.cat([latents, z[0, given:]]))
        with torch.no_grad():
            generator.mapping.w_avg.lerp_(w.detach().mean(dim=0), 0.005)
        ws = w[:, None].expand(-1, config.num_ws, -1)
        if torch.rand((), generator=self.rng) < self.plan.mixing:
            first = int(torch.randint(1, config.num_ws, (), generator=self.rng))
            other = torch.cat([w[:given], generator.mapping(z[1, given:])])[:, None]
            ws = torch.cat([ws[:, :first], other.expand(-1, config.num_ws - first, -1)], dim=1)
        noise = torch.randn(size, config.noise_size, generator=self.rng).to(self.device)
        pictures: Tensor = generator.synthesis(ws, noise, half=self._half, up_form="folded")
        return pictures

    def _judge(self, pictures: Tensor) -> Judgement:
        augmented = augment(pictures, self.augmentation, self.rng) if self.plan.augment else pictures
        judged: Judgement = self.discriminator(augmented.contiguous(memory_format=torch.channels_last), self._dtype)
        return judged

    def _r1(self, real: Tensor) -> Tensor:
        """gamma/2 · R1, gamma by the rule of thumb unless given."""
        gamma = r1_gamma(self.resolution) if self.plan.r1_gamma is None else self.plan.r1_gamma
        return r1_penalty(self._judge, real) * (gamma / 2)

    def _clean_and_step(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for parameter in module.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        optimizer.step()

    @property
    def _half(self) -> torch.dtype | None:
        return torch.bfloat16 if self.plan.bfloat16 else None

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.plan.bfloat16 else torch.float32


def _resolution_of(name: str) -> int:
    """The resolution of a synthesis parameter, "synthesis.b64.conv0.noise_strength"."""
    return int(name.split(".")[1][1:])


SMALLEST = 8
"""Resolution."""
ENCODER_RATE, ENCODER_CHANNELS = 1e-3, 64
LAYOUT, STROKES, DIVERGENCE = 8.0, 2.0, 0.002
"""Weights of the distances and of the divergence beside the adversarial loss; that of texture is 1."""


def default_plan(resolution: int = 128, **changes: Any) -> TrainingPlan:
    """The plan of the demo model: 1.4 M parameters, truncation centre and styles of 128 values."""
    config = StyleGAN2Config(
        resolution=resolution, z_dim=128, w_dim=128, mapping_layers=4, channel_base=4096, channel_max=128
    )
    return dataclasses.replace(TrainingPlan(config), **changes)
