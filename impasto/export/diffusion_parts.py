"""The graphs that a diffusion pipeline is exported as, and the shapes of what goes in and comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from impasto.errors import CheckpointError
from impasto.export import diffusion_graphs as graphs
from impasto.generators.diffusers_folder import Pipeline
from impasto.generators.foreign.plain_values import shown

MASK_CHANNELS = 1
T5_LENGTH = 256  # zeros that stand for the third encoder of Stable Diffusion 3, as many as its pipeline takes
SIZE_NUMBERS = 6
SIZED_INPUTS = ("sample", "latent", "image_float")
UNET_WITHOUT = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim")
USUAL_LATENT_SIDE = 64

Draw = Callable[[int, torch.Generator], Tensor]
"""Values like those of one input: [batch, …]."""
Networks = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """One graph: its module, how each of its inputs is drawn for an example, and the names of its outputs.

    The inputs in `free_sides` may have another height and width.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Draw]
    outputs: tuple[str, ...]
    free_sides: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        return f"{self.name}.onnx"

    def example(self, batch: int) -> dict[str, Tensor]:
        """Inputs of so many rows, always the same."""
        generator = torch.Generator().manual_seed(batch)
        return {name: draw(batch, generator) for name, draw in self.inputs.items()}


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Sizes of a pipeline: latent [C, h, w], channels of the denoiser's input, and of texts and classes where it has.

    `scale` is the pixels of a latent's side; `text` the length and width of encoder_hidden_states; `pooled` the width
    of text_embeds; `classes` how many there are, `null_class` the one that stands for none. `multiple` is what sides of
    other latents must be multiples of, None where the model takes no other size.
    """

    latent: tuple[int, int, int]
    sample_channels: int
    scale: int = 1
    text: tuple[int, int] | None = None
    pooled: int | None = None
    classes: int = 0
    null_class: int | None = None
    multiple: int | None = None

    @property
    def sides(self) -> tuple[int, int]:
        """The least and the most that a side of a latent may have, of a model that takes other sizes.

        Beyond one and a half times what it was trained at, a model repeats what it shows, and attention takes five
        times the memory; below twice `multiple`, its deepest level would have one place.
        """
        assert self.multiple is not None
        return 2 * self.multiple, 3 * max(self.latent[1:]) // 2 // self.multiple * self.multiple

    def of_size(self, height: int, width: int) -> Shapes:
        """The same for latents of that size."""
        return dataclasses.replace(self, latent=(self.latent[0], height, width))


def shapes_of(pipeline: Pipeline, networks: Networks) -> Shapes:
    """The sizes; CheckpointError names the config of a network that does not fit the others, or is of another use."""
    match pipeline.kind:
        case "pixel":
            return _pixel_shapes(networks)
        case "dit":
            return _class_shapes(networks)
        case "stable-diffusion-3":
            return _flow_shapes(pipeline, networks)
        case "stable-diffusion" | "stable-diffusion-xl":
            return _text_shapes(pipeline, networks)


def _pixel_shapes(networks: Networks) -> Shapes:
    config = networks["unet"].config
    for setting, allowed in (("in_channels", 3), ("out_channels", 3), ("class_embed_type", None)):
        _require("unet", config, setting, allowed)
    return Shapes((3, *_sides("unet", config, None)), 3, classes=config.num_class_embeds or 0)


def _class_shapes(networks: Networks) -> Shapes:
    config = networks["transformer"].config
    channels, scale = _autoencoder(networks)
    _require("transformer", config, "in_channels", channels)
    _require("transformer", config, "out_channels", channels, 2 * channels)
    classes: int = config.num_embeds_ada_norm
    latent = (channels, *_sides("transformer", config, None))
    return Shapes(latent, channels, scale, classes=classes, null_class=classes)


def _flow_shapes(pipeline: Pipeline, networks: Networks) -> Shapes:
    config = networks["transformer"].config
    channels, scale = _autoencoder(networks)
    for setting in ("in_channels", "out_channels"):
        _require("transformer", config, setting, channels)
    length, text = _text_shape(pipeline, networks)
    width: int = config.joint_attention_dim
    if width < text:
        raise CheckpointError(f"transformer/config.json: joint_attention_dim: found {width}; its text is {text} wide")
    pooled = sum(networks[encoder].config.projection_dim for encoder in ("text_encoder", "text_encoder_2"))
    _require("transformer", config, "pooled_projection_dim", pooled)
    latent = (channels, *_sides("transformer", config, None))
    return Shapes(latent, channels, scale, (length + T5_LENGTH, width), pooled)


def _text_shapes(pipeline: Pipeline, networks: Networks) -> Shapes:
    config = networks["unet"].config
    channels, scale = _autoencoder(networks)
    text = _text_shape(pipeline, networks)
    sized = pipeline.kind == "stable-diffusion-xl"
    for setting in UNET_WITHOUT:
        _require("unet", config, setting, None)
    _require("unet", config, "in_channels", channels, 2 * channels + MASK_CHANNELS)
    _require("unet", config, "out_channels", channels)
    _require("unet", config, "cross_attention_dim", text[1])
    _require("unet", config, "addition_embed_type", "text_time" if sized else None)
    pooled = None
    if sized:
        pooled = networks["text_encoder_2"].config.projection_dim
        widths = SIZE_NUMBERS * config.addition_time_embed_dim + pooled
        _require("unet", config, "projection_class_embeddings_input_dim", widths)
    height, width = _sides("unet", config, USUAL_LATENT_SIDE)
    halvings = len(config.block_out_channels) - 1
    multiple = None if height % 2**halvings or width % 2**halvings else 2**halvings
    return Shapes((channels, height, width), config.in_channels, scale, text, pooled, multiple=multiple)


def parts_of(pipeline: Pipeline, networks: Networks, shapes: Shapes) -> list[Part]:
    """The graphs: the denoiser, and of latent models the encoders of text, the decoder and the encoder of pictures."""
    parts = [_denoiser(pipeline, networks, shapes)]
    if shapes.text is not None:
        parts.append(_text_encoder(pipeline, networks, shapes))
    if "vae" in networks:
        picture = (3, shapes.latent[1] * shapes.scale, shapes.latent[2] * shapes.scale)
        parts += [
            Part("decoder", graphs.Decoder(networks["vae"]), {"latent": _normal(*shapes.latent)}, ("image_float",)),
            Part("encoder", graphs.Encoder(networks["vae"]), {"image_float": _normal(*picture)}, ("mean", "std")),
        ]
    return parts if shapes.multiple is None else [_with_free_sides(part) for part in parts]


def _with_free_sides(part: Part) -> Part:
    return dataclasses.replace(part, free_sides=tuple(name for name in part.inputs if name in SIZED_INPUTS))


def _denoiser(pipeline: Pipeline, networks: Networks, shapes: Shapes) -> Part:
    network = networks["transformer"] if "transformer" in networks else networks["unet"]
    inputs: dict[str, Draw] = {
        "sample": _normal(shapes.sample_channels, *shapes.latent[1:]),
        "timestep": lambda batch, generator: 1000.0 * torch.rand(batch, generator=generator),
    }
    if shapes.text is not None:
        inputs["encoder_hidden_states"] = _normal(*shapes.text)
    if shapes.pooled is not None:
        inputs["text_embeds"] = _normal(shapes.pooled)
    if pipeline.kind == "stable-diffusion-xl":
        inputs["time_ids"] = lambda batch, generator: 1024.0 * torch.rand(batch, SIZE_NUMBERS, generator=generator)
    if shapes.classes:
        inputs["class_labels"] = _integers(shapes.classes)
    module: nn.Module
    match pipeline.kind:
        case "stable-diffusion":
            module = graphs.TextDenoiser(network)
        case "stable-diffusion-xl":
            module = graphs.SizedTextDenoiser(network)
        case "stable-diffusion-3":
            module = graphs.PooledTextDenoiser(network)
        case _ if shapes.classes:
            module = graphs.ClassDenoiser(network, shapes.latent[0])
        case _:
            module = graphs.Denoiser(network)
    return Part("denoiser", module, inputs, ("output",))


def _text_encoder(pipeline: Pipeline, networks: Networks, shapes: Shapes) -> Part:
    assert shapes.text is not None
    vocabularies = list(pipeline.tokenizers.values())
    names = input_names(pipeline)
    length = vocabularies[0].max_length
    inputs = {
        name: _integers(len(vocabulary.tokens), length) for name, vocabulary in zip(names, vocabularies, strict=True)
    }
    if pipeline.kind == "stable-diffusion":
        module: nn.Module = graphs.TextEncoder(networks["text_encoder"], length)
        return Part("text_encoder", module, inputs, ("encoder_hidden_states",))
    encoders = [networks["text_encoder"], networks["text_encoder_2"]]
    pooling = (1,) if pipeline.kind == "stable-diffusion-xl" else (0, 1)
    module = graphs.TextEncoders(encoders, length, pooling, shapes.text)
    return Part("text_encoder", module, inputs, ("encoder_hidden_states", "text_embeds"))


def input_names(pipeline: Pipeline) -> list[str]:
    """The text encoder's input of each tokenizer: input_ids, input_ids_2."""
    return [name.replace("tokenizer", "input_ids") for name in pipeline.tokenizers]


def _text_shape(pipeline: Pipeline, networks: Networks) -> tuple[int, int]:
    """Length and width of the encoders' states side by side."""
    lengths = {vocabulary.max_length for vocabulary in pipeline.tokenizers.values()}
    if len(lengths) > 1:
        raise CheckpointError(f"tokenizer_2: model_max_length: found {sorted(lengths)}; allowed is one for both")
    width = 0
    for name, vocabulary in pipeline.tokenizers.items():
        encoder = name.replace("tokenizer", "text_encoder")
        config = networks[encoder].config
        if config.vocab_size < len(vocabulary.tokens):
            raise CheckpointError(
                f"{encoder}/config.json: vocab_size: found {config.vocab_size}; {name} has {len(vocabulary.tokens)}"
            )
        if config.max_position_embeddings < vocabulary.max_length:
            raise CheckpointError(
                f"{encoder}/config.json: max_position_embeddings: found {config.max_position_embeddings}; "
                f"{name} makes {vocabulary.max_length}"
            )
        width += config.hidden_size
    return lengths.pop(), width


def _autoencoder(networks: Networks) -> tuple[int, int]:
    """Channels of its latent, and pixels of a latent's side."""
    config = networks["vae"].config
    _require("vae", config, "out_channels", 3)
    return config.latent_channels, 2 ** (len(config.block_out_channels) - 1)


def _sides(name: str, config: Any, usual: int | None) -> tuple[int, int]:
    """Height and width of what is denoised."""
    found = config.sample_size
    match usual if found is None else found:
        case int(side):
            return side, side
        case [int(height), int(width)]:
            return height, width
    raise CheckpointError(f"{name}/config.json: sample_size: found {shown(found)}; allowed is a side, or both")


def _require(name: str, config: Any, setting: str, *allowed: Any) -> None:
    if (found := config.get(setting)) not in allowed:
        raise CheckpointError(
            f"{name}/config.json: {setting}: found {shown(found)}; allowed is {' or '.join(map(repr, allowed))}"
        )


def _normal(*shape: int) -> Draw:
    return lambda batch, generator: torch.randn(batch, *shape, generator=generator)


def _integers(high: int, *shape: int) -> Draw:
    return lambda batch, generator: torch.randint(high, (batch, *shape), generator=generator)
