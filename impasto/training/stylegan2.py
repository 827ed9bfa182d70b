"""Train a small StyleGAN2 on crops of pictures.

Non-saturating loss, lazy R1 regularisation, exponential moving average, style mixing, adaptive augmentation, growing
from a low resolution. A part of each batch is made from the latents of real crops, and must be like them: the layout is
learnt from far fewer pictures then (VAE/GAN, Larsen et al. 2016, "Autoencoding beyond pixels using a learned similarity
metric"). A run keeps everything that it needs to go on in `state.pt`, and goes on from there.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from impasto.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from impasto.training.augment import adapt, augment
from impasto.training.crops import Crops
from impasto.training.discriminator import Discriminator, Judgement
from impasto.training.encoder import Encoder
from impasto.training.likeness import layout_distance, stroke_distance, texture_distance

Network = TypeVar("Network", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """What to train and for how long. Sizes in pixels, lengths in pictures shown to the discriminator.

    `paired` is the share of a batch that is made from real crops' latents. Layers above `noise_to` get no noise (None:
    all do): noise finer than a stroke makes dots, not strokes.
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


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run is: pictures seen of all, resolution, the last losses and the augmentation probability."""

    seen: int
    total: int
    resolution: int
    pictures_per_second: float
    loss_g: float
    loss_d: float
    real_sign: float
    augmentation: float


class Trainer:
    """One run in one folder: `run()` goes on from the last saved state and returns when all pictures are seen."""

    def __init__(self, plan: TrainingPlan, pictures: list[Image.Image], out: Path, device: str = "cpu") -> None:
        # Denormal numbers turn up in vanishing gradients and slow a CPU down tenfold.
        torch.set_flush_denormal(True)
        self.plan = plan
        self.out = out
        self.device = torch.device(device)
        self.pictures = pictures
        self.seen = 0
        self.augmentation = 0.0
        out.mkdir(parents=True, exist_ok=True)
        saved = self._saved_state()
        torch.manual_seed(plan.seed)
        self.data_rng = np.random.default_rng(plan.seed)
        self.rng = torch.Generator().manual_seed(plan.seed)
        self.encoder = self._placed(Encoder(plan.config.z_dim, min(plan.config.channel_max, ENCODER_CHANNELS)))
        self.optimizer_e = torch.optim.Adam(self.encoder.parameters(), ENCODER_RATE, betas=(0.5, 0.99))
        self._build(saved["resolution"] if saved else plan.stage(0))
        if saved:
            self._restore(saved)

    def run(
        self,
        report: Callable[[Progress], None] = lambda progress: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to the end, calling `report` a few times a minute; write sheets, states and at last the weights.

        Once `stop` is true the state is saved after the step under way, and that is all.
        """
        last_save = last_report = time.monotonic()
        reported = self.seen
        losses: list[tuple[float, float, float]] = []
        while self.seen < self.plan.pictures and not stop():
            if (resolution := self.plan.stage(self.seen)) != self.resolution:
                self._grow(resolution)
            self.discriminator.fade = self.plan.fade(self.seen)
            losses.append(self._step())
            now = time.monotonic()
            if now - last_report > 10.0:
                loss_g, loss_d, sign = (float(np.mean(column)) for column in zip(*losses, strict=True))
                rate = (self.seen - reported) / (now - last_report)
                total, augmentation = self.plan.pictures, self.augmentation
                report(Progress(self.seen, total, self.resolution, rate, loss_g, loss_d, sign, augmentation))
                last_report, reported, losses = now, self.seen, []
            if self.seen % self.plan.sheet_pictures < self.batch:
                self.sheet().save(self.out / f"sheet_{self.seen:07d}.png")
            if now - last_save > self.plan.save_seconds:
                self._save()
                last_save = now
        self._save()
        if self.seen < self.plan.pictures:
            return
        self.sheet().save(self.out / "sheet_final.png")
        self.write_weights()

    @torch.no_grad()
    def sheet(self, rows: int = 4) -> Image.Image:
        """A square sheet of the averaged generator's pictures for seeds 0, 1, …, each with noise of its own."""
        count = rows * rows
        z = np.concatenate([np.random.RandomState(seed).randn(1, self.plan.config.z_dim) for seed in range(count)])
        noise = torch.randn(count, self.ema.config.noise_size, generator=torch.Generator().manual_seed(0))
        latents = torch.from_numpy(z).float().to(self.device)
        pictures = self.ema(latents, noise=noise.to(self.device)).float().cpu()
        r = self.resolution
        grid = pictures.reshape(rows, rows, 3, r, r).permute(0, 3, 1, 4, 2).reshape(rows * r, rows * r, 3)
        return Image.fromarray((grid * 127.5 + 128).clamp(0, 255).to(torch.uint8).numpy())

    def write_weights(self) -> Path:
        """Write the averaged generator as `weights.safetensors` with its hyperparameters in the header."""
        path = self.out / "weights.safetensors"
        tensors = {name: tensor.contiguous() for name, tensor in self.ema.state_dict().items()}
        config = json.dumps(dataclasses.asdict(self.ema.config))
        save_file(tensors, path, metadata={"family": "stylegan2", "config": config})
        return path

    def _saved_state(self) -> dict[str, Any] | None:
        """The state in `out`, if there is one. ValueError if it is of another run than the plan's."""
        path = self.out / "state.pt"
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, weights_only=False)
        if missing := {*STATEFUL, "config"} - state.keys():
            found = f"{path} is a state without {', '.join(sorted(missing))}"
            raise ValueError(f"out: {found}, of an older trainer; choose another folder, or remove it")
        if state["config"] != dataclasses.asdict(self.plan.config):
            raise ValueError(f"out: {path} is the state of another generator; choose another folder, or remove it")
        if state["seen"] > self.plan.pictures:
            raise ValueError(
                f"pictures: found {self.plan.pictures}; the run in {path} has already seen {state['seen']}"
            )
        return state

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
        levels = int(math.log2(resolution)) - 2
        config = dataclasses.replace(plan.config, resolution=resolution, num_fp16_res=levels)
        self.generator = self._placed(StyleGAN2(config))
        self.discriminator = self._placed(Discriminator(resolution, plan.config.channel_base, plan.config.channel_max))
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

    def _placed(self, module: Network) -> Network:
        """The module on the device, its convolution weights channels-last: the order that 16-bit kernels want."""
        module.to(self.device)
        for parameter in module.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return module

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
        self._average(size)
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
        loss = _loss(self._judge(fake), real=True)
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
        loss = _loss(judged_real, real=True) + _loss(judged_fake, real=False)
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
        """gamma/2 · E|∇D(real)|², gamma 0.0002·R²/16 unless given (StyleGAN2-ADA's rule of thumb for a batch of 16)."""
        gamma = self.plan.r1_gamma
        if gamma is None:
            gamma = 0.0002 * self.resolution**2 / 16
        real = real.detach().contiguous(memory_format=torch.channels_last).requires_grad_(True)
        judged = self._judge(real)
        (gradient,) = torch.autograd.grad((judged.whole + judged.patches.mean(dim=1)).sum(), real, create_graph=True)
        return gradient.float().square().sum(dim=(1, 2, 3)).mean() * (gamma / 2)

    def _clean_and_step(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for parameter in module.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        optimizer.step()

    @torch.no_grad()
    def _average(self, size: int) -> None:
        horizon = min(self.plan.ema_pictures, 0.05 * (self.seen + size))
        keep = 0.5 ** (size / max(horizon, 1e-8))
        for averaged, current in zip(self.ema.parameters(), self.generator.parameters(), strict=True):
            averaged.lerp_(current, 1.0 - keep)
        for mean, buffer in zip(self.ema.buffers(), self.generator.buffers(), strict=True):
            mean.copy_(buffer)

    @property
    def _half(self) -> torch.dtype | None:
        return torch.bfloat16 if self.plan.bfloat16 else None

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.plan.bfloat16 else torch.float32

    def _save(self) -> None:
        state: dict[str, Any] = {name: getattr(self, name).state_dict() for name in STATEFUL}
        state |= {
            "config": dataclasses.asdict(self.plan.config),
            "resolution": self.resolution,
            "seen": self.seen,
            "steps": self.steps,
            "augmentation": self.augmentation,
            "rng": self.rng.get_state(),
            "data_rng": self.data_rng.bit_generator.state,
        }
        temporary = self.out / "state.pt.part"
        torch.save(state, temporary)
        temporary.replace(self.out / "state.pt")

    def _restore(self, state: dict[str, Any]) -> None:
        for name in STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self._limit_noise()
        self.seen, self.steps, self.augmentation = state["seen"], state["steps"], state["augmentation"]
        self.rng.set_state(state["rng"])
        self.data_rng.bit_generator.state = state["data_rng"]


def _loss(judged: Judgement, real: bool) -> Tensor:
    """softplus(∓score), non-saturating, of whole pictures and of patches: how far they are from passing as `real`."""
    sign = -1.0 if real else 1.0
    whole, patches = (functional.softplus(sign * scores).mean() for scores in (judged.whole, judged.patches))
    return 0.5 * (whole + patches)


def _resolution_of(name: str) -> int:
    """The resolution of a synthesis parameter, "synthesis.b64.conv0.noise_strength"."""
    return int(name.split(".")[1][1:])


STATEFUL = ("generator", "discriminator", "encoder", "ema", "optimizer_g", "optimizer_d", "optimizer_e")
ENCODER_RATE, ENCODER_CHANNELS = 1e-3, 64
LAYOUT, STROKES, DIVERGENCE = 8.0, 2.0, 0.002
"""Weights of the distances and of the divergence beside the adversarial loss; that of texture is 1."""


def default_plan(resolution: int = 128, **changes: Any) -> TrainingPlan:
    """The plan of the demo model: 1.4 M parameters, truncation centre and styles of 128 values."""
    config = StyleGAN2Config(
        resolution=resolution, z_dim=128, w_dim=128, mapping_layers=4, channel_base=4096, channel_max=128
    )
    return dataclasses.replace(TrainingPlan(config), **changes)
