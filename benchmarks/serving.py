"""A server in a process of its own, for benchmarks to load."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(model: str, configuration: str = "", models: Path | None = None) -> Iterator[tuple[str, int]]:
    """Serve the model with a TOML configuration, on a free port; gives the address and the process."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "server.toml"
        config.write_text(configuration)
        options = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--load", model]
        if models is not None:
            options += ["--models", str(models)]
        command = [sys.executable, "-m", "impasto.cli", "serve", *options, "--config", str(config)]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            yield _address(server), server.pid
        finally:
            server.terminate()
            server.wait()


def _address(server: subprocess.Popen[str]) -> str:
    """The address that the server logs once it serves."""
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"serving on (\S+)", line):
            return found.group(1)
    raise SystemExit("the server did not start")
