"""The residual generator of image-to-image translation: a picture to the same picture of another kind.

Johnson, Alahi & Fei-Fei 2016, "Perceptual losses for real-time style transfer", as Zhu et al. 2017 use it in CycleGAN
(appendix 7.2): a 7×7 convolution, two of stride 2, residual blocks at a quarter of the side, two transposed ones back,
a 7×7 one and tanh; instance normalisation (Ulyanov, Vedaldi & Lempitsky 2016) after each but the last.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from impasto.errors import CheckpointError
from impasto.generators.family import Family, ForeignState, Graph
from impasto.generators.foreign.sources import Sources, shape_of
from impasto.generators.interface import Interface, Spec, free_pictures
from impasto.generators.limits import MAX_WIDTH, check_range

MULTIPLE = 4
"""Of a side: two convolutions halve it."""
EPSILON = 1e-5
INITIAL_STD = 0.02
MAX_BLOCKS = 64
MAX_NOISE = 16
TILE = 512

Normalise = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class ResidualConfig:
    """Hyperparameters; the defaults are CycleGAN's.

    `channels` are those at the picture's side, twice as many at each half of it. With `adds` the network makes what is
    added to the picture instead of a new one: instance normalisation forgets how bright a picture is and what tint it
    has, which translation between likes of one palette is to keep. With `resizes` a convolution of the enlarged map
    stands for each transposed one, whose overlaps leave a grid (Odena, Dumoulin & Olah 2016, "Deconvolution and
    checkerboard artifacts"). `noise` are channels of noise beside the picture's three: out of flat colour alone a
    convolution makes flat colour.
    """

    channels: int = 64
    blocks: int = 9
    adds: bool = False
    resizes: bool = False
    noise: int = 0

    def __post_init__(self) -> None:
        check_range("channels", self.channels, 1, MAX_WIDTH // MULTIPLE)
        check_range("blocks", self.blocks, 0, MAX_BLOCKS)
        check_range("noise", self.noise, 0, MAX_NOISE)

    @property
    def normalised(self) -> tuple[int, ...]:
        """The channels of each instance normalisation, in the order in which they are done."""
        width = self.channels
        return width, 2 * width, *(4 * width,) * (1 + 2 * self.blocks), 2 * width, width

    @property
    def reach(self) -> int:
        """Pixels from the middle of what an output pixel sees to its edge, but for the statistics."""
        # The two 7×7 convolutions, those of stride 2, the blocks at a quarter of the side, and the transposed ones.
        return 3 + 1 + 2 + 2 * MULTIPLE * self.blocks + 4 + 2 + 3


def instance_norm(x: Tensor) -> Tensor:
    """(x − mean) / √(variance + ε) of each picture and channel of x [N, C, H, W]."""
    return functional.instance_norm(x, eps=EPSILON)


class Block(nn.Module):
    """x + normalise(conv(relu(normalise(conv(x))))), both convolutions 3×3 over a reflected edge."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv0 = _convolution(channels, channels, 3)
        self.conv1 = _convolution(channels, channels, 3)

    def forward(self, x: Tensor, normalise: Normalise) -> Tensor:
        y = functional.relu(normalise(self.conv0(_reflected(x, 1))))
        return x + normalise(self.conv1(_reflected(y, 1)))


class Resized(nn.Conv2d):
    """A 3×3 convolution of x [N, C, H, W] at twice its size, over a reflected edge."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3)
        nn.init.normal_(self.weight, std=INITIAL_STD)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_reflected(functional.interpolate(x, scale_factor=2.0, mode="nearest"), 1))


class Residual(nn.Module):
    """Pictures [N, 3 + noise, H, W] in [-1, 1], the noise behind the colours, to pictures [N, 3, H, W].

    The sides are multiples of MULTIPLE, 8 or more.
    """

    def __init__(self, config: ResidualConfig):
        super().__init__()
        self.config = config
        width = config.channels
        self.head = _convolution(3 + config.noise, width, 7)
        self.down0 = _convolution(width, 2 * width, 3, stride=2)
        self.down1 = _convolution(2 * width, 4 * width, 3, stride=2)
        self.blocks = nn.ModuleList([Block(4 * width) for _ in range(config.blocks)])
        up: Callable[[int, int], nn.Module] = Resized if config.resizes else _transposed
        self.up0 = up(4 * width, 2 * width)
        self.up1 = up(2 * width, width)
        self.to_rgb = _convolution(width, 3, 7)

    def forward(self, pictures: Tensor, normalise: Normalise = instance_norm) -> Tensor:
        """`normalise` is done after each convolution but the last, in the order of `config.normalised`."""
        x = functional.relu(normalise(self.head(_reflected(pictures, 3))))
        for layer in (self.down0, self.down1):
            x = functional.relu(normalise(layer(x)))
        for block in self.blocks:
            x = block(x, normalise)
        for up in (self.up0, self.up1):
            x = functional.relu(normalise(up(x)))
        made = cast(Tensor, self.to_rgb(_reflected(x, 3)))
        return pictures[:, :3] + made if self.config.adds else made.tanh()


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    # Those of stride 1 come after a reflected edge.
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=1 if stride > 1 else 0)
    nn.init.normal_(layer.weight, std=INITIAL_STD)
    return layer


def _transposed(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    layer = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
    nn.init.normal_(layer.weight, std=INITIAL_STD)
    return layer


def _reflected(x: Tensor, pixels: int) -> Tensor:
    return functional.pad(x, (pixels,) * 4, mode="reflect")


class Statistics:
    """Instance normalisation by statistics [N, 2, ΣC], means and variances, or where `own` [N, 1] is 1 by a row's own.

    `measured` are those that the rows have. A part of a picture that is normalised by the whole picture's statistics
    is that part of the whole picture's translation.
    """

    def __init__(self, statistics: Tensor, own: Tensor, channels: tuple[int, ...]) -> None:
        self._given = iter(torch.split(statistics, list(channels), dim=2))
        self._own = own
        self._means: list[Tensor] = []
        self._variances: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        given = next(self._given)
        measured = x.mean(dim=(2, 3))
        # From the mean that is measured and not the one in use: so both are of the row alone.
        variance = (x - measured[:, :, None, None]).square().mean(dim=(2, 3))
        self._means.append(measured)
        self._variances.append(variance)
        mean = self._own * measured + (1.0 - self._own) * given[:, 0]
        scale = (self._own * variance + (1.0 - self._own) * given[:, 1] + EPSILON).rsqrt()
        return (x - mean[:, :, None, None]) * scale[:, :, None, None]

    @property
    def measured(self) -> Tensor:
        """[N, 2, ΣC]."""
        return torch.stack([torch.cat(self._means, dim=1), torch.cat(self._variances, dim=1)], dim=1)


class Translator(nn.Module):
    """The generator as a graph that translates whole pictures, measures their statistics, or translates parts by them.

    source [N, 3 + noise, H, W], statistics [N, 2, ΣC], own [N, 1] → image_float [N, 3, H, W], measured [N, 2, ΣC].
    """

    def __init__(self, generator: Residual):
        super().__init__()
        self.generator = generator

    def forward(self, source: Tensor, statistics: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        shared = Statistics(statistics, own, self.generator.config.normalised)
        pictures = self.generator(source, shared)
        return pictures, shared.measured


def _graphs(generator: Residual) -> Mapping[str, Graph]:
    translator = Translator(generator)
    config = generator.config

    def noise(row: int) -> Tensor:
        return torch.rand(3 + config.noise, 64, 48, generator=torch.Generator().manual_seed(row)) * 2.0 - 1.0

    with torch.inference_mode():
        _, statistics = translator(noise(0)[None], torch.zeros(1, 2, sum(config.normalised)), torch.ones(1, 1))

    def draw(rows: int) -> dict[str, Tensor]:
        """Noise, each second row normalised by the statistics of the first."""
        own = torch.tensor([[1.0 - row % 2] for row in range(rows)])
        given = statistics.clone().repeat(rows, 1, 1)
        return {"source": torch.stack([noise(row) for row in range(rows)]), "statistics": given, "own": own}

    def reference(source: Tensor, statistics: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        pictures, measured = translator(source, statistics, own)
        return (generator(source) if bool(own.all()) else pictures), measured

    outputs = ("image_float", "measured")
    return {"translator": Graph(translator, draw, reference, outputs, free_sides=("source",))}


def _interface(config: ResidualConfig) -> Interface:
    image = Spec("image", "UINT8", (-1, -1, -1, 3), "picture to translate, of any size")
    # What is nearer to a tile's edge than the reach is not what the whole picture has there.
    overlap = min(2 * config.reach, TILE // 2) // MULTIPLE * MULTIPLE
    defaults = {"tile": TILE, "overlap": overlap, "multiple": MULTIPLE}
    seed = (Spec("seed", "INT64", (-1, 1), "of the noise beside the picture"),) if config.noise else ()
    return Interface(TILE, TILE, (image, *seed), free_pictures(), defaults)


def _read_cyclegan(sources: Sources) -> ForeignState | None:
    """`latest_net_G.pth` of the CycleGAN and pix2pix in PyTorch: `model`, a sequence that holds the blocks too."""
    named = {name.removeprefix("module."): source for name, source in sources.items()}
    if "model.1.weight" not in named or not any(".conv_block." in name for name in named):
        return None
    # Older files have what instance normalisation once kept and never used.
    unused = (".running_mean", ".running_var", ".num_batches_tracked")
    found = {name: source for name, source in named.items() if not name.endswith(unused)}
    if any(re.fullmatch(r"model\.(2|10\.conv_block\.2)\.weight", name) for name in found):
        raise CheckpointError("found batch normalisation; allowed is a generator with instance normalisation")
    blocks = len({match[1] for name in found if (match := re.match(r"model\.(\d{1,3})\.conv_block\.", name))})
    shape = shape_of(found, "model.1.weight", 4)
    if shape[1] != 3:
        raise CheckpointError(f"model.1.weight: found pictures of {shape[1]} channels; allowed are 3")
    try:
        config = ResidualConfig(channels=shape[0], blocks=blocks)
    except ValueError as error:
        raise CheckpointError(f"found tensors that fit no residual generator: {error}") from error
    return ForeignState(config, {_our_name(name, blocks): source for name, source in found.items()}, "CycleGAN")


def _our_name(name: str, blocks: int) -> str:
    layers = {1: "head", 4: "down0", 7: "down1", 10 + blocks: "up0", 13 + blocks: "up1", 17 + blocks: "to_rgb"}
    match = re.fullmatch(r"model\.(\d{1,3})(?:\.conv_block\.(\d))?\.(weight|bias)", name)
    if match and match[2] is None and int(match[1]) in layers:
        return f"{layers[int(match[1])]}.{match[3]}"
    # With dropout the second convolution is one place further on.
    places = {"1": "conv0", "5": "conv1", "6": "conv1"}
    if match and match[2] in places and 10 <= int(match[1]) < 10 + blocks:
        return f"blocks.{int(match[1]) - 10}.{places[match[2]]}.{match[3]}"
    raise CheckpointError(f"found the tensor {name[:80]!r}, which no residual generator of {blocks} blocks has")


FAMILY = Family(config=ResidualConfig, build=Residual, graphs=_graphs, interface=_interface, foreign=_read_cyclegan)
