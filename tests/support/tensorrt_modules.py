"""The modules that need TensorRT, imported over another one for a test's time."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

OURS = ("impasto.export.tensorrt", "impasto.engine.tensorrt")


@contextlib.contextmanager
def over(tensorrt: ModuleType) -> Iterator[tuple[ModuleType, ModuleType]]:
    """The builder's module and the backend's; devices of torch's that they name are not touched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", tensorrt)
        for name in OURS:
            patch.delitem(sys.modules, name, raising=False)
        patch.setattr("torch.cuda.device", contextlib.nullcontext)
        yield importlib.import_module(OURS[0]), importlib.import_module(OURS[1])
        for name in OURS:
            sys.modules.pop(name, None)
