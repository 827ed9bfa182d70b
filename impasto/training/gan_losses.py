"""The losses of generative adversarial networks, of the scores [N] that a discriminator gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from torch import Tensor
from torch.nn.functional import softplus

from impasto.errors import InvalidRequest

LossName = Literal["non-saturating", "least-squares", "wgan-gp"]
LOSS_NAMES: tuple[LossName, ...] = get_args(LossName)


@dataclasses.dataclass(frozen=True)
class GANLoss:
    """What each network minimises, and the settings that its authors train it with.

    `boundary`, of real and fake scores, is the score over which a picture passes as real. The discriminator makes
    `critic_steps` steps for one of the generator's, with `penalty` times the gradient penalty; `betas` are Adam's.
    """

    generator: Callable[[Tensor], Tensor]
    discriminator: Callable[[Tensor, Tensor], Tensor]
    boundary: Callable[[Tensor, Tensor], Tensor | float]
    critic_steps: int = 1
    penalty: float = 0.0
    betas: tuple[float, float] = (0.5, 0.999)


LOSSES: Mapping[LossName, GANLoss] = {
    # Goodfellow et al. 2014, "Generative adversarial nets", §3.
    "non-saturating": GANLoss(
        generator=lambda fake: softplus(-fake).mean(),
        discriminator=lambda real, fake: softplus(-real).mean() + softplus(fake).mean(),
        boundary=lambda real, fake: 0.0,
    ),
    # Mao et al. 2017, "Least squares generative adversarial networks", eq. 9.
    "least-squares": GANLoss(
        generator=lambda fake: 0.5 * (fake - 1.0).square().mean(),
        discriminator=lambda real, fake: 0.5 * ((real - 1.0).square().mean() + fake.square().mean()),
        boundary=lambda real, fake: 0.5,
    ),
    # Gulrajani et al. 2017, "Improved training of Wasserstein GANs", algorithm 1.
    "wgan-gp": GANLoss(
        generator=lambda fake: -fake.mean(),
        discriminator=lambda real, fake: fake.mean() - real.mean(),
        boundary=lambda real, fake: 0.5 * (real.mean() + fake.mean()),
        critic_steps=5,
        penalty=10.0,
        betas=(0.0, 0.9),
    ),
}


def loss_name(name: str) -> LossName:
    """The name as one of LOSS_NAMES; InvalidRequest if it is none."""
    for known in LOSS_NAMES:
        if name == known:
            return known
    raise InvalidRequest("loss", name, f"one of {', '.join(LOSS_NAMES)}")
