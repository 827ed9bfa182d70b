"""What this machine has for Impasto: versions, devices, and each backend with the remedy for what it lacks."""

from __future__ import annotations

import dataclasses
import importlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "impasto",
    "grpcio",
    "protobuf",
    "numpy",
    "pillow",
    "pydantic",
    "safetensors",
    "prometheus-client",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "onnx",
    "onnxscript",
    "triton",
    "tensorrt",
)
CPU_FEATURES = (
    "sse4_2",
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Backend:
    """One way to make pictures: what was found, and the remedy if that is not enough."""

    name: str
    available: bool
    found: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What `examine` found. `packages` has None for those that are not installed."""

    python: str
    platform: str
    cpu: str
    cpu_threads: int
    cpu_features: tuple[str, ...]
    gpus: tuple[str, ...]
    packages: dict[str, str | None]
    backends: tuple[Backend, ...]


def examine() -> Report:
    """Look at everything. Imports the backends, which takes seconds; a backend that fails to import is told as such."""
    gpus = _gpus()
    return Report(
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=_cpu_field("model name") or platform.machine(),
        cpu_threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_features=_cpu_features(),
        gpus=gpus,
        packages={package: _version_of(package) for package in PACKAGES},
        backends=tuple(_examined(part, bool(gpus)) for part in _PARTS),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """A module that a backend needs, the extra that brings it, and what must hold for it on a GPU, with the remedy."""

    name: str
    module: str
    extra: str
    on_gpu: Callable[[Any], bool] | None = None
    remedy: str = ""


_PARTS = (
    _Part("onnxruntime on cpu", "onnxruntime", "cpu"),
    _Part(
        "onnxruntime on cuda",
        "onnxruntime",
        "gpu",
        lambda module: "CUDAExecutionProvider" in module.get_available_providers(),
        "pip uninstall -y onnxruntime && pip install --force-reinstall onnxruntime-gpu",
    ),
    _Part("torch on cpu", "torch", "torch"),
    _Part(
        "torch on cuda",
        "torch",
        "gpu",
        lambda module: bool(module.cuda.is_available()),
        "install torch for the driver's CUDA version: https://pytorch.org/get-started",
    ),
    _Part("triton", "triton", "torch", lambda module: True),
    _Part("tensorrt", "tensorrt", "gpu", lambda module: True),
)


def _examined(part: _Part, has_gpu: bool) -> Backend:
    try:
        module = importlib.import_module(part.module)
        found = f"{part.module} {module.__version__}"
        if part.on_gpu is None:
            return Backend(part.name, True, found)
        if not has_gpu:
            return Backend(part.name, False, f"{found}, no GPU", "an NVIDIA GPU with its driver")
        if not part.on_gpu(module):
            return Backend(part.name, False, f"{found} cannot use the GPU", part.remedy)
        return Backend(part.name, True, found)
    except ModuleNotFoundError as error:
        if error.name == part.module:
            return Backend(part.name, False, "not installed", f"pip install 'impasto[{part.extra}]'")
        return _broken(part, error)
    except Exception as error:
        # A broken installation fails with anything: a missing library, a clash of versions.
        return _broken(part, error)


def _broken(part: _Part, error: Exception) -> Backend:
    remedy = f"pip install --force-reinstall 'impasto[{part.extra}]'"
    return Backend(part.name, False, f"{part.module} fails: {type(error).__name__}: {error}", remedy)


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> tuple[str, ...]:
    """Name, memory and driver of each NVIDIA GPU, as the driver's own tool tells them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return tuple(answer.stdout.strip().splitlines()) if answer.returncode == 0 else ()


def _cpu_features() -> tuple[str, ...]:
    flags = (_cpu_field("flags") or _cpu_field("Features")).split()
    return tuple(feature for feature in CPU_FEATURES if feature in flags)


def _cpu_field(field: str) -> str:
    """A field of the first core in /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    values = (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field)
    return next(values, "")
