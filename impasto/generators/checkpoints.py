"""Read checkpoints in one file: which kind a file is, is told by its content and not by its name.

Nothing in a file is imported or run, and nothing in it can make reading cost much more than its size.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from impasto.errors import CheckpointError
from impasto.generators.families import FAMILIES, family_of
from impasto.generators.foreign import stylegan2_tensors, stylegan3_tensors
from impasto.generators.foreign.official_pickle import choose_network, read_official
from impasto.generators.foreign.official_stylegan2 import stylegan2_config
from impasto.generators.foreign.official_stylegan3 import stylegan3_config
from impasto.generators.foreign.plain_values import Budget, shown
from impasto.generators.foreign.rosinality import MEAN_DRAWS, choose_state, estimate_mean, rosinality_sources
from impasto.generators.foreign.sources import Sources, stated_config, take_state
from impasto.generators.foreign.torch_archive import StoredTensor, is_legacy, read_legacy, read_zip
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.generators.stylegan3_config import StyleGAN3Config

MAX_BYTES = 4 * 2**30
OWN = "impasto safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A generator as it was read: `tensors` is the state dict of its class, float32; `source` the kind of file.

    `config` is that of its family, StyleGAN2Config and so on. `details` says where things come from: which network of
    the file, whose class, how w_avg was found.
    """

    family: str
    config: Any
    tensors: dict[str, Tensor]
    source: str
    details: dict[str, Any]


def read_checkpoint(path: Path, *, maximum_bytes: int = MAX_BYTES) -> Checkpoint:
    """Read a generator; CheckpointError names what was found if the file is none, or is damaged.

    Taken are the pickles of stylegan2-ada-pytorch and stylegan3, rosinality's `.pt` and the state dicts that a family
    recognises, both in either form of torch.save, and our own safetensors.
    """
    try:
        return _read(_content(path, maximum_bytes))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read it: {error.strerror}") from error


def _content(path: Path, maximum_bytes: int) -> bytes:
    if path.exists() and not path.is_file():
        raise CheckpointError("found a folder or a device; a checkpoint is a file")
    if (size := path.stat().st_size) > maximum_bytes:
        raise CheckpointError(f"found {size} bytes; allowed are {maximum_bytes}")
    return path.read_bytes()


def _read(data: bytes) -> Checkpoint:
    budget = Budget(encoded_bytes=len(data))
    if not data:
        raise CheckpointError("found an empty file")
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return _own(data)
    if data.startswith(b"PK"):
        return _torch_file(read_zip(data, budget), len(data))
    if is_legacy(data):
        return _torch_file(read_legacy(memoryview(data), budget), len(data))
    if data[0] == pickle.PROTO[0]:
        return _official(read_official(memoryview(data), budget), len(data))
    raise CheckpointError(
        f"found a file that starts with {data[:8]!r}; allowed are pickles, torch files and safetensors"
    )


def _official(value: object, file_bytes: int) -> Checkpoint:
    name, network = choose_network(value)
    sources = network.tensors()
    if stylegan3_tensors.is_stylegan3(sources):
        config3 = stylegan3_config(network, sources)
        tensors = stylegan3_tensors.take_tensors(config3, sources, file_bytes)
        return Checkpoint("stylegan3", config3, tensors, "stylegan3 pickle", {"network": name})
    config, repository = stylegan2_config(network, sources)
    tensors = stylegan2_tensors.take_tensors(config, sources, file_bytes)
    details = {"network": name, "repository": repository}
    return Checkpoint("stylegan2", config, tensors, "stylegan2-ada-pytorch pickle", details)


def _torch_file(value: object, file_bytes: int) -> Checkpoint:
    if isinstance(value, dict) and value and all(isinstance(tensor, StoredTensor) for tensor in value.values()):
        sources: Sources = {str(name): tensor for name, tensor in value.items()}
        for name in FAMILIES:
            if found := family_of(name).foreign(sources):
                tensors = _take_family(name, found.config, found.sources, file_bytes)
                return Checkpoint(name, found.config, tensors, found.source, {})
    return _rosinality(value, file_bytes)


def _rosinality(value: object, file_bytes: int) -> Checkpoint:
    state, latent_avg = choose_state(value)
    sources = rosinality_sources(state, latent_avg)
    config = stylegan2_tensors.infer_config(sources)
    tensors = stylegan2_tensors.take_tensors(config, sources, file_bytes)
    if latent_avg is None:
        tensors["mapping.w_avg"] = estimate_mean(config, tensors)
    mean = "latent_avg" if latent_avg is not None else f"the mean of {MEAN_DRAWS} draws"
    details = {"network": "g_ema", "w_avg": mean}
    return Checkpoint("stylegan2", config, tensors, "rosinality", details)


def _own(data: bytes) -> Checkpoint:
    try:
        sources = safetensors.torch.load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
        stated = json.loads(metadata.get("config", "null"))
    except (safetensors.SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise CheckpointError(f"found a damaged safetensors file: {error}") from error
    family = metadata.get("family")
    known = ("stylegan2", "stylegan3", *FAMILIES)
    if family not in known or not isinstance(stated, dict):
        allowed = ", ".join(map(repr, known))
        raise CheckpointError(
            f"found safetensors of the family {shown(family)}; allowed is one of {allowed}, with its config"
        )
    config: Any
    if family == "stylegan3":
        config = stated_config(StyleGAN3Config, stated)
        names = stylegan3_tensors.layer_names(sources)
        stylegan3_tensors.check_agreement(config, stylegan3_tensors.infer_config(sources), names)
        tensors = stylegan3_tensors.take_tensors(config, sources, len(data))
    elif family == "stylegan2":
        config = stated_config(StyleGAN2Config, stated)
        stylegan2_tensors.check_agreement(config, stylegan2_tensors.infer_config(sources))
        tensors = stylegan2_tensors.take_tensors(config, sources, len(data))
    else:
        config = stated_config(family_of(family).config, stated)
        tensors = _take_family(family, config, sources, len(data))
    return Checkpoint(family, config, tensors, OWN, {})


def _take_family(family: str, config: Any, sources: Sources, file_bytes: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        network = family_of(family).build(config)
    return take_state(network, sources, file_bytes)
