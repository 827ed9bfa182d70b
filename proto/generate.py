"""Regenerate impasto/api from the .proto files of this folder: python proto/generate.py

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


if __name__ == "__main__":
    generate(API)
