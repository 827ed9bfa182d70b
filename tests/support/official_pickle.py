"""Pickles in the structure of the official StyleGAN2 and StyleGAN3 checkpoints, made without any of the official code.

The classes and functions that such a file names are stand-ins, there only while a file is written. The source text that
each module carries would touch a marker file, were it ever executed.
"""

from __future__ import annotations

import collections
import dataclasses
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from impasto.generators.stylegan2 import StyleGAN2
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.generators.stylegan3 import StyleGAN3
from impasto.generators.stylegan3_config import StyleGAN3Config


class EasyDict(dict):
    """A dict by the name of dnnlib's."""


EasyDict.__module__ = "dnnlib.util"


def _reconstruct_persistent_obj(meta: object) -> None:
    raise AssertionError("nothing may call this")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


def scalar(dtype: object, data: object) -> None:
    raise AssertionError("nothing may call this")


scalar.__module__ = "numpy.core.multiarray"


@dataclasses.dataclass
class Persistent:
    """A module of the file: it pickles as the call that upstream makes."""

    class_name: str
    source: str
    state: dict[str, Any]
    version: int = 6

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {
            "type": "class",
            "version": self.version,
            "module_src": self.source,
            "class_name": self.class_name,
            "state": self.state,
        }
        return _reconstruct_persistent_obj, (EasyDict(meta),)


class OldNumpyScalar:
    """A float64 as numpy before 2.0 pickled it."""

    def __init__(self, value: float) -> None:
        self.value = np.float64(value)

    def __reduce__(self) -> tuple[Any, ...]:
        return scalar, (np.dtype("float64"), self.value.tobytes())


def touching(marker: Path) -> str:
    """Source text that touches the marker."""
    return f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"


def ada_arguments(config: StyleGAN2Config) -> dict[str, Any]:
    """The arguments of the class in stylegan2-ada-pytorch."""
    return {
        "c_dim": config.c_dim,
        "img_resolution": config.resolution,
        "img_channels": config.img_channels,
        "z_dim": config.z_dim,
        "w_dim": config.w_dim,
        "mapping_kwargs": EasyDict(num_layers=config.mapping_layers),
        "synthesis_kwargs": EasyDict(
            channel_base=config.channel_base,
            channel_max=config.channel_max,
            num_fp16_res=config.num_fp16_res,
            conv_clamp=config.conv_clamp,
        ),
    }


def stylegan3_arguments(config: StyleGAN2Config) -> dict[str, Any]:
    """The arguments of the StyleGAN2 class in stylegan3: those of the synthesis network are flat."""
    arguments = ada_arguments(config)
    return arguments | arguments.pop("synthesis_kwargs") | {"fused_modconv_default": "inference_only"}


def official_arguments(config: StyleGAN3Config) -> dict[str, Any]:
    """The arguments of the StyleGAN3 class, as training keeps them."""
    return {
        "z_dim": config.z_dim,
        "c_dim": config.c_dim,
        "w_dim": config.w_dim,
        "img_resolution": config.resolution,
        "img_channels": config.img_channels,
        "mapping_kwargs": EasyDict(num_layers=config.mapping_layers),
        "channel_base": config.channel_base,
        "channel_max": config.channel_max,
        "magnitude_ema_beta": 0.9994456359721023,
        "num_layers": config.num_layers,
        "conv_kernel": config.conv_kernel,
        "use_radial_filters": config.radial_filters,
        "conv_clamp": config.conv_clamp,
        "num_fp16_res": 4,
    }


def network(module: nn.Module, class_name: str, source: str, arguments: Mapping[str, Any] | None = None) -> Persistent:
    """A module and all in it as the file has them: nested, its state with the attributes that upstream keeps."""
    state: dict[str, Any] = {
        "training": False,
        "_parameters": collections.OrderedDict(module._parameters),
        "_buffers": collections.OrderedDict(module._buffers),
        "_non_persistent_buffers_set": {"left_over"},
        "_backward_hooks": collections.OrderedDict(),
        "_modules": collections.OrderedDict(
            (name, network(child, type(child).__name__, source)) for name, child in module.named_children()
        ),
        "weight_gain": np.float64(0.5) / np.sqrt(3),
        "act_gain": OldNumpyScalar(2.0**0.5),
        "num_ws": 4,
        "_init_args": (),
        "_init_kwargs": dict(arguments or {}),
    }
    return Persistent(class_name, source, state)


def official_networks(
    generator: StyleGAN2 | StyleGAN3, source: str = "# a class\n", arguments: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What an official file holds: three networks, the augmentation and the data set's arguments."""
    chosen = _arguments(generator) if arguments is None else arguments
    discriminator = nn.Sequential(nn.Conv2d(3, 4, 1))
    augmentation = nn.Module()
    augmentation.register_buffer("p", torch.tensor(0.5))
    other = type(generator)(generator.config)
    return {
        "G": network(other, "Generator", source, chosen),
        "D": network(discriminator, "Discriminator", source),
        "G_ema": network(generator, "Generator", source, chosen),
        "augment_pipe": network(augmentation, "AugmentPipe", source),
        "training_set_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", path="a.zip", xflip=False),
    }


def _arguments(generator: StyleGAN2 | StyleGAN3) -> dict[str, Any]:
    if isinstance(generator, StyleGAN3):
        return official_arguments(generator.config)
    return ada_arguments(generator.config)


def pickled(value: object, protocol: int = 4) -> bytes:
    """The pickle, with the names of the official classes in it."""
    with _stand_ins():
        return pickle.dumps(value, protocol)


def channels_last(generator: StyleGAN2) -> StyleGAN2:
    """The generator with its memory format as fp16 blocks have it: the same numbers in another order in memory."""
    return generator.to(memory_format=torch.channels_last)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Modules that have nothing but the names that are pickled, for as long as the block lasts."""
    named: dict[str, dict[str, object]] = {
        "dnnlib": {},
        "dnnlib.util": {"EasyDict": EasyDict},
        "torch_utils": {},
        "torch_utils.persistence": {"_reconstruct_persistent_obj": _reconstruct_persistent_obj},
        "numpy.core.multiarray": {"scalar": scalar},
    }
    before = {name: sys.modules.get(name) for name in named}
    try:
        for name, attributes in named.items():
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update(attributes)
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
