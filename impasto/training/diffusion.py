"""Train a small pixel-space diffusion model on crops of pictures.

The network predicts v (Salimans and Ho 2022, "Progressive distillation for fast sampling of diffusion models") under
the cosine schedule (Nichol and Dhariwal 2021, "Improved denoising diffusion probabilistic models"). The model is a
folder as diffusers keeps one.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from impasto.errors import InvalidRequest
from impasto.training.crops import Crops
from impasto.training.loop import Losses, Report, Stop, sheet_of, train
from impasto.training.networks import average
from impasto.training.state import read_state, restore, save_state

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, UNet2DModel

TIMESTEPS = 1000
GROUPS = 8
"""Groups of a normalisation."""
HEAD = 64
"""Channels of an attention head, fewer where a level that attends has fewer."""
SHEET_SEEDS, SHEET_STEPS = range(16), 20


@dataclasses.dataclass(frozen=True)
class DiffusionPlan:
    """What to train and for how long. Sizes in pixels, lengths in pictures seen.

    `channels` are those of each level, the first at `resolution`, each next at half of the one before. A level whose
    resolution is in `attention` attends, and so does the middle. What was learnt `ema_pictures` ago has half the weight
    in the average of what is learnt now. InvalidRequest if a value does not fit.
    """

    resolution: int = 64
    pictures: int = 150_000
    batch: int = 8
    crop: tuple[int, int] = (112, 224)
    mirror: bool = True
    channels: tuple[int, ...] = (48, 64, 128, 128)
    attention: tuple[int, ...] = (16,)
    learning_rate: float = 6e-4
    warm_up_pictures: int = 8_000
    snr_gamma: float = 5.0
    ema_pictures: float = 10_000.0
    bfloat16: bool = True
    seed: int = 0
    sheet_pictures: int = 10_000
    save_seconds: float = 120.0

    def __post_init__(self) -> None:
        if not self.channels or any(width < 1 or width % GROUPS for width in self.channels):
            raise InvalidRequest("channels", self.channels, f"one or more multiples of {GROUPS}")
        step = 2 ** (len(self.channels) - 1)
        if self.resolution < 1 or self.resolution % step:
            raise InvalidRequest("resolution", self.resolution, f"a multiple of {step}")
        if not 1 <= self.crop[0] <= self.crop[1]:
            raise InvalidRequest("crop", self.crop, "the smallest and the largest side, 1 or more")
        if self.learning_rate <= 0.0:
            raise InvalidRequest("learning_rate", self.learning_rate, "more than 0")

    @property
    def network(self) -> dict[str, Any]:
        """What must be equal for a state to fit."""
        return {"resolution": self.resolution, "channels": self.channels, "attention": self.attention}


class Trainer:
    """One run in one folder: `run()` goes on from the last saved state and returns when all pictures are seen.

    ValueError if the folder holds another run's state.
    """

    stateful = ("unet", "ema", "optimizer")

    def __init__(self, plan: DiffusionPlan, pictures: Sequence[Image.Image], out: Path, device: str = "cpu") -> None:
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
        self.unet = build_unet(plan).to(self.device, memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.unet).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), plan.learning_rate, betas=(0.9, 0.99), fused=True)
        self.schedule = build_schedule()
        self.weights = loss_weights(self.schedule.alphas_cumprod, plan.snr_gamma).to(self.device)
        if saved:
            restore(self, saved)

    def run(self, report: Report = lambda progress: None, stop: Stop = lambda: False) -> None:
        """Train to the end, or until `stop` is true: `impasto.training.loop.train`."""
        train(self, report, stop)

    def step(self) -> Losses:
        loss = self._step()
        average(self.ema, self.unet, self.seen, self.plan.batch, self.plan.ema_pictures)
        return {"loss": loss}

    @torch.no_grad()
    def sample(self, seeds: Sequence[int], steps: int = SHEET_STEPS) -> Tensor:
        """Pictures [N, 3, R, R] of the averaged network, nominally in [-1, 1]: DPM++ 2M (Lu et al. 2022)."""
        from diffusers import DPMSolverMultistepScheduler

        solver = DPMSolverMultistepScheduler.from_config(self.schedule.config)
        solver.set_timesteps(steps)
        shape = (3, self.plan.resolution, self.plan.resolution)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        x = torch.stack(noise).to(self.device, memory_format=torch.channels_last)
        for timestep in solver.timesteps:
            x = solver.step(self.ema(x, timestep.to(self.device)).sample, timestep, x).prev_sample
        return x.cpu()

    def sheet(self) -> Image.Image:
        """A contact sheet of the averaged network's pictures for seeds 0, 1, …"""
        return sheet_of(self.sample(SHEET_SEEDS))

    def write(self) -> Path:
        """Write the averaged network and its schedule as a diffusers folder, `model`, safetensors in fp32."""
        from diffusers import DDPMPipeline

        path = self.out / "model"
        DDPMPipeline(self.ema, self.schedule).save_pretrained(path)
        return path

    def save(self) -> None:
        save_state(self, {"network": self.plan.network})

    def _step(self) -> float:
        """One step on one batch; its loss."""
        x0 = self.crops.batch(self.plan.batch, self.data_rng).to(self.device)
        timesteps = self._timesteps()
        noise = torch.randn(x0.shape, generator=self.rng).to(self.device)
        noisy = self.schedule.add_noise(x0, noise, timesteps).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.bfloat16):
            v = self.unet(noisy, timesteps).sample.float()
        error = (v - self.schedule.get_velocity(x0, noise, timesteps)).square().mean(dim=(1, 2, 3))
        loss: Tensor = (self.weights[timesteps] * error).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.seen += self.plan.batch
        warm_up = min(self.seen / self.plan.warm_up_pictures, 1.0)
        self.optimizer.param_groups[0]["lr"] = self.plan.learning_rate * warm_up
        self.optimizer.step()
        return loss.item()

    def _timesteps(self) -> Tensor:
        """A timestep for each row [N], one in each of N equal parts of the schedule.

        The loss of a batch varies less so (Kingma et al. 2021, "Variational diffusion models", appendix I.1).
        """
        batch = self.plan.batch
        position = (torch.arange(batch) + torch.rand((), generator=self.rng)) / batch
        return (position * TIMESTEPS).long().clamp(max=TIMESTEPS - 1).to(self.device)


def build_unet(plan: DiffusionPlan) -> UNet2DModel:
    """The network of a plan, with one residual block a level on the way down and two on the way up."""
    from diffusers import UNet2DModel

    attends = [plan.resolution >> level in plan.attention for level in range(len(plan.channels))]
    attending = [width for width, attend in zip(plan.channels, attends, strict=True) if attend]
    return UNet2DModel(
        sample_size=plan.resolution,
        in_channels=3,
        out_channels=3,
        block_out_channels=plan.channels,
        layers_per_block=1,
        down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        attention_head_dim=math.gcd(HEAD, plan.channels[-1], *attending),
        norm_num_groups=GROUPS,
    )


def build_schedule() -> DDPMScheduler:
    """Cosine betas and v-prediction; sampling begins at the last timestep, which is all but pure noise.

    Trailing timesteps: Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed", §3.3.
    """
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )


def loss_weights(alphas_cumprod: Tensor, gamma: float) -> Tensor:
    """min(SNR + 1, γ) / (SNR + 1) of each timestep, the weight of its squared error in v.

    In x0 that is min(SNR + 1, γ): what v-prediction gives, with the ceiling of Hang et al. 2023, "Efficient diffusion
    training via min-SNR weighting strategy", so that nearly clean pictures do not take up the network.
    """
    # SNR + 1 = ᾱ/(1 − ᾱ) + 1 = 1/(1 − ᾱ)
    return (gamma * (1.0 - alphas_cumprod)).clamp(max=1.0)
