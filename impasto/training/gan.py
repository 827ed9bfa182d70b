"""Train a DCGAN on crops of pictures, of classes where wanted.

Non-saturating, least-squares or Wasserstein loss with gradient penalty; spectral normalisation of the discriminator;
adaptive discriminator augmentation (Karras et al. 2020); an exponential moving average of the generator.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from impasto.errors import InvalidRequest
from impasto.export.class_names import CLASS_NAMES, check_class_names
from impasto.generators.family import draw_latents, save_weights
from impasto.generators.gan import GAN, GANConfig
from impasto.training.augment import adapt, augment
from impasto.training.critic import Critic, gradient_penalty
from impasto.training.crops import Crops
from impasto.training.gan_losses import LOSSES, GANLoss, LossName, loss_name
from impasto.training.loop import Losses, Report, Stop, sheet_of, train
from impasto.training.networks import average, placed
from impasto.training.state import read_state, replaced, restore, save_state

SHEET_COLUMNS = 4
CLASSES_FILE = "classes.txt"


@dataclasses.dataclass(frozen=True)
class GANPlan:
    """What to train and for how long. Sizes in pixels, lengths in pictures shown to the discriminator.

    `classes` names the classes of a conditional generator, in the order of c. InvalidRequest if a value does not fit.
    """

    config: GANConfig
    pictures: int = 200_000
    batch: int = 32
    crop: tuple[int, int] = (112, 224)
    mirror: bool = True
    classes: tuple[str, ...] = ()
    loss: LossName = "non-saturating"
    spectral: bool = True
    augment: bool = True
    learning_rate: float = 2e-4
    ema_pictures: float = 10_000.0
    bfloat16: bool = True
    seed: int = 0
    sheet_pictures: int = 10_000
    save_seconds: float = 120.0

    def __post_init__(self) -> None:
        loss_name(self.loss)
        if self.config.img_channels != 3:
            raise InvalidRequest("img_channels", self.config.img_channels, "3: crops have colour")
        if len(self.classes) != self.config.c_dim:
            raise InvalidRequest("classes", len(self.classes), f"{self.config.c_dim}, as many as c has numbers")
        check_class_names(self.classes, self.config.c_dim)
        if self.learning_rate <= 0.0:
            raise InvalidRequest("learning_rate", self.learning_rate, "more than 0")

    @property
    def network(self) -> dict[str, object]:
        """What must be equal for a state to fit."""
        critic = {"loss": self.loss, "spectral": self.spectral}
        return {**dataclasses.asdict(self.config), **critic, "classes": list(self.classes)}


class Trainer:
    """One run in one folder: `run()` goes on from the last saved state and returns when all pictures are seen.

    `labels` has the class of each picture, its place in the plan's classes.
    """

    stateful = ("generator", "critic", "ema", "optimizer_g", "optimizer_d")

    def __init__(
        self,
        plan: GANPlan,
        pictures: Sequence[Image.Image],
        out: Path,
        device: str = "cpu",
        labels: Sequence[int] = (),
    ) -> None:
        if plan.classes and len(labels) != len(pictures):
            raise InvalidRequest("labels", len(labels), f"{len(pictures)}, one a picture")
        self.plan = plan
        self.out = out
        self.device = torch.device(device)
        self.pictures = pictures
        self.labels = labels
        self.seen = 0
        self.augmentation = 0.0
        out.mkdir(parents=True, exist_ok=True)
        saved = read_state(out, {"network": plan.network}, self.stateful, plan.pictures)
        self.crops = Crops(pictures, plan.config.resolution, plan.crop, mirror=plan.mirror)
        self.data_rng = np.random.default_rng(plan.seed)
        self.rng = torch.Generator().manual_seed(plan.seed)
        torch.manual_seed(plan.seed)
        self.generator = placed(GAN(plan.config), self.device)
        self.critic = placed(Critic(plan.config, spectral=plan.spectral), self.device)
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        betas = self.loss.betas
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), plan.learning_rate, betas)
        self.optimizer_d = torch.optim.Adam(self.critic.parameters(), plan.learning_rate, betas)
        if saved:
            restore(self, saved)
            for optimizer in (self.optimizer_g, self.optimizer_d):
                optimizer.param_groups[0]["lr"] = plan.learning_rate
            self.augmentation = saved["augmentation"]

    @property
    def loss(self) -> GANLoss:
        return LOSSES[self.plan.loss]

    def run(self, report: Report = lambda progress: None, stop: Stop = lambda: False) -> None:
        """Train to the end, or until `stop` is true: `impasto.training.loop.train`."""
        train(self, report, stop)

    def step(self) -> Losses:
        """Steps of the discriminator, then one of the generator."""
        batch = self.plan.batch
        for _ in range(self.loss.critic_steps):
            loss_d, real_sign = self._step_critic()
            self.seen += batch
            if self.plan.augment:
                self.augmentation = adapt(self.augmentation, real_sign, batch)
        loss_g = self._step_generator()
        average(self.ema, self.generator, self.seen, batch * self.loss.critic_steps, self.plan.ema_pictures)
        return {"loss_g": loss_g, "loss_d": loss_d, "real_sign": real_sign, "augmentation": self.augmentation}

    def save(self) -> None:
        save_state(self, {"network": self.plan.network, "augmentation": self.augmentation})

    def write(self) -> Path:
        """Write the averaged generator as `weights.safetensors` with its family and hyperparameters in the header.

        A conditional one has its classes' names there too, and beside it `classes.txt`: a line a class, its number and
        its name.
        """
        path = self.out / "weights.safetensors"
        if self.plan.classes:
            with replaced(self.out / CLASSES_FILE) as part:
                lines = [f"{number}\t{name}\n" for number, name in enumerate(self.plan.classes)]
                part.write_text("".join(lines), encoding="utf-8")
        with replaced(path) as part:
            names = {CLASS_NAMES: json.dumps(self.plan.classes, ensure_ascii=False)} if self.plan.classes else {}
            save_weights(part, "gan", self.plan.config, self.ema.state_dict(), **names)
        return path

    @torch.no_grad()
    def sheet(self) -> Image.Image:
        """The averaged generator's pictures for seeds 0, 1, …; of classes, a row each with the same seeds."""
        columns, classes = SHEET_COLUMNS, self.plan.config.c_dim
        if not classes:
            z = draw_latents(columns * columns, self.plan.config.z_dim)
            return sheet_of(self.ema(z.to(self.device)), columns)
        z = draw_latents(columns, self.plan.config.z_dim).repeat(classes, 1)
        c = torch.eye(classes).repeat_interleave(columns, dim=0)
        return sheet_of(self.ema(z.to(self.device), c.to(self.device)), columns)

    def _step_critic(self) -> tuple[float, float]:
        """One step of the discriminator; its loss, and the mean sign of its verdict on real pictures."""
        real, c = self._real()
        with torch.no_grad():
            fake = self._fake(c)
        real, fake = self._augmented(real), self._augmented(fake)
        real_scores, fake_scores = self._scores(real, c), self._scores(fake, c)
        loss = self.loss.discriminator(real_scores, fake_scores)
        total = loss
        if self.loss.penalty:
            total = loss + self.loss.penalty * gradient_penalty(self.critic, real, fake, c, self.rng)
        self.optimizer_d.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer_d.step()
        boundary = self.loss.boundary(real_scores.detach(), fake_scores.detach())
        return loss.item(), (real_scores.detach() - boundary).sign().mean().item()

    def _step_generator(self) -> float:
        """One step of the generator; its loss."""
        self.critic.requires_grad_(False)
        c = self._classes(torch.randint(max(len(self.plan.classes), 1), (self.plan.batch,), generator=self.rng))
        loss = self.loss.generator(self._scores(self._augmented(self._fake(c)), c))
        self.optimizer_g.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.critic.requires_grad_(True)
        self.optimizer_g.step()
        return loss.item()

    def _real(self) -> tuple[Tensor, Tensor | None]:
        """Crops [N, 3, R, R], and their classes."""
        crops, sources = self.crops.batch_with_sources(self.plan.batch, self.data_rng)
        labels = torch.tensor([self.labels[source] for source in sources]) if self.plan.classes else torch.empty(0)
        return crops.to(self.device, memory_format=torch.channels_last), self._classes(labels)

    def _classes(self, labels: Tensor) -> Tensor | None:
        """c [N, c_dim] of labels [N]; None without classes."""
        if not self.plan.classes:
            return None
        return functional.one_hot(labels, len(self.plan.classes)).float().to(self.device)

    def _fake(self, c: Tensor | None) -> Tensor:
        z = torch.randn(self.plan.batch, self.plan.config.z_dim, generator=self.rng).to(self.device)
        with self._autocast():
            pictures: Tensor = self.generator(z, c)
        return pictures.float()

    def _scores(self, pictures: Tensor, c: Tensor | None) -> Tensor:
        with self._autocast():
            scores: Tensor = self.critic(pictures.contiguous(memory_format=torch.channels_last), c)
        return scores.float()

    def _augmented(self, pictures: Tensor) -> Tensor:
        return augment(pictures, self.augmentation, self.rng) if self.plan.augment else pictures

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.bfloat16)
