"""The weights of one component of a diffusers folder: one safetensors file, or shards that an index lists."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from impasto.errors import CheckpointError
from impasto.generators.foreign.folder import Folder
from impasto.generators.foreign.plain_values import shown

VARIANTS = ("", "fp16", "bf16")
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack", ".h5")
FLOATS = ("F64", "F32", "F16", "BF16")
INDEXES = ("I64", "I32")  # position ids, which older files keep and no module reads
MAX_TENSORS = 20_000
MAX_SHARDS = 100


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is, and what its file's header says of it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class StoredWeights:
    """The tensors of one component by name. Headers are read and checked, the numbers are not."""

    folder: str
    tensors: dict[str, StoredTensor]

    @property
    def files(self) -> list[Path]:
        """The files, in order of name."""
        return sorted({tensor.file for tensor in self.tensors.values()})

    @property
    def elements(self) -> int:
        """How many numbers there are in all."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def largest_dimension(self) -> int:
        """The largest dimension of any tensor."""
        return max((max(tensor.shape, default=1) for tensor in self.tensors.values()), default=0)

    def read(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors of real numbers, as stored. CheckpointError for one that is not finite."""
        for file in self.files:
            with _opened(file, f"{self.folder}/{file.name}") as stored:
                for name, tensor in self.tensors.items():
                    if tensor.file != file or tensor.dtype not in FLOATS:
                        continue
                    values: Tensor = stored.get_tensor(name)
                    if not bool(torch.isfinite(values).all()):
                        raise CheckpointError(f"{self.folder}/{file.name}: {name}: found NaN or infinite numbers")
                    yield name, values


def find_weights(folder: Folder, component: str, stem: str) -> StoredWeights:
    """The weights `stem`[.variant].safetensors or their shards: those of full precision, else fp16, else bf16."""
    for variant in VARIANTS:
        suffix = f".{variant}" if variant else ""
        name = f"{stem}{suffix}.safetensors"
        if folder.find(f"{component}/{name}"):
            return _weights(folder, component, {name: None})
        index = f"{stem}.safetensors.index{suffix}.json"
        if folder.find(f"{component}/{index}"):
            return _weights(folder, component, _shards(folder, f"{component}/{index}"))
    for name in folder.names(component):
        if name.endswith(PICKLES):
            raise CheckpointError(
                f"{component}/{name}: found a pickle, which can run code; allowed is {stem}.safetensors "
                "(diffusers writes it with save_pretrained)"
            )
    raise CheckpointError(f"{component}/{stem}.safetensors: the file is missing")


def _shards(folder: Folder, index: str) -> dict[str, set[str] | None]:
    """The shards of an index, each with the names of its tensors."""
    places = folder.object(index).get("weight_map")
    if not isinstance(places, dict) or not places or len(places) > MAX_TENSORS:
        raise CheckpointError(f"{index}: weight_map: found {shown(places)}; allowed is a tensor's name → its file")
    shards: dict[str, set[str] | None] = {}
    for tensor, name in places.items():
        plain = isinstance(name, str) and name.endswith(".safetensors") and not set(name) & set("/\\\0")
        if not plain:
            raise CheckpointError(
                f"{index}: weight_map: found {shown(name)}; allowed is the plain name of a safetensors file beside it"
            )
        named = shards.setdefault(name, set())
        assert named is not None
        named.add(tensor)
    if len(shards) > MAX_SHARDS:
        raise CheckpointError(f"{index}: weight_map: found {len(shards)} files; allowed are {MAX_SHARDS}")
    return shards


def _weights(folder: Folder, component: str, files: dict[str, set[str] | None]) -> StoredWeights:
    """The tensors of some files; `files` says which each must hold, where an index says it."""
    tensors: dict[str, StoredTensor] = {}
    for name, stated in files.items():
        where = f"{component}/{name}"
        found = _header(folder.require(where), where)
        if stated is not None and found.keys() != stated:
            raise CheckpointError(f"{where}: found {len(found)} tensors that are not the {len(stated)} of the index")
        tensors |= found
    if not tensors or len(tensors) > MAX_TENSORS:
        raise CheckpointError(f"{component}: found {len(tensors)} tensors; allowed are 1 to {MAX_TENSORS}")
    return StoredWeights(component, tensors)


def _header(path: Path, where: str) -> dict[str, StoredTensor]:
    with _opened(path, where) as stored:
        tensors = {}
        for name in stored.keys():  # noqa: SIM118  (it is a file, and has only keys)
            part = stored.get_slice(name)
            tensor = tensors[name] = StoredTensor(path, part.get_dtype(), tuple(part.get_shape()))
            if tensor.dtype not in (*FLOATS, *INDEXES):
                raise CheckpointError(f"{where}: {shown(name)}: found {tensor.dtype}; allowed are {', '.join(FLOATS)}")
        return tensors


def _opened(path: Path, where: str) -> safetensors.safe_open:
    """The file, its header checked by safetensors: JSON, dtypes, offsets without gap or overlap, and its size."""
    try:
        return safetensors.safe_open(path, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{where}: found a damaged or truncated safetensors file: {error}") from error
