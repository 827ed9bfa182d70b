"""What the class of an official generator was called with, as the pickle keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from impasto.errors import CheckpointError
from impasto.generators.foreign.official_pickle import PersistentObject
from impasto.generators.foreign.plain_values import shown

POSITIONAL = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs")
SIZES = POSITIONAL[:5]
MAPPING = ("num_layers", "embed_features", "layer_features", "activation", "lr_multiplier", "w_avg_beta")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Sizes, and the arguments of the two networks: those of the synthesis network nested or flat."""

    sizes: dict[str, Any]
    mapping: dict[str, Any]
    nested: dict[str, Any]
    flat: dict[str, Any]

    @property
    def synthesis(self) -> dict[str, Any]:
        return self.nested | self.flat


def official_arguments(network: PersistentObject) -> Arguments:
    """The arguments. CheckpointError if the pickle keeps none, or one of the mapping network that is unknown here."""
    positional, given = network.state.get("_init_args", ()), network.state.get("_init_kwargs")
    if not isinstance(given, dict) or not isinstance(positional, (tuple, list)) or len(positional) > len(POSITIONAL):
        raise CheckpointError("_init_kwargs: found no arguments; an official generator keeps those it was made with")
    given = dict(zip(POSITIONAL, positional, strict=False)) | given
    mapping, nested = _group(given, "mapping_kwargs"), _group(given, "synthesis_kwargs")
    refuse_unknown("mapping_kwargs", mapping, MAPPING)
    flat = {name: value for name, value in given.items() if name not in POSITIONAL}
    return Arguments({name: given[name] for name in SIZES if name in given}, mapping, nested, flat)


def check_mapping(mapping: dict[str, Any], w_dim: int) -> None:
    """Refuse what would make another mapping network than ours."""
    for name in ("embed_features", "layer_features"):
        refuse_other_value(name, mapping.get(name), None, w_dim)
    refuse_other_value("activation", mapping.get("activation", "lrelu"), "lrelu")


def refuse_unknown(group: str, given: dict[str, Any], known: Iterable[str]) -> None:
    """Refuse an argument that is not one of `known`."""
    for name in given:
        if name not in known:
            raise CheckpointError(f"{group}: found the argument {shown(name)}; allowed are {', '.join(known)}")


def refuse_other_value(name: str, value: object, *allowed: object) -> None:
    """Refuse an argument of another value than those allowed."""
    if (list(value) if isinstance(value, tuple) else value) not in allowed:
        raise CheckpointError(f"{name}: found {shown(value)}; allowed is {' or '.join(map(repr, allowed))}")


def _group(given: dict[str, Any], name: str) -> dict[str, Any]:
    value = given.get(name, {})
    if not isinstance(value, dict):
        raise CheckpointError(f"{name}: found {shown(value)}; allowed is a dict")
    return value
