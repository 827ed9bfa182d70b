"""Regenerate impasto/api from the .proto files of this folder: python proto/generate.py [--check]

With --check nothing is written: it fails if impasto/api is not what the .proto files give.
Needs grpcio-tools 1.76 to 1.80 (newer ones write code that refuses protobuf 6) and mypy-protobuf, in the interpreter
that runs it. proto/PACKAGE/x.proto becomes impasto/api/PACKAGE/x_pb2.py; the files' registered names stay as written,
so that reflection shows them, and only the Python imports are made to point below impasto.api.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTO = Path(__file__).resolve().parent
API = PROTO.parent / "impasto" / "api"


def generate(destination: Path) -> None:
    """Write the code for every .proto file into `destination`, which is emptied first."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO}", *outputs, *sources]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        subprocess.run(command, check=True, env={**os.environ, "PATH": path})
        _make_package(Path(folder))
        shutil.rmtree(destination, ignore_errors=True)
        shutil.copytree(folder, destination)


def _make_package(root: Path) -> None:
    packages = "|".join(sorted(path.name for path in root.iterdir()))
    imports = re.compile(rf"^from ({packages})([.\w]*) import ", re.MULTILINE)
    for file in sorted(root.rglob("*.py*")):
        file.write_text(imports.sub(r"from impasto.api.\1\2 import ", file.read_text()))
    for folder in [root, *sorted(path for path in root.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").write_text("")


def differences(left: Path, right: Path) -> list[str]:
    """Files that only one of two folders has, or that differ."""
    files = {path.relative_to(root) for root in (left, right) for path in root.rglob("*.py*") if path.suffix != ".pyc"}
    return sorted(str(file) for file in files if _bytes(left / file) != _bytes(right / file))


def _bytes(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        with tempfile.TemporaryDirectory() as scratch:
            generate(Path(scratch) / "api")
            if stale := differences(API, Path(scratch) / "api"):
                sys.exit(f"impasto/api is not what proto/ gives; run `python proto/generate.py`: {', '.join(stale)}")
    else:
        generate(API)
