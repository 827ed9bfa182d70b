"""The hyperparameters of an official StyleGAN2 generator: its arguments, checked against its tensors.

Two repositories have a StyleGAN2 class, and what it does when it is not told differs: stylegan2-ada-pytorch does not
clamp and has no fp16 blocks, the copy in stylegan3 clamps at 256 and has four. The copy takes the arguments of the
synthesis network flat; the original takes them as `synthesis_kwargs`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from impasto.generators.foreign.official_arguments import (
    check_mapping,
    official_arguments,
    refuse_other_value,
    refuse_unknown,
)
from impasto.generators.foreign.official_pickle import PersistentObject
from impasto.generators.foreign.sources import Sources, stated_config
from impasto.generators.foreign.stylegan2_tensors import check_agreement, infer_config
from impasto.generators.stylegan2_config import StyleGAN2Config

Repository = Literal["stylegan2-ada-pytorch", "stylegan3"]

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


def stylegan2_config(network: PersistentObject, sources: Sources) -> tuple[StyleGAN2Config, Repository]:
    """The hyperparameters and whose class it is: as given, else read off the tensors, else the default of the class."""
    found = infer_config(sources)
    arguments = official_arguments(network)
    synthesis = arguments.synthesis
    refuse_unknown("synthesis_kwargs", synthesis, (*SYNTHESIS, *WITHOUT_EFFECT, *ONLY_VALUE))
    check_mapping(arguments.mapping, found.w_dim)
    for name, allowed in ONLY_VALUE.items():
        refuse_other_value(name, synthesis.get(name, allowed), allowed)
    given = arguments.sizes | arguments.mapping | synthesis
    given = {OUR_NAMES.get(name, name): value for name, value in given.items()}
    is_copy = bool(arguments.flat) or any("fused_modconv_default" in x for x in (arguments.nested, network.module_src))
    repository: Repository = "stylegan3" if is_copy else "stylegan2-ada-pytorch"
    defaults = CLASS_DEFAULTS[repository]
    if "channel_base" in given or "channel_max" in given:
        defaults = defaults | CHANNEL_DEFAULTS
    values = dataclasses.asdict(found) | defaults
    values |= {name: value for name, value in given.items() if name in values}
    stated = stated_config(StyleGAN2Config, values)
    check_agreement(stated, found)
    return stated, repository
