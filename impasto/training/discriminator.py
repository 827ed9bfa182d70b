"""The discriminator of StyleGAN2: residual blocks and minibatch standard deviation (Karras et al. 2020).

The down-sampling blur is folded into the convolution that follows it, so that a step is dense convolutions only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from impasto.kernels import bias_act, upfirdn


class Conv(nn.Module):
    """Convolution with equalised learning rate, same padding; `down` blurs with [1, 3, 3, 1] and keeps every second."""

    def __init__(self, in_channels: int, out_channels: int, size: int, *, down: bool = False, linear: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, size, size))
        self.bias = None if linear else nn.Parameter(torch.zeros(out_channels))
        self.gain = 1.0 / math.sqrt(in_channels * size * size)
        self.down = down
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        weight, size = self.weight * self.gain, self.weight.shape[-1]
        if self.down:
            weight = _blurred(weight)
            # Both sides together get the filter's 3 samples less the one that the stride leaves over.
            x = functional.conv2d(x, weight.to(x.dtype), stride=2, padding=(size + 1) // 2)
        else:
            x = functional.conv2d(x, weight.to(x.dtype), padding=size // 2)
        return bias_act.reference(x, self.bias, linear=self.linear)


def _blurred(weight: Tensor) -> Tensor:
    """The weight [O, I, k, k] convolved with the binomial filter: [O, I, k+3, k+3]."""
    taps = upfirdn.binomial_filter(weight.dtype)
    size = weight.shape[-1]
    # Column j of the band holds the filter from row j on: a product with it convolves one axis.
    band = torch.stack([functional.pad(taps, (j, size - 1 - j)) for j in range(size)], dim=1)
    return band @ weight @ band.t()


class Block(nn.Module):
    """Halve the resolution: two convolutions beside a 1×1 skip, summed with gain √½."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv0 = Conv(in_channels, in_channels, 3)
        self.conv1 = Conv(in_channels, out_channels, 3, down=True)
        self.skip = Conv(in_channels, out_channels, 1, down=True, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.skip(x) + self.conv1(self.conv0(x))
        return y * math.sqrt(0.5)


class Judgement(NamedTuple):
    """Scores of whole pictures [N] and of their patches [N, P], higher is more real; features [N, C, H, W] a block."""

    whole: Tensor
    patches: Tensor
    features: list[Tensor]


class Discriminator(nn.Module):
    """Judges pictures [N, 3, R, R].

    The patches are what an eighth of the resolution sees (at least 8×8 of them): in a texture each one tells as much as
    the picture does, so that strokes are learnt from far fewer pictures (Isola et al. 2017, "Image-to-image translation
    with conditional adversarial networks", §3.2.2).

    While `fade` is under 1 the highest block is mixed with what the network saw before it grew, the picture of half the
    size (Karras et al. 2018, "Progressive growing of GANs", §2).
    """

    def __init__(self, resolution: int, channel_base: int, channel_max: int):
        super().__init__()
        self.resolution = resolution
        self.fade = 1.0
        self.patches = max(resolution // 8, min(resolution // 2, 8))
        sides = [2**level for level in range(2, int(math.log2(resolution)) + 1)]
        channels = {side: min(channel_base // side, channel_max) for side in sides}
        self.from_rgb = Conv(3, channels[resolution], 1)
        self.previous_rgb = Conv(3, channels[max(resolution // 2, 4)], 1)
        for side in sides[1:]:
            setattr(self, f"b{side}", Block(channels[side], channels[side // 2]))
        self.patch_conv = Conv(channels[self.patches], channels[self.patches], 3)
        self.patch = Conv(channels[self.patches], 1, 1, linear=True)
        self.conv = Conv(channels[4] + 1, channels[4], 3)
        self.fc = Conv(channels[4], channels[4], 4)
        self.out = Conv(channels[4], 1, 1, linear=True)

    def forward(self, pictures: Tensor, dtype: torch.dtype = torch.float32) -> Judgement:
        x = self.from_rgb(pictures.to(dtype))
        patches, features = pictures.new_empty(0), []
        side = self.resolution
        while True:
            if side == self.patches:
                patches = self.patch(self.patch_conv(x.float())).flatten(1)
            if side == 4:
                break
            x = getattr(self, f"b{side}")(x)
            features.append(x)
            if self.fade < 1.0 and side == self.resolution:
                previous = self.previous_rgb(functional.avg_pool2d(pictures, 2).to(dtype))
                x = previous + (x - previous) * self.fade
            side //= 2
        x = x.float()
        x = self.conv(torch.cat([x, _minibatch_deviation(x)], dim=1))
        x = bias_act.reference(x.flatten(1) @ (self.fc.weight.flatten(1) * self.fc.gain).t(), self.fc.bias)
        whole = (x @ (self.out.weight.flatten(1) * self.out.gain).t()).squeeze(1)
        return Judgement(whole, patches, features)


def _minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """One map [N, 1, H, W]: the standard deviation over groups of samples, averaged over channels and pixels."""
    n, _, height, width = x.shape
    size = math.gcd(n, group)
    grouped = x.reshape(size, n // size, -1)
    deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=1)
    return deviation.repeat(size).reshape(n, 1, 1, 1).expand(-1, 1, height, width)


def adversarial_loss(judged: Judgement, real: bool) -> Tensor:
    """softplus(∓score), non-saturating, of whole pictures and of patches: how far they are from passing as `real`."""
    sign = -1.0 if real else 1.0
    whole, patches = (functional.softplus(sign * scores).mean() for scores in (judged.whole, judged.patches))
    return 0.5 * (whole + patches)


def r1_penalty(judge: Callable[[Tensor], Judgement], real: Tensor) -> Tensor:
    """E|∇D(real)|² of pictures [N, 3, R, R] (Mescheder et al. 2018, "Which training methods for GANs converge?")."""
    real = real.detach().contiguous(memory_format=torch.channels_last).requires_grad_(True)
    judged = judge(real)
    (gradient,) = torch.autograd.grad((judged.whole + judged.patches.mean(dim=1)).sum(), real, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3)).mean()


def judge(discriminator: Discriminator, pictures: Tensor, *, bfloat16: bool) -> Judgement:
    """What it says of pictures [N, 3, R, R], computed in bfloat16 or in float32."""
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    judged: Judgement = discriminator(pictures.contiguous(memory_format=torch.channels_last), dtype)
    return judged


def step_discriminator(
    judge: Callable[[Tensor], Judgement],
    optimizer: torch.optim.Optimizer,
    real: Tensor,
    judged_real: Judgement,
    made: Tensor,
    r1: float,
) -> float:
    """One step of the discriminator over real pictures, with what it said of them, and those made; its loss.

    `r1` is the weight of the R1 penalty at this step, 0 for none.
    """
    loss = adversarial_loss(judged_real, real=True) + adversarial_loss(judge(made), real=False)
    total = loss + r1_penalty(judge, real) * r1 if r1 else loss
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def r1_gamma(resolution: int) -> float:
    """0.0002·R²/16, StyleGAN2-ADA's rule of thumb for twice the weight of R1 at a batch of 16."""
    return 0.0002 * resolution**2 / 16
