"""TensorRT's real Python package over libraries that hold nothing, for machines without TensorRT.

The package needs nine functions of three libraries, of which these give null. So all of the Python code runs, up to the
first call that needs an engine, a builder or a registry, in a process of its own.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.locking import alone_at

VERSION = "11.4.0.106"
PACKAGES = (f"tensorrt-cu13=={VERSION}", f"tensorrt-cu13-bindings=={VERSION}")

FUNCTIONS = {
    "libnvinfer.so.11": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "libnvinfer_plugin.so.11": ("initLibNvInferPlugins",),
    "libnvonnxparser.so.11": (
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getNvOnnxParserVersion",
    ),
}


def build(folder: Path) -> None:
    """Compile the libraries into a folder; those that are there stay."""
    for library, names in FUNCTIONS.items():
        if (folder / library).exists():
            continue
        source = "\n".join(f"void *{name}(void) {{ return 0; }}" for name in names)
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-x", "c", "-", "-o", str(folder / library)]
        subprocess.run(command, input=source, text=True, check=True)


def load(folder: str) -> None:
    """Load the libraries before the package asks for them."""
    for library in FUNCTIONS:
        ctypes.CDLL(str(Path(folder, library)), ctypes.RTLD_GLOBAL)


class RealPackage:
    """Python programs that see TensorRT's package, and the libraries that hold nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, code: str, *arguments: str) -> list[str]:
        """The lines that a program prints, but for TensorRT's own; it must not fail."""
        prelude = f"from tests.support import tensorrt_standins\ntensorrt_standins.load({str(self._folder)!r})\n"
        root = Path(__file__).parents[2]
        path = os.pathsep.join([str(root), str(self._folder)])
        answer = subprocess.run(
            [sys.executable, "-c", prelude + code, *arguments],
            capture_output=True,
            text=True,
            cwd=root,
            env=os.environ | {"PYTHONPATH": path, "TRITON_INTERPRET": "0"},
        )
        assert answer.returncode == 0, answer.stderr
        return [line for line in answer.stdout.splitlines() if "[TRT]" not in line]


def real_package(config: pytest.Config) -> RealPackage:
    """Installed once, into the folder that $IMPASTO_TENSORRT_SITE names or else pytest's cache; skips where it cannot.

    The package is NVIDIA's and stays out of this project; it weighs 1.3 MB without its libraries.
    """
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to compile the libraries that stand for TensorRT's")
    named = os.environ.get("IMPASTO_TENSORRT_SITE")
    assert config.cache is not None
    folder = Path(named) if named else config.cache.mkdir("tensorrt")
    with alone_at(folder):
        if not (folder / "tensorrt").exists():
            options = ["--quiet", "--no-deps", "--target", str(folder)]
            command = [sys.executable, "-m", "pip", "install", *options, *PACKAGES]
            if subprocess.run(command, capture_output=True, check=False, timeout=300).returncode:
                pytest.skip(f"pip cannot install {PACKAGES[0]} here")
        build(folder)
    return RealPackage(folder)
