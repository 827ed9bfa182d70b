"""The hyperparameters of an official StyleGAN3 generator: its arguments, checked against its tensors."""

from __future__ import annotations

import dataclasses
import math

from impasto.generators.foreign.official_arguments import (
    check_mapping,
    official_arguments,
    refuse_other_value,
    refuse_unknown,
)
from impasto.generators.foreign.official_pickle import PersistentObject
from impasto.generators.foreign.sources import Sources, stated_config
from impasto.generators.foreign.stylegan3_tensors import check_agreement, infer_config, layer_names
from impasto.generators.stylegan3 import OUTPUT_SCALE
from impasto.generators.stylegan3_config import (
    CRITICAL_LAYERS,
    FIRST_CUTOFF,
    FIRST_STOPBAND,
    LAST_STOPBAND,
    MARGIN,
    OVERSAMPLING,
    TAPS_PER_FACTOR,
    StyleGAN3Config,
)

SYNTHESIS = ("channel_base", "channel_max", "num_layers", "conv_kernel", "use_radial_filters", "conv_clamp")
WITHOUT_EFFECT = ("num_fp16_res", "magnitude_ema_beta")
ONLY_VALUE: dict[str, float] = {
    "num_critical": CRITICAL_LAYERS,
    "first_cutoff": FIRST_CUTOFF,
    "first_stopband": FIRST_STOPBAND,
    "last_stopband_rel": LAST_STOPBAND,
    "margin_size": MARGIN,
    "output_scale": OUTPUT_SCALE,
    "filter_size": TAPS_PER_FACTOR,
    "lrelu_upsampling": OVERSAMPLING,
}
OUR_NAMES = {"img_resolution": "resolution", "use_radial_filters": "radial_filters"}
MAPPING_NAMES = {"num_layers": "mapping_layers", "lr_multiplier": "mapping_lr_multiplier"}


def stylegan3_config(network: PersistentObject, sources: Sources) -> StyleGAN3Config:
    """The hyperparameters: as given, else read off the tensors, else the default of the class, which is ours."""
    found = infer_config(sources)
    arguments = official_arguments(network)
    synthesis = arguments.synthesis
    refuse_unknown("synthesis_kwargs", synthesis, (*SYNTHESIS, *WITHOUT_EFFECT, *ONLY_VALUE))
    check_mapping(arguments.mapping, found.w_dim)
    for name, allowed in ONLY_VALUE.items():
        _refuse_other_number(name, synthesis.get(name, allowed), allowed)
    given = {OUR_NAMES.get(name, name): value for name, value in (arguments.sizes | synthesis).items()}
    given |= {MAPPING_NAMES[name]: value for name, value in arguments.mapping.items() if name in MAPPING_NAMES}
    values = dataclasses.asdict(found)
    values |= {name: value for name, value in given.items() if name in values}
    stated = stated_config(StyleGAN3Config, values)
    check_agreement(stated, found, layer_names(sources))
    return stated


def _refuse_other_number(name: str, value: object, allowed: float) -> None:
    if isinstance(value, (int, float)) and math.isclose(value, allowed, rel_tol=1e-6):
        return
    refuse_other_value(name, value, allowed)
