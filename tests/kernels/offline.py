"""Kernels compiled for a card that is not there: registers, spills, shared memory and instructions."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import multiprocessing
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
SHARED_LIMIT = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""The most shared memory that one block may use, in bytes, by compute capability."""


@dataclasses.dataclass(frozen=True)
class Resources:
    """What one compiled kernel uses; `spilled` is bytes of local memory, `matrix` names its matrix instructions."""

    registers: int
    spilled: int
    shared: int
    matrix: tuple[str, ...]


def compile_offline(
    kernel: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    architecture: int,
    *,
    divisible: tuple[str, ...] = (),
    num_warps: int = 4,
    num_stages: int = 3,
) -> Resources:
    """Compile a `@jit` function for a compute capability.

    `signature` has the type of each argument that is no constant ("*fp16", "i32", "fp32"); pointers and the arguments
    in `divisible` count as divisible by 16, as they do at a launch with aligned tensors.
    """
    function = kernel.fn if hasattr(kernel, "fn") else kernel
    options = {"num_warps": num_warps, "num_stages": num_stages}
    task = (function.__module__, function.__name__, dict(signature), dict(constants), architecture, divisible, options)
    return _compiler().submit(_compile, *task).result()


@functools.cache
def _compiler() -> ProcessPoolExecutor:
    """A process in which Triton compiles: one that interprets has made its own library, as `tl.sum`, interpreted."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=_interpret_nothing)


def _interpret_nothing() -> None:
    os.environ["TRITON_INTERPRET"] = "0"


def _compile(
    module: str,
    name: str,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    architecture: int,
    divisible: tuple[str, ...],
    options: Mapping[str, int],
) -> Resources:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(module), name)
    names = function.arg_names
    types = {name: signature.get(name, "constexpr") for name in names}
    aligned = [index for index, name in enumerate(names) if types[name].startswith("*") or name in divisible]
    source = ASTSource(
        fn=function,
        signature=types,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(index,): [["tt.divisibility", 16]] for index in aligned},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=dict(options))
    return _resources(compiled.asm["cubin"], compiled.metadata.shared)


def _resources(cubin: bytes, shared: int) -> Resources:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        usage = _tool("cuobjdump", "--dump-resource-usage", file)
        instructions = _tool("nvdisasm", "-c", file)
    registers, stack = (int(re.findall(rf"{name}:(\d+)", usage)[-1]) for name in ("REG", "STACK"))
    found = re.findall(r"\b(HGMMA|HMMA|IMMA|UTCHMMA|UTCQMMA|OMMA|QMMA)\b", instructions)
    return Resources(registers, stack, shared, tuple(sorted(set(found))))


def _tool(name: str, *arguments: str | Path) -> str:
    from triton import knobs

    path = getattr(knobs.nvidia, name).path
    return subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, check=True).stdout
