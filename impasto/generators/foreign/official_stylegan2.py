"""The hyperparameters of an official StyleGAN2 generator: its arguments, checked against its tensors.

Two repositories have a StyleGAN2 class, and what it does when it is not told differs: stylegan2-ada-pytorch does not
clamp and has no fp16 blocks, the copy in stylegan3 clamps at 256 and has four. The copy takes the arguments of the
synthesis network flat; the original takes them as `synthesis_kwargs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

from impasto.errors import CheckpointError
from impasto.generators.foreign.official_pickle import PersistentObject
from impasto.generators.foreign.plain_values import shown
from impasto.generators.foreign.stylegan2_tensors import Sources, check_agreement, infer_config, stated_config
from impasto.generators.stylegan2_config import StyleGAN2Config

Repository = Literal["stylegan2-ada-pytorch", "stylegan3"]

POSITIONAL = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs")
MAPPING = ("num_layers", "embed_features", "layer_features", "activation", "lr_multiplier", "w_avg_beta")
SYNTHESIS = ("channel_base", "channel_max", "num_fp16_res", "conv_clamp")
WITHOUT_EFFECT = ("fp16_channels_last", "fused_modconv_default")
ONLY_VALUE: dict[str, Any] = {
    "architecture": "skip",
    "activation": "lrelu",
    "use_noise": True,
    "kernel_size": 3,
    "resample_filter": [1, 3, 3, 1],
}
OUR_NAMES = {"img_resolution": "resolution", "num_layers": "mapping_layers", "lr_multiplier": "mapping_lr_multiplier"}
CLASS_DEFAULTS: dict[Repository, dict[str, Any]] = {
    "stylegan2-ada-pytorch": {"conv_clamp": None, "num_fp16_res": 0},
    "stylegan3": {"conv_clamp": 256, "num_fp16_res": 4},
}
CHANNEL_DEFAULTS = {"channel_base": 32768, "channel_max": 512}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the class was called with: sizes, and the arguments of its two networks."""

    sizes: dict[str, Any]
    mapping: dict[str, Any]
    synthesis: dict[str, Any]
    repository: Repository


def official_config(network: PersistentObject, sources: Sources) -> tuple[StyleGAN2Config, Repository]:
    """The hyperparameters and whose class it is: as given, else read off the tensors, else the default of the class."""
    found = infer_config(sources)
    arguments = _official_arguments(network)
    mapping, synthesis = arguments.mapping, arguments.synthesis
    for name in ("embed_features", "layer_features"):
        _refuse_other_value(name, mapping.get(name), None, found.w_dim)
    _refuse_other_value("activation", mapping.get("activation", "lrelu"), "lrelu")
    for name, allowed in ONLY_VALUE.items():
        _refuse_other_value(name, synthesis.get(name, allowed), allowed)
    given = {OUR_NAMES.get(name, name): value for name, value in (arguments.sizes | mapping | synthesis).items()}
    defaults = CLASS_DEFAULTS[arguments.repository]
    if "channel_base" in given or "channel_max" in given:
        defaults = defaults | CHANNEL_DEFAULTS
    values = dataclasses.asdict(found) | defaults
    values |= {name: value for name, value in given.items() if name in values}
    stated = stated_config(values)
    check_agreement(stated, found)
    return stated, arguments.repository


def _official_arguments(network: PersistentObject) -> Arguments:
    """The arguments that the pickle keeps. CheckpointError if it keeps none, or one that is unknown here."""
    positional, given = network.state.get("_init_args", ()), network.state.get("_init_kwargs")
    if not isinstance(given, dict) or not isinstance(positional, (tuple, list)) or len(positional) > len(POSITIONAL):
        raise CheckpointError("_init_kwargs: found no arguments; an official generator keeps those it was made with")
    given = dict(zip(POSITIONAL, positional, strict=False)) | given
    mapping, nested = _arguments(given, "mapping_kwargs"), _arguments(given, "synthesis_kwargs")
    flat = {name: value for name, value in given.items() if name not in POSITIONAL}
    synthesis = nested | flat
    _refuse_unknown("mapping_kwargs", mapping, MAPPING)
    _refuse_unknown("synthesis_kwargs", synthesis, (*SYNTHESIS, *WITHOUT_EFFECT, *ONLY_VALUE))
    is_copy = bool(flat) or "fused_modconv_default" in nested or "fused_modconv_default" in network.module_src
    sizes = {name: given[name] for name in POSITIONAL[:5] if name in given}
    return Arguments(sizes, mapping, synthesis, "stylegan3" if is_copy else "stylegan2-ada-pytorch")


def _arguments(given: dict[str, Any], name: str) -> dict[str, Any]:
    value = given.get(name, {})
    if not isinstance(value, dict):
        raise CheckpointError(f"{name}: found {shown(value)}; allowed is a dict")
    return value


def _refuse_unknown(group: str, given: dict[str, Any], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise CheckpointError(f"{group}: found the argument {shown(name)}; allowed are {', '.join(known)}")


def _refuse_other_value(name: str, value: object, *allowed: object) -> None:
    if (list(value) if isinstance(value, tuple) else value) not in allowed:
        raise CheckpointError(f"{name}: found {shown(value)}; allowed is {' or '.join(map(repr, allowed))}")
