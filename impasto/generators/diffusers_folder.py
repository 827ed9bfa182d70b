"""Read a diffusers folder (`model_index.json` and a folder for each component) as data.

Nothing in it is imported or run: weights are safetensors, classes are names on a closed list, and every size that a
config states is held against what the weights' files have before anybody builds a module from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from impasto.errors import CheckpointError
from impasto.generators.foreign.class_labels import read_class_labels
from impasto.generators.foreign.clip_vocabulary import ClipVocabulary, read_vocabulary
from impasto.generators.foreign.folder import Folder
from impasto.generators.foreign.plain_values import shown
from impasto.generators.foreign.safetensors_files import StoredWeights, find_weights

INDEX = "model_index.json"
LABELS = "id2label"
"""Where a pipeline's index has the names of its classes, if it has any."""
MAX_LIST = 16  # blocks of a network; the longest list of any config is one entry a block
MAX_SIDE = 1024
MIN_SIZE = 1024  # a config's integer that is no larger costs nothing, whatever it counts
DEPTHS = ("layers_per_block", "transformer_layers_per_block", "reverse_transformer_layers_per_block")
LAYERS = ("num_layers", "num_hidden_layers")

Kind = Literal["pixel", "stable-diffusion", "stable-diffusion-xl", "stable-diffusion-3", "dit"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The components that a pipeline has, with the classes that each may be of, and the options beside them."""

    kind: Kind
    classes: Mapping[str, tuple[str, ...]]
    options: tuple[str, ...] = ()


_Classes = Mapping[str, tuple[str, ...]]
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
_CONDITIONAL: _Classes = {"unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL",)}
_TEXT: _Classes = {"text_encoder": ("CLIPTextModel",), "tokenizer": _TOKENIZERS}
_SECOND_TEXT: _Classes = {"text_encoder_2": ("CLIPTextModelWithProjection",), "tokenizer_2": _TOKENIZERS}
_PIXEL = Layout("pixel", {"unet": ("UNet2DModel",)})
_STABLE_DIFFUSION = Layout("stable-diffusion", {**_CONDITIONAL, **_TEXT}, ("requires_safety_checker",))
LAYOUTS: dict[str, Layout] = {
    "DDPMPipeline": _PIXEL,
    "DDIMPipeline": _PIXEL,
    "StableDiffusionPipeline": _STABLE_DIFFUSION,
    "StableDiffusionImg2ImgPipeline": _STABLE_DIFFUSION,
    "StableDiffusionInpaintPipeline": _STABLE_DIFFUSION,
    "StableDiffusionXLPipeline": Layout(
        "stable-diffusion-xl",
        {**_CONDITIONAL, **_TEXT, **_SECOND_TEXT},
        ("force_zeros_for_empty_prompt", "add_watermarker"),
    ),
    "StableDiffusion3Pipeline": Layout(
        "stable-diffusion-3",
        {
            "transformer": ("SD3Transformer2DModel",),
            "vae": ("AutoencoderKL",),
            "text_encoder": ("CLIPTextModelWithProjection",),
            "tokenizer": _TOKENIZERS,
            **_SECOND_TEXT,
        },
    ),
    "DiTPipeline": Layout(
        "dit",
        {"transformer": ("DiTTransformer2DModel", "Transformer2DModel"), "vae": ("AutoencoderKL",)},
        (LABELS,),
    ),
}
LIBRARIES = {"CLIP": "transformers"}
IGNORED = ("safety_checker", "feature_extractor")  # they look at the finished picture; no part in making it
MUST_BE_NULL = ("image_encoder", "text_encoder_3", "tokenizer_3")


@dataclasses.dataclass(frozen=True, eq=False)
class Component:
    """A network: its class, its config as the file says, and where its weights are."""

    name: str
    class_name: str
    config: dict[str, Any]
    weights: StoredWeights


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
    """A diffusers pipeline as it was read; no tensor is loaded yet.

    `components` are its networks by name, `tokenizers` the vocabularies of its text encoders in their order,
    `scheduler` its scheduler's config with `_class_name`. With `zero_negative` no negative prompt means embeddings of
    zeros, and not those of an empty prompt. `class_names` are those of its classes by index, none if it has no labels.
    """

    folder: Path
    class_name: str
    kind: Kind
    components: dict[str, Component]
    tokenizers: dict[str, ClipVocabulary]
    scheduler: dict[str, Any]
    zero_negative: bool
    class_names: tuple[str, ...]


def read_pipeline(folder: Path) -> Pipeline:
    """Read a diffusers folder; CheckpointError names the file and field that it cannot be, with nothing loaded.

    Taken are DDPM and DDIM pipelines of a UNet2DModel, Stable Diffusion 1.x and 2.x (text, image and inpainting),
    SDXL, Stable Diffusion 3 without its T5 encoder, and DiT.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: found no folder; a diffusers pipeline is one, with {INDEX}")
    try:
        return _read(Folder(folder.resolve()), folder)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot read it: {error.strerror}") from error


def _read(folder: Folder, path: Path) -> Pipeline:
    index = folder.object(INDEX)
    class_name = index.get("_class_name")
    layout = LAYOUTS.get(class_name) if isinstance(class_name, str) else None
    if layout is None or not isinstance(class_name, str):
        found = "code of its own" if isinstance(class_name, list) else shown(class_name)
        raise CheckpointError(f"{INDEX}: _class_name: found {found}; allowed are {', '.join(LAYOUTS)}")
    classes = dict(_classes(index, layout))
    tokenizers = {name: read_vocabulary(folder, name) for name in classes if name.startswith("tokenizer")}
    networks = [name for name in layout.classes if name not in tokenizers]
    return Pipeline(
        folder=path,
        class_name=class_name,
        kind=layout.kind,
        components={name: _component(folder, name, classes[name]) for name in networks},
        tokenizers=dict(sorted(tokenizers.items())),
        scheduler=folder.object("scheduler/scheduler_config.json") | {"_class_name": classes["scheduler"]},
        zero_negative=index.get("force_zeros_for_empty_prompt", layout.kind == "stable-diffusion-xl") is True,
        class_names=read_class_labels(index.get(LABELS), f"{INDEX}: {LABELS}"),
    )


def _classes(index: dict[str, Any], layout: Layout) -> Iterator[tuple[str, str]]:
    """The class of each component, of those that the layout has; refuses any other entry of the index."""
    for name, entry in index.items():
        if name.startswith("_") or name in layout.options or name in IGNORED:
            continue
        if name in MUST_BE_NULL and entry in (None, [None, None]):
            continue
        if name not in layout.classes and name != "scheduler":
            raise CheckpointError(f"{INDEX}: {shown(name)}: found an entry that {layout.kind} pipelines do not have")
        match entry:
            case [str(library), str(class_name)]:
                _check_class(name, library, class_name, layout)
                yield name, class_name
            case _:
                raise CheckpointError(f"{INDEX}: {name}: found {shown(entry)}; allowed is a library and its class")
    for name in (*layout.classes, "scheduler"):
        if name not in index:
            raise CheckpointError(f"{INDEX}: {name}: found none; a {layout.kind} pipeline has it")


def _check_class(name: str, library: str, class_name: str, layout: Layout) -> None:
    if name == "scheduler":
        allowed = ("diffusers", "a scheduler of diffusers")
        known = library == "diffusers" and class_name.isidentifier()
    else:
        expected = LIBRARIES.get(layout.classes[name][0][:4], "diffusers")
        allowed = (expected, " or ".join(layout.classes[name]))
        known = library == expected and class_name in layout.classes[name]
    if not known:
        raise CheckpointError(
            f"{INDEX}: {name}: found {shown(f'{library}.{class_name}')}; allowed is {'.'.join(allowed)}"
        )


def _component(folder: Folder, name: str, class_name: str) -> Component:
    where = f"{name}/config.json"
    config = folder.object(where)
    if "auto_map" in config:
        raise CheckpointError(f"{where}: auto_map: found code of its own; allowed are classes of diffusers")
    stated = config.get("_class_name", class_name)
    if stated != class_name:
        raise CheckpointError(f"{where}: _class_name: found {shown(stated)}; {INDEX} says {class_name!r}")
    stem = "model" if class_name.startswith("CLIP") else "diffusion_pytorch_model"
    weights = find_weights(folder, name, stem)
    _check_sizes(config, weights, where)
    return Component(name, class_name, config, weights)


def _check_sizes(config: dict[str, Any], weights: StoredWeights, where: str) -> None:
    """Refuse a config whose module would be larger than its weights: widths, depths and position tables."""
    largest = max(weights.largest_dimension, MIN_SIZE)
    for name, value in config.items():
        if name.startswith("_") or isinstance(value, dict):
            continue
        for number in _numbers(value, f"{where}: {name}"):
            if not -largest <= number <= largest:
                raise CheckpointError(
                    f"{where}: {name}: found {shown(number)}; its weights have no dimension above {largest}"
                )
    blocks = config.get("block_out_channels")
    layers = math.prod(_largest(config.get(name)) for name in DEPTHS) * (len(blocks) if isinstance(blocks, list) else 1)
    for depth in (layers, *(_largest(config.get(name)) for name in LAYERS)):
        if depth > len(weights.tensors):
            raise CheckpointError(f"{where}: found {depth} layers; its weights are {len(weights.tensors)} tensors")
    side = _largest(config.get("sample_size"))
    if side > MAX_SIDE:
        raise CheckpointError(f"{where}: sample_size: found {side}; allowed are {MAX_SIDE}")
    patches = max(side // max(_largest(config.get("patch_size")), 1), _largest(config.get("pos_embed_max_size")))
    width = _largest(config.get("num_attention_heads")) * _largest(config.get("attention_head_dim"))
    if "patch_size" in config and patches**2 * width > weights.elements:
        raise CheckpointError(
            f"{where}: sample_size, num_attention_heads, attention_head_dim: found {patches}² positions of {width} "
            f"numbers; its weights are {weights.elements} in all"
        )


def _numbers(value: object, where: str, depth: int = 0) -> Iterator[float]:
    """The numbers of a setting: a scalar, or a list of few of them, nested once at most."""
    if isinstance(value, list):
        if len(value) > MAX_LIST or depth > 1:
            raise CheckpointError(f"{where}: found {len(value)} entries; allowed are {MAX_LIST}, nested once")
        for part in value:
            yield from _numbers(part, where, depth + 1)
    elif isinstance(value, dict):
        raise CheckpointError(f"{where}: found an object in a list; allowed are numbers and text")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def _largest(value: object) -> int:
    """The largest integer of a setting, at least 0; 1 for one that is not given."""
    return max([0, *(int(number) for number in _numbers(value, ""))]) if value is not None else 1
