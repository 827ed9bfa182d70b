"""The official StyleGAN pickles as data: networks with their arguments and tensors, and none of the code inside.

A file is {G, D, G_ema, augment_pipe, training_set_kwargs}. Each module in it is a call of
`torch_utils.persistence._reconstruct_persistent_obj` with {type, version, module_src, class_name, state}; upstream
executes `module_src`, here it is text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from impasto.errors import CheckpointError
from impasto.generators.foreign.plain_values import Budget, empty_dict, plain_constructors, shown
from impasto.generators.foreign.restricted_pickle import load
from impasto.generators.foreign.torch_archive import StoredTensor, tensor_constructors

PERSISTENCE_VERSION = 6
MAX_DEPTH = 8
MAX_MODULES = 1_000  # a thousand modules of a thousand names each: far above any network, and soon walked
MAX_NAMES = 1_000


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PersistentObject:
    """One module of the file: class name, the source text of its class, and its attributes."""

    class_name: str
    module_src: str
    state: dict[str, Any]

    def tensors(self) -> dict[str, StoredTensor]:
        """Parameters and buffers by dotted name, as in a state dict."""
        found: dict[str, StoredTensor] = {}
        for visited, (prefix, module) in enumerate(self._modules("", 0)):
            if visited >= MAX_MODULES:
                raise CheckpointError(f"found more than {MAX_MODULES} modules in one network")
            for kind in ("_parameters", "_buffers"):
                for name, tensor in _mapping(module.state, kind).items():
                    if tensor is None:
                        continue
                    if not isinstance(tensor, StoredTensor):
                        raise CheckpointError(f"found {shown(tensor)} where the tensor {prefix}{name} should be")
                    found[f"{prefix}{name}"] = tensor
        return found

    def _modules(self, prefix: str, depth: int) -> Iterator[tuple[str, PersistentObject]]:
        if depth > MAX_DEPTH:
            raise CheckpointError(f"found modules nested more than {MAX_DEPTH} deep")
        yield prefix, self
        for name, module in _mapping(self.state, "_modules").items():
            if module is None:
                continue
            if not isinstance(module, PersistentObject):
                raise CheckpointError(f"found {shown(module)} where the module {prefix}{name} should be")
            yield from module._modules(f"{prefix}{name}.", depth + 1)


def read_official(data: memoryview, budget: Budget) -> object:
    """The value of an official pickle, its modules as PersistentObject and its tensors as StoredTensor."""
    constructors: dict[tuple[str, str], Callable[..., object]] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_object,
        ("dnnlib.util", "EasyDict"): empty_dict,
    }
    value, _ = load(data, plain_constructors(budget) | tensor_constructors(budget) | constructors, budget)
    return value


def choose_network(value: object) -> tuple[str, PersistentObject]:
    """The generator to serve and its name: G_ema, or G where a file has no average."""
    if isinstance(value, PersistentObject):
        raise CheckpointError(f"found a single {shown(value.class_name)}; a checkpoint is a dict with G_ema")
    if not isinstance(value, dict):
        raise CheckpointError(f"found {shown(value)} in the pickle; a checkpoint is a dict with G_ema")
    for name in ("G_ema", "G"):
        if isinstance(network := value.get(name), PersistentObject):
            if network.class_name != "Generator":
                raise CheckpointError(f"{name}: found the class {shown(network.class_name)}; allowed is 'Generator'")
            return name, network
    keys = ", ".join(sorted(shown(key) for key in list(value)[:8])) or "nothing"
    if isinstance(value.get("D"), PersistentObject):
        raise CheckpointError(f"found only a discriminator ({keys}); a generator is in G_ema")
    raise CheckpointError(f"found no generator (the pickle has {keys}); a checkpoint is a dict with G_ema")


def _persistent_object(meta: object) -> PersistentObject:
    match meta:
        case {
            "type": "class",
            "version": int(version),
            "module_src": str(source),
            "class_name": str(name),
            "state": dict(state),
        }:
            if version != PERSISTENCE_VERSION:
                raise CheckpointError(f"found a module of version {version}; allowed is {PERSISTENCE_VERSION}")
            return PersistentObject(name, source, state)
    raise CheckpointError("found a module without type, version, source, class name and state")


def _mapping(state: dict[str, Any], kind: str) -> dict[str, Any]:
    value = state.get(kind, {})
    if not isinstance(value, dict) or len(value) > MAX_NAMES or not all(isinstance(key, str) for key in value):
        raise CheckpointError(f"found {shown(value)} as {kind} of a module; allowed is a dict of {MAX_NAMES} names")
    return value
