"""DCGAN: transposed convolutions from a latent to a picture (Radford, Metz & Chintala 2016), of classes where wanted.

A conditional generator has gains and biases of its own for each class in every batch normalisation (Dumoulin, Shlens &
Kudlur 2017; Miyato & Koyama 2018), and a self-attention block may stand at one resolution (Zhang et al. 2019).
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from impasto.errors import CheckpointError
from impasto.generators.family import Family, ForeignState, Graph, draw_latents
from impasto.generators.foreign.plain_values import shown
from impasto.generators.foreign.sources import Sources, shape_of
from impasto.generators.grey import as_rgb
from impasto.generators.interface import PSI, SEED, Interface, classes, latent, output_pictures
from impasto.generators.limits import MAX_WIDTH, check_power_of_two, check_range

INITIAL_STD = 0.02
EPSILON = 1e-5
MOMENTUM = 0.1


@dataclasses.dataclass(frozen=True)
class GANConfig:
    """Hyperparameters of a generator; the defaults are DCGAN's, whose pictures are of 64×64.

    `resolution` is a power of two from 8 to 1024; the feature map of half that side has `channel_base` channels, each
    half of it twice as many, up to `channel_max`. `c_dim` is the number of classes, 0 of an unconditional generator.
    `attention` is the side of the feature map that attends to itself, 0 for none.
    """

    resolution: int = 64
    z_dim: int = 100
    c_dim: int = 0
    img_channels: int = 3
    channel_base: int = 64
    channel_max: int = 512
    attention: int = 0

    def __post_init__(self) -> None:
        check_power_of_two("resolution", self.resolution, 8)
        for name in ("z_dim", "channel_base", "channel_max"):
            check_range(name, getattr(self, name), 1, MAX_WIDTH)
        check_range("c_dim", self.c_dim, 0, MAX_WIDTH)
        if self.img_channels not in (1, 3):
            raise ValueError(f"img_channels: found {self.img_channels}; allowed is 1 or 3")
        if self.attention and self.attention not in self.resolutions[:-1]:
            allowed = ", ".join(map(str, self.resolutions[:-1]))
            raise ValueError(f"attention: found {self.attention}; allowed is 0 or one of {allowed}")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """4, 8, … up to that of the picture."""
        return tuple(2**level for level in range(2, self.resolution.bit_length()))

    def channels(self, resolution: int) -> int:
        """Feature channels at a resolution below the picture's."""
        return min(self.channel_base * self.resolution // (2 * resolution), self.channel_max)


class BatchNorm(nn.Module):
    """Batch normalisation, in a conditional generator with gain and bias of the class: c·weight and c·bias."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, c_dim: int):
        super().__init__()
        shape = (c_dim, channels) if c_dim else (channels,)
        self.weight = nn.Parameter(1.0 + INITIAL_STD * torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        """x [N, C, H, W] and, if conditional, c [N, c_dim] → [N, C, H, W]."""
        conditional = self.weight.ndim == 2
        weight, bias = (None, None) if conditional else (self.weight, self.bias)
        x = functional.batch_norm(
            x, self.running_mean, self.running_var, weight, bias, self.training, MOMENTUM, EPSILON
        )
        return modulated(x, c, self.weight, self.bias) if conditional else x


def modulated(x: Tensor, c: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    """x·(c·weight) + c·bias for x [N, C, H, W], c [N, c_dim], weight and bias [c_dim, C]."""
    assert c is not None, "a conditional generator takes a class vector"
    return x * (c @ weight)[:, :, None, None] + (c @ bias)[:, :, None, None]


class SelfAttention(nn.Module):
    """x + gain·output(v·softmax(qᵀk)ᵀ) over all places; q, k, v are 1×1 convolutions of x, the gain begins at 0.

    Zhang et al. 2019, "Self-Attention Generative Adversarial Networks", eq. 1 to 3.
    """

    def __init__(self, channels: int):
        super().__init__()
        narrow, half = max(channels // 8, 1), max(channels // 2, 1)
        self.query = nn.Conv2d(channels, narrow, 1, bias=False)
        self.key = nn.Conv2d(channels, narrow, 1, bias=False)
        self.value = nn.Conv2d(channels, half, 1, bias=False)
        self.output = nn.Conv2d(half, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] → [N, C, H, W]."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        attention = torch.matmul(query.transpose(1, 2), key).softmax(dim=2)
        mixed = torch.matmul(value, attention.transpose(1, 2))
        attended: Tensor = self.output(mixed.reshape(*mixed.shape[:2], *x.shape[2:]))
        return x + self.gain * attended


class Block(nn.Module):
    """A transposed 4×4 convolution to twice the side, or from 1×1 to 4×4; batch normalisation; ReLU."""

    def __init__(self, inputs: int, resolution: int, config: GANConfig):
        super().__init__()
        self.resolution = resolution
        self.conv = _transposed(inputs, config.channels(resolution), resolution)
        self.norm = BatchNorm(config.channels(resolution), config.c_dim)

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        return functional.relu(self.norm(self.conv(x), c))


class GAN(nn.Module):
    """The generator: z [N, z_dim], and c [N, c_dim] if conditional, to pictures [N, img_channels, R, R] in [-1, 1]."""

    def __init__(self, config: GANConfig):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleDict()
        inputs = config.z_dim
        for resolution in config.resolutions[:-1]:
            self.blocks[f"b{resolution}"] = Block(inputs, resolution, config)
            inputs = config.channels(resolution)
        self.attention = SelfAttention(config.channels(config.attention)) if config.attention else None
        self.to_rgb = _transposed(inputs, config.img_channels, config.resolution)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        x = z[:, :, None, None]
        for resolution in self.config.resolutions[:-1]:
            x = self.blocks[f"b{resolution}"](x, c)
            if self.attention is not None and resolution == self.config.attention:
                x = self.attention(x)
        pictures: Tensor = self.to_rgb(x)
        return pictures.tanh()


def _transposed(inputs: int, outputs: int, resolution: int) -> nn.ConvTranspose2d:
    layer = nn.ConvTranspose2d(inputs, outputs, 4, *_stride_and_padding(resolution), bias=False)
    nn.init.normal_(layer.weight, std=INITIAL_STD)
    return layer


def _stride_and_padding(resolution: int) -> tuple[int, int]:
    return (1, 0) if resolution == 4 else (2, 1)


class FrozenBlock(nn.Module):
    """A block with its normalisation folded into the convolution; what a class adds to it stays apart."""

    weight: Tensor
    bias: Tensor

    def __init__(self, block: Block):
        super().__init__()
        norm = block.norm
        self.stride_and_padding = _stride_and_padding(block.resolution)
        self.conditional = norm.weight.ndim == 2
        scale = (norm.running_var + EPSILON).rsqrt()
        shift = -norm.running_mean * scale
        if self.conditional:
            self.register_buffer("class_weight", norm.weight.detach())
            self.register_buffer("class_bias", norm.bias.detach())
        else:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
        self.register_buffer("weight", (block.conv.weight * scale[:, None, None]).detach())
        self.register_buffer("bias", shift.detach())

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        x = functional.conv_transpose2d(x, self.weight, self.bias, *self.stride_and_padding)
        if self.conditional:
            x = modulated(x, c, self.get_buffer("class_weight"), self.get_buffer("class_bias"))
        return functional.relu(x)


def frozen(generator: GAN) -> GAN:
    """The same generator for inference, without batch normalisation."""
    copied = copy.deepcopy(generator).eval()
    for name, block in generator.blocks.items():
        assert isinstance(block, Block)
        copied.blocks[name] = FrozenBlock(block)
    return copied


class PictureGenerator(nn.Module):
    """The generator with pictures of three channels."""

    def __init__(self, generator: GAN):
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return as_rgb(self.generator(z, c))


def _graphs(generator: GAN) -> Mapping[str, Graph]:
    config = generator.config

    def draw(rows: int) -> dict[str, Tensor]:
        drawn = {"z": draw_latents(rows, config.z_dim)}
        if config.c_dim:
            drawn["c"] = torch.eye(config.c_dim)[torch.arange(rows) % config.c_dim]
        return drawn

    return {"decoder": Graph(PictureGenerator(frozen(generator)), draw, PictureGenerator(generator))}


def _interface(config: GANConfig) -> Interface:
    side = config.resolution
    inputs = (SEED, latent(config.z_dim), PSI, *classes(config.c_dim))
    return Interface(side, side, inputs, output_pictures(side, side), {"psi": 1.0})


def _read_dcgan(sources: Sources) -> ForeignState | None:
    """The generator of the DCGAN in pytorch/examples and the tutorial: `main`, a sequence of layers in threes."""
    names = {name.removeprefix("module."): name for name in sources}
    if "main.0.weight" not in names:
        return None
    found = {name: sources[names[name]] for name in names if not name.endswith(".num_batches_tracked")}
    layers = sorted(int(match[1]) for name in found if (match := re.fullmatch(r"main\.(\d{1,3})\.weight", name)))
    convolutions = layers[::2]
    if len(convolutions) < 2 or layers != [index for index in range(layers[-1] + 1) if index % 3 < 2]:
        raise CheckpointError(f"found weights of the layers {layers[:9]} of main; allowed are 0, 1, 3, 4, 6 and so on")
    shapes = [shape_of(found, f"main.{index}.weight", 4) for index in convolutions]
    try:
        config = GANConfig(
            resolution=4 * 2 ** (len(convolutions) - 1),
            z_dim=shapes[0][0],
            img_channels=shapes[-1][1],
            channel_base=shapes[-1][0],
            channel_max=max(shape[1] for shape in shapes[:-1]),
        )
    except ValueError as error:
        raise CheckpointError(f"found tensors that fit no DCGAN: {error}") from error
    renamed = {_our_name(name, config): source for name, source in found.items()}
    return ForeignState(config, renamed, "pytorch-examples DCGAN")


def _our_name(name: str, config: GANConfig) -> str:
    if (match := re.fullmatch(r"main\.(\d{1,3})\.(.+)", name)) is None:
        raise CheckpointError(f"found the tensor {shown(name)}, which no DCGAN generator of pytorch/examples has")
    layer, kind = divmod(int(match[1]), 3)
    resolution = 4 * 2**layer
    if resolution == config.resolution:
        return f"to_rgb.{match[2]}"
    return f"blocks.b{resolution}.{('conv', 'norm', 'relu')[kind]}.{match[2]}"


FAMILY = Family(config=GANConfig, build=GAN, graphs=_graphs, interface=_interface, foreign=_read_dcgan)
