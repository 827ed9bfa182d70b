"""The networks of a diffusers folder as torch modules, made by diffusers and transformers from config and tensors.

Nothing is fetched: the classes are named here, a config is only keyword arguments, and every tensor must be there with
the name and shape that the module has.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from impasto.errors import CheckpointError
from impasto.generators.diffusers_folder import Component
from impasto.generators.foreign.clip_vocabulary import ClipVocabulary
from impasto.generators.foreign.plain_values import shown
from impasto.generators.foreign.safetensors_files import FLOATS

CLASSES = {
    "UNet2DModel": diffusers.UNet2DModel,
    "UNet2DConditionModel": diffusers.UNet2DConditionModel,
    "DiTTransformer2DModel": diffusers.DiTTransformer2DModel,
    "Transformer2DModel": diffusers.DiTTransformer2DModel,  # its name before there was one class a kind
    "SD3Transformer2DModel": diffusers.SD3Transformer2DModel,
    "AutoencoderKL": diffusers.AutoencoderKL,
    "CLIPTextModel": transformers.CLIPTextModel,
    "CLIPTextModelWithProjection": transformers.CLIPTextModelWithProjection,
}
CLIP_SETTINGS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load_module(component: Component, dtype: torch.dtype) -> Any:
    """The module with its weights rounded to `dtype`, computing in float32, for inference.

    CheckpointError if the config builds no module, or one that has other tensors than the files.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in _build(component).state_dict().items()}
    names = _checked_names(component, expected)
    module = _build(component)
    state = module.state_dict()
    for name, tensor in component.weights.read():
        kept = tensor.to(dtype).float()
        if not bool(torch.isfinite(kept).all()):
            raise CheckpointError(f"{component.name}: {name}: found numbers above the largest of {dtype}")
        state[names[name]].copy_(kept)
    return module.eval().requires_grad_(False)


def load_tokenizer(vocabulary: ClipVocabulary) -> transformers.CLIPTokenizer:
    """CLIP's tokenizer as transformers makes it."""
    return transformers.CLIPTokenizer(
        vocab=dict(vocabulary.tokens),
        merges=list(vocabulary.merges),
        model_max_length=vocabulary.max_length,
        **vocabulary.special,
    )


def _build(component: Component) -> nn.Module:
    where = f"{component.name}/config.json"
    if component.class_name == "Transformer2DModel" and component.config.get("norm_type") != "ada_norm_zero":
        found = shown(component.config.get("norm_type"))
        raise CheckpointError(f"{where}: norm_type: found {found}; allowed is 'ada_norm_zero'")
    made = CLASSES[component.class_name]
    try:
        if component.class_name.startswith("CLIP"):
            settings = {name: component.config[name] for name in CLIP_SETTINGS if name in component.config}
            module: nn.Module = made(transformers.CLIPTextConfig(**settings, attn_implementation="eager"))
            return module
        known = inspect.signature(made.__init__).parameters
        module = made(**{name: value for name, value in component.config.items() if name in known})
        return module
    except Exception as error:  # whatever a network's constructor makes of a config that is wrong
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{where}: builds no {component.class_name}: {reason[:200]}") from error


def _checked_names(component: Component, expected: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The module's name of each tensor of the files."""
    tensors = {name: tensor for name, tensor in component.weights.tensors.items() if tensor.dtype in FLOATS}
    names = {name: _name_in_module(name, expected) for name in tensors}
    _refuse(component, "its weights lack", expected.keys() - set(names.values()))
    _refuse(component, "its config has no", {name for name, ours in names.items() if ours not in expected})
    if len(set(names.values())) != len(names):
        raise CheckpointError(f"{component.name}: found one tensor under two names")
    for name, tensor in tensors.items():
        if tensor.shape != expected[names[name]]:
            raise CheckpointError(
                f"{component.name}: {name}: found the shape {list(tensor.shape)}; "
                f"its config makes {list(expected[names[name]])}"
            )
    return names


def _name_in_module(name: str, expected: Mapping[str, tuple[int, ...]]) -> str:
    """The name as it is now: older files prefix a text model's tensors, and call the parts of attention otherwise."""
    attention = re.sub(
        r"\.(query|key|value|proj_attn)\.(weight|bias)$", lambda m: f".{_OLD_ATTENTION[m[1]]}.{m[2]}", name
    )
    for candidate in (name, name.removeprefix("text_model."), f"text_model.{name}", attention):
        if candidate in expected:
            return candidate
    return name


def _refuse(component: Component, fault: str, names: set[str]) -> None:
    if names:
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        listed = ", ".join(shown(name) for name in sorted(names)[:2])
        raise CheckpointError(f"{component.name}: {fault} {listed}{more}")
