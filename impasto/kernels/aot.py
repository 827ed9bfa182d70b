"""Kernels compiled ahead of time, for programs that have no Python: one folder with

    NAME.sm_90.cubin        a kernel, compiled for one architecture; NAME says configuration and types
    manifest.json           what each kernel wants: arguments, constants, grid, warps, shared memory; and digests
    impasto_kernels.h       loaders and launchers in C, over the CUDA driver API

No GPU is needed. Every kernel ends in two pointers of Triton's own (`HIDDEN`), null for all that are packed here. From
sm_90 on a cubin runs on its own architecture alone; one for sm_8x runs on later sm_8y too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import importlib
import inspect
import json
import multiprocessing
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from impasto.errors import InvalidRequest
from impasto.kernels.packing.header import header

if TYPE_CHECKING:
    from impasto.kernels.packing.spec import Spec

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
"""Compute capabilities, times ten, that kernels are compiled for."""
HIDDEN = ("global_scratch", "profile_scratch")
ENOUGH_REGISTERS = 128
"""Of a thread: what a kernel that would spill some may have instead."""
MANIFEST = "manifest.json"
HEADER = "impasto_kernels.h"


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of a kernel, in its place."""

    name: str
    type: str
    """As Triton writes it: "*fp16" is a pointer to float16, "i32" an integer."""
    multiple_of: int
    most: int | None
    """Upper bound, if there is one."""
    value: str | None
    """An expression of other arguments where it follows from them; None where the caller gives it."""
    meaning: str


@dataclasses.dataclass(frozen=True)
class Cubin:
    """One kernel, compiled for one architecture."""

    spec: Spec
    architecture: int
    image: bytes
    symbol: str
    num_warps: int
    shared: int
    """Dynamic shared memory, in bytes."""
    registers: int | None
    """Of a thread; None where nothing tells."""
    local_memory: int | None
    """Of a thread, in bytes: 0 if no register is spilled; None where nothing tells."""
    arguments: tuple[Argument, ...]
    source_hash: str
    """Triton's digest of the kernel's source and of all that it calls."""

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.spec.name}.sm_{self.architecture}.cubin"


def packable(kernels: Iterable[str] = ()) -> list[Spec]:
    """Every configuration of these kernels, or of all. InvalidRequest if there is no such kernel."""
    from impasto.kernels.packing.convolutions import convolutions
    from impasto.kernels.packing.operations import operations

    specs = [*operations(), *convolutions()]
    known = dict.fromkeys(spec.kernel for spec in specs)
    for kernel in kernels:
        if kernel not in known:
            raise InvalidRequest("kernel", kernel, ", ".join(sorted(known)))
    wanted = set(kernels) or known
    return [spec for spec in specs if spec.kernel in wanted]


def parse_architectures(listed: str) -> list[int]:
    """Architectures from numbers such as "80,90", each once, ascending. InvalidRequest for others."""
    allowed = {str(architecture) for architecture in ARCHITECTURES}
    found = {part.strip() for part in listed.split(",")}
    for part in sorted(found - allowed):
        raise InvalidRequest("arch", part, "a list of " + ", ".join(map(str, ARCHITECTURES)))
    return sorted(map(int, found))


def pack(
    out: Path, specs: Sequence[Spec], architectures: Sequence[int], report: Callable[[int, int], None] = lambda *_: None
) -> None:
    """Compile every spec for every architecture, on all cores, and write the folder `out`, which must not be there yet.

    The folder appears whole or not at all. `report` is called with the kernels compiled so far and in all. Raises
    FileExistsError where there is something at `out`.
    """
    import triton

    if out.exists():
        raise FileExistsError(errno.EEXIST, "is there already; name a new folder", str(out))
    tasks = [(spec, architecture) for spec in specs for architecture in architectures]
    cubins = []
    with _compilers(len(tasks)) as compilers:
        results = [compilers.submit(_compile, spec, architecture) for spec, architecture in tasks]
        for (spec, architecture), result in zip(tasks, results, strict=True):
            try:
                cubins.append(result.result())
            except Exception as error:
                error.add_note(f"in {spec.name} for sm_{architecture}")
                raise
            report(len(cubins), len(tasks))
    _write(out, cubins, triton.__version__)


@contextlib.contextmanager
def _compilers(tasks: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of their own, one a core: one that interprets kernels cannot compile them."""
    count = min(tasks, os.cpu_count() or 1)
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_begin_compiler)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_compiler() -> None:
    os.environ["TRITON_INTERPRET"] = "0"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that packs
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _compile(spec: Spec, architecture: int) -> Cubin:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    file, name = spec.source.split(".")
    function = getattr(importlib.import_module(f"impasto.kernels.{file}"), name)
    arguments = _arguments(function, spec)
    names = list(function.arg_names)
    source = ASTSource(
        fn=function,
        signature={name: spec.types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in spec.constants.items()},
        attrs={(names.index(one.name),): [["tt.divisibility", 16]] for one in arguments if one.multiple_of % 16 == 0},
    )
    options = {
        "num_warps": spec.num_warps,
        "num_stages": spec.num_stages,
        "enable_fp_fusion": spec.enable_fp_fusion,
    }
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(source, target=target, options=options)
    registers, local_memory = _usage(compiled.asm["cubin"])
    if local_memory:
        # Left alone, the assembler spills a few bytes so that one more block fits on a multiprocessor.
        compiled = triton.compile(source, target=target, options=options | {"maxnreg": ENOUGH_REGISTERS})
        registers, local_memory = _usage(compiled.asm["cubin"])
    metadata = compiled.metadata
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        raise ValueError(f"{spec.name}: found a kernel that needs scratch memory; allowed are those that need none")
    return Cubin(
        spec,
        architecture,
        compiled.asm["cubin"],
        metadata.name,
        metadata.num_warps,
        metadata.shared,
        registers,
        local_memory,
        arguments,
        function.cache_key,
    )


def _arguments(function: Any, spec: Spec) -> tuple[Argument, ...]:
    """The arguments that a launch passes, in order; what they mean stands behind them in the source."""
    source = inspect.getsource(function.fn)
    meanings = dict(re.findall(r"^ {4}(\w+)(?:: [\w.]+)?,  # (.+)$", source, re.MULTILINE))
    return tuple(
        Argument(
            name,
            spec.types[name],
            16 if spec.types[name].startswith("*") or name in spec.divisible else spec.multiples.get(name, 1),
            spec.most.get(name),
            spec.computed.get(name),
            meanings.get(name, ""),
        )
        for name in function.arg_names
        if name in spec.types
    )


def _usage(image: bytes) -> tuple[int | None, int | None]:
    """Registers and bytes of local memory."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image)
        file.flush()
        try:
            command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
            usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (RuntimeError, OSError, subprocess.CalledProcessError):
            return None, None
    found = re.findall(r"REG:(\d+) STACK:(\d+)", usage)
    return (int(found[-1][0]), int(found[-1][1])) if found else (None, None)


def _write(out: Path, cubins: Sequence[Cubin], version: str) -> None:
    """Write the folder under another name, then give it its own."""
    out.parent.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[Cubin]] = {}
    for cubin in cubins:
        groups.setdefault(cubin.spec.name, []).append(cubin)
    text = header(list(groups.values()), version)
    manifest = {
        "format": 1,
        "triton": version,
        "header": {"file": HEADER, "sha256": _sha256(text.encode())},
        "kernels": [_entry(group) for group in groups.values()],
    }
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        for cubin in cubins:
            (folder / cubin.file).write_bytes(cubin.image)
        (folder / HEADER).write_text(text, encoding="utf-8")
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        folder.rename(out)


def _entry(group: Sequence[Cubin]) -> dict[str, Any]:
    """One configuration of a kernel in the manifest."""
    first = group[0]
    spec = first.spec
    hidden = [Argument(name, "*i8", 1, None, "0", "Triton's own, null") for name in HIDDEN]
    return {
        "name": spec.name,
        "kernel": spec.kernel,
        "use": spec.use,
        "source": {"function": f"impasto.kernels.{spec.source}", "sha256": first.source_hash},
        "arguments": [dataclasses.asdict(argument) for argument in (*first.arguments, *hidden)],
        "constants": dict(spec.constants),
        "grid": list(spec.grid) + ["1"] * (3 - len(spec.grid)),
        "num_stages": spec.num_stages,
        "enable_fp_fusion": spec.enable_fp_fusion,
        "cubins": [
            {
                "architecture": cubin.architecture,
                "file": cubin.file,
                "sha256": _sha256(cubin.image),
                "symbol": cubin.symbol,
                "num_warps": cubin.num_warps,
                "dynamic_shared_memory": cubin.shared,
                "registers": cubin.registers,
                "local_memory": cubin.local_memory,
            }
            for cubin in group
        ],
    }


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
