"""A label map to a picture: spatially-adaptive normalisation (Park et al. 2019, "Semantic image synthesis with SPADE").

Batch normalisation without gain and bias, then at each place the gain and bias that a small network makes of the label
map there (eq. 1): normalised·γ(m) + β(m), where γ begins at one. The network itself is convolutions alone, of any size:
it begins with the label map at its smallest, and a latent z, where there is one, is added to all places of it alike.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from impasto.generators.family import Family, Graph, draw_latents
from impasto.generators.interface import SEED, Interface, Spec, free_pictures, latent
from impasto.generators.limits import MAX_WIDTH, check_range

MAX_CLASSES = 256
MAX_UPS = 7
WIDEST = 16
"""Times `channels`, of the smallest feature maps."""
EPSILON = 1e-5
TILE = 512


@dataclasses.dataclass(frozen=True)
class SPADEConfig:
    """Hyperparameters; the defaults are the paper's, for a model of 182 classes.

    `classes` are the labels 0, 1, … of a map; `channels` those of the feature maps at the picture's side, twice as many
    at each half of it up to 16 times; `ups` is how often the side is doubled; `hidden` the channels of the networks
    that make gain and bias; `z_dim` the numbers of a latent, 0 for a generator without one.
    """

    classes: int = 182
    channels: int = 64
    ups: int = 5
    hidden: int = 128
    z_dim: int = 0

    def __post_init__(self) -> None:
        check_range("classes", self.classes, 1, MAX_CLASSES)
        check_range("channels", self.channels, 1, MAX_WIDTH // WIDEST)
        check_range("ups", self.ups, 1, MAX_UPS)
        check_range("hidden", self.hidden, 1, MAX_WIDTH)
        check_range("z_dim", self.z_dim, 0, MAX_WIDTH)

    @property
    def multiple(self) -> int:
        """Of a picture's sides."""
        return 1 << self.ups

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the feature maps, from the smallest to the picture's side."""
        return tuple(min(1 << level, WIDEST) * self.channels for level in range(self.ups, -1, -1))

    @property
    def reach(self) -> int:
        """Pixels from the middle of what an output pixel sees to its edge."""
        # A block has two convolutions, each with a normalisation whose network has two; the first layer has one.
        return self.multiple + sum(6 << level for level in range(self.ups + 1)) + 1


class Modulation(nn.Module):
    """normalised(x)·γ(m) + β(m): x [N, C, H, W], the one-hot label map m [N, classes, H, W] of its size."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, config: SPADEConfig):
        super().__init__()
        self.shared = nn.Conv2d(config.classes, config.hidden, 3, padding=1)
        self.gain = nn.Conv2d(config.hidden, channels, 3, padding=1)
        self.bias = nn.Conv2d(config.hidden, channels, 3, padding=1)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        normalised = functional.batch_norm(
            x, self.running_mean, self.running_var, training=self.training, momentum=0.1, eps=EPSILON
        )
        hidden = functional.relu(self.shared(labels))
        gain, bias = 1.0 + cast(Tensor, self.gain(hidden)), cast(Tensor, self.bias(hidden))
        return normalised * gain + bias


class Block(nn.Module):
    """x, or a 1×1 convolution of it modulated, plus twice modulation, ReLU and a 3×3 convolution (figure 4)."""

    def __init__(self, inputs: int, outputs: int, config: SPADEConfig):
        super().__init__()
        middle = min(inputs, outputs)
        self.norm0, self.norm1 = Modulation(inputs, config), Modulation(middle, config)
        self.conv0 = nn.Conv2d(inputs, middle, 3, padding=1)
        self.conv1 = nn.Conv2d(middle, outputs, 3, padding=1)
        self.norm_skip = Modulation(inputs, config) if inputs != outputs else None
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        y = self.conv0(functional.relu(self.norm0(x, labels)))
        y = self.conv1(functional.relu(self.norm1(y, labels)))
        if self.norm_skip is not None and self.skip is not None:
            x = self.skip(self.norm_skip(x, labels))
        return cast(Tensor, x + y)


class SPADE(nn.Module):
    """One-hot label maps [N, classes, H, W], and z [N, z_dim] if it takes one, to pictures [N, 3, H, W] in [-1, 1].

    The sides are multiples of `config.multiple`. `palette` [classes, 3] are the colours, 0 to 255, by which a picture
    of a label map means its classes: grey of the class's number until it is set.
    """

    palette: Tensor

    def __init__(self, config: SPADEConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        self.head = nn.Conv2d(config.classes, widths[0], 3, padding=1)
        self.latent = nn.Linear(config.z_dim, widths[0]) if config.z_dim else None
        self.first = Block(widths[0], widths[0], config)
        pairs = itertools.pairwise(widths)
        self.blocks = nn.ModuleList([Block(inputs, outputs, config) for inputs, outputs in pairs])
        self.to_rgb = nn.Conv2d(widths[-1], 3, 3, padding=1)
        self.register_buffer("palette", torch.arange(config.classes).float()[:, None].repeat(1, 3))

    def forward(self, labels: Tensor, z: Tensor | None = None) -> Tensor:
        smallest = _nearest(labels, self.config.multiple)
        x = self.head(smallest)
        if self.latent is not None:
            assert z is not None, "this generator takes a latent"
            x = x + self.latent(z)[:, :, None, None]
        x = self.first(x, smallest)
        for level, block in enumerate(self.blocks, start=1):
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(x, _nearest(labels, self.config.multiple >> level))
        return cast(Tensor, self.to_rgb(functional.relu(x))).tanh()


def _nearest(labels: Tensor, step: int) -> Tensor:
    """Each step-th place in both directions."""
    return labels[:, :, ::step, ::step]


class LabelPainter(nn.Module):
    """labels [N, 1, H, W], int64 class numbers, and z [N, z_dim] if the generator takes one → pictures."""

    def __init__(self, generator: SPADE):
        super().__init__()
        self.generator = generator
        self.register_buffer("numbers", torch.arange(generator.config.classes)[None, :, None, None], persistent=False)

    def forward(self, labels: Tensor, z: Tensor | None = None) -> Tensor:
        one_hot = (labels == self.get_buffer("numbers")).float()
        return cast(Tensor, self.generator(one_hot, z))


def _graphs(generator: SPADE) -> Mapping[str, Graph]:
    config = generator.config
    painter = LabelPainter(generator)

    def draw(rows: int) -> dict[str, Tensor]:
        sides = (1, 3 * config.multiple, 2 * config.multiple)
        maps = [
            torch.randint(config.classes, sides, generator=torch.Generator().manual_seed(row)) for row in range(rows)
        ]
        drawn = {"labels": torch.stack(maps)}
        return drawn | {"z": draw_latents(rows, config.z_dim)} if config.z_dim else drawn

    def reference(labels: Tensor, z: Tensor | None = None) -> Tensor:
        one_hot = functional.one_hot(labels[:, 0], config.classes).permute(0, 3, 1, 2).float()
        return cast(Tensor, generator(one_hot, z))

    return {"painter": Graph(painter, draw, reference, free_sides=("labels",))}


def _interface(config: SPADEConfig) -> Interface:
    meaning = "label map of any size, in the colours of the palette or in the grey of each class's number"
    latents = (SEED, latent(config.z_dim)) if config.z_dim else ()
    overlap = min(2 * config.reach, TILE // 2) // config.multiple * config.multiple
    defaults = {"tile": TILE, "overlap": overlap, "multiple": config.multiple}
    inputs = (Spec("image", "UINT8", (-1, -1, -1, 3), meaning), *latents)
    return Interface(TILE, TILE, inputs, free_pictures(), defaults)


FAMILY = Family(config=SPADEConfig, build=SPADE, graphs=_graphs, interface=_interface)
