"""Kernels as PTX, which is what a plan of TensorRT's can hold. No GPU is needed.

TensorRT gives a plugin's kernel no scratch memory, no tensor memory and no cluster, so a kernel that wants any is
refused. Blackwell's matrix instructions want tensor memory: there the PTX is that of sm_80, which every later GPU runs.
What a kernel shares stays under 48 KiB, beyond which a launch needs an attribute that TensorRT may not set.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PTX_VERSION = 87
"""PTX 8.7: the oldest that all our architectures have; every driver of TensorRT 11, and Triton from 3.6, read it."""
SHARED_LIMIT = 48 * 1024


@dataclasses.dataclass(frozen=True)
class Launch:
    """A kernel in one configuration: what is compiled, and of its launch what the batch does not change.

    `types` are those of the arguments as Triton writes them, in order; `divisible` the integers among them that are
    multiples of 16.
    """

    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    divisible: tuple[str, ...] = ()
    num_warps: int = 4
    num_stages: int = 3
    enable_fp_fusion: bool = True


@dataclasses.dataclass(frozen=True)
class Ptx:
    """A compiled kernel: its name, its text, threads of a program, and shared memory in bytes."""

    symbol: str
    text: str
    threads: int
    shared: int


def ptx_architecture(capability: int) -> int:
    """Of which architecture the PTX for a GPU is; both are compute capabilities, times ten."""
    return 80 if 100 <= capability < 120 else capability


def compile_ptx(launch: Launch, architecture: int) -> Ptx:
    """The kernel's PTX of an architecture that `ptx_architecture` names. ValueError if a plan cannot hold it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(launch.kernel.arg_names)
    source = ASTSource(
        fn=launch.kernel,
        signature={name: launch.types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in launch.constants.items()},
        attrs={
            (index,): [["tt.divisibility", 16]]
            for index, name in enumerate(names)
            if launch.types.get(name, "").startswith("*") or name in launch.divisible
        },
    )
    options = {
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
        "enable_fp_fusion": launch.enable_fp_fusion,
        "ptx_version": PTX_VERSION,
    }
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    metadata = compiled.metadata
    wants = {
        "global scratch": metadata.global_scratch_size,
        "profile scratch": metadata.profile_scratch_size,
        "tensor memory": metadata.tmem_size or 0,
        "a cluster": metadata.num_ctas - 1,
        "more than 48 KiB of shared memory": max(0, metadata.shared - SHARED_LIMIT),
    }
    if found := [name for name, amount in wants.items() if amount]:
        raise ValueError(f"{metadata.name}: found a kernel that wants {', '.join(found)}; allowed are none of these")
    return Ptx(metadata.name, compiled.asm["ptx"], metadata.num_warps * 32, metadata.shared)


def digest() -> str:
    """sha256 of the sources that plugins are compiled from: with them, a plan with plugins changes."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
