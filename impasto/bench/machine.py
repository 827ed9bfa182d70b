"""What a benchmark ran on and with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import psutil

import impasto
from impasto.bench.gpu import gpus
from impasto.bench.result import Machine

PACKAGES = (
    "impasto",
    "grpcio",
    "protobuf",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "triton",
    "tensorrt",
    "mlcommons-loadgen",
)
MEBIBYTE = 2**20


def machine() -> Machine:
    """This machine, now."""
    frequency = psutil.cpu_freq()
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_mib=psutil.virtual_memory().total // MEBIBYTE,
        clock_mhz=frequency.current if frequency else None,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages={name: found for name in PACKAGES if (found := _version(name))},
        gpus=gpus(),
    )


def commit() -> str:
    """The commit that this package is of, with "-dirty" where files differ from it; else the package's version."""
    command = ("git", "describe", "--always", "--dirty", "--exclude", "*")
    try:
        told = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return impasto.__version__
    return told.stdout.strip() if told.returncode == 0 else impasto.__version__


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
