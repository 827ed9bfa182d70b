"""Environments of the peers, which want other versions than Impasto: made once, kept in the cache folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TRITON = "triton"
RAY = "ray"
WITHOUT_DEPENDENCIES = {TRITON}
"""Whose requirements are complete as listed."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment of the running Python version."""

    path: Path

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def packages(self) -> Path:
        """Where its packages lie."""
        return self.path / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def environment(name: str) -> Environment:
    """The environment of requirements-NAME.txt, installed if it is not there, or not of these requirements."""
    requirements = HERE / f"requirements-{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    found = Environment(cache_folder() / f"{name}-{digest}")
    complete = found.path / "complete"
    if not complete.exists():
        print(f"installing {requirements.name} into {found.path}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", found.path], check=True)
        install: list[str | Path] = [found.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if name in WITHOUT_DEPENDENCIES:
            install.append("--no-deps")
        subprocess.run([*install, "--requirement", requirements], check=True)
        complete.touch()
    return found


def cache_folder() -> Path:
    """$XDG_CACHE_HOME or ~/.cache, and there impasto/peers."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "impasto" / "peers"
