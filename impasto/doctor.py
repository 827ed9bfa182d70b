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

from impasto.installing import install_command

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
NO_GPU = "impasto generate MODEL --device cpu, until `nvidia-smi` lists an NVIDIA GPU"
CUDA_TORCH = "pip install --force-reinstall --index-url https://download.pytorch.org/whl/cu130 torch"
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
    """One way to make pictures: what was found, what follows from it, and the remedy if that is not enough."""

    name: str
    available: bool
    found: str
    follows: str
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
    """A module that a backend needs, the extra that brings it, and what must hold for it on a GPU, with the remedy.

    `follows` says what there is with it and what there is without; `at_least` is its lowest major version.
    """

    name: str
    module: str
    extra: str
    follows: tuple[str, str]
    on_gpu: Callable[[Any], bool] | None = None
    remedy: str = ""
    at_least: int = 0


_PARTS = (
    _Part(
        "onnxruntime on cpu",
        "onnxruntime",
        "cpu",
        ("every model runs on this CPU", "nothing runs on this CPU but StyleGAN2 and 3 with backend torch"),
    ),
    _Part(
        "onnxruntime on cuda",
        "onnxruntime",
        "gpu",
        ("every model runs on this GPU", "diffusion models run on the CPU alone"),
        lambda module: "CUDAExecutionProvider" in module.get_available_providers(),
        "pip uninstall -y onnxruntime && pip install --force-reinstall onnxruntime-gpu",
    ),
    _Part(
        "onnxruntime-tensorrt on cuda",
        "onnxruntime",
        "gpu",
        ("models run through the TensorRT 10 that onnxruntime has", "backend onnxruntime-tensorrt is not to be had"),
        lambda module: "TensorrtExecutionProvider" in module.get_available_providers(),
        "pip uninstall -y onnxruntime && pip install --force-reinstall onnxruntime-gpu",
    ),
    _Part(
        "torch on cpu",
        "torch",
        "torch",
        ("models can be imported, exported and trained", "models can be run, but not imported, exported or trained"),
    ),
    _Part(
        "torch on cuda",
        "torch",
        "gpu",
        ("StyleGAN2 runs on this GPU in CUDA graphs", "backends torch and tensorrt do not run on a GPU"),
        lambda module: bool(module.cuda.is_available()),
        CUDA_TORCH,
    ),
    _Part(
        "triton",
        "triton",
        "torch",
        (
            "backend torch runs our kernels, fp16 and bf16 too",
            "on a GPU backend torch runs torch's kernels, fp32 alone",
        ),
        lambda module: True,
    ),
    _Part(
        "tensorrt",
        "tensorrt",
        "gpu",
        ("plans are built for this GPU: impasto export MODEL --tensorrt", "models run on torch or onnxruntime instead"),
        lambda module: bool(importlib.import_module("torch").cuda.is_available()),
        CUDA_TORCH,
        at_least=11,
    ),
)


def _examined(part: _Part, has_gpu: bool) -> Backend:
    have, lack = part.follows
    try:
        module = importlib.import_module(part.module)
        found = f"{part.module} {module.__version__}"
        if part.at_least > int(module.__version__.partition(".")[0]):
            remedy = f"pip install --upgrade '{part.module}>={part.at_least}'"
            return Backend(part.name, False, f"{found}, older than {part.at_least}", lack, remedy)
        if part.on_gpu is None:
            return Backend(part.name, True, found, have)
        if not has_gpu:
            return Backend(part.name, False, f"{found}, no GPU", lack, NO_GPU)
        if not part.on_gpu(module):
            return Backend(part.name, False, f"{found} cannot use the GPU", lack, part.remedy)
        return Backend(part.name, True, found, have)
    except ModuleNotFoundError as error:
        if error.name == part.module:
            return Backend(part.name, False, "not installed", lack, install_command(part.extra))
        return _broken(part, error)
    except Exception as error:
        # A broken installation fails with anything: a missing library, a clash of versions.
        return _broken(part, error)


def _broken(part: _Part, error: Exception) -> Backend:
    remedy = install_command(part.extra, "--force-reinstall")
    return Backend(part.name, False, f"{part.module} fails: {type(error).__name__}: {error}", part.follows[1], remedy)


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
