"""Start a server of another make, wait until it answers, and stop it with all its children."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from impasto.bench.grpc_target import wait_until_ready
from impasto.bench.priority import usual_command
from impasto.errors import ImpastoError

START_WITHIN = 120.0
STOP_WITHIN = 30.0


@contextmanager
def started(
    command: Sequence[str | Path], address: str, model: str, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """The process's id, once `model` is ready at `address`; its log's end is in the error if it never is."""
    with tempfile.NamedTemporaryFile(prefix="impasto-peer-", suffix=".log") as log:
        process = subprocess.Popen(
            usual_command([str(word) for word in command]),
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            try:
                wait_until_ready(address, model, START_WITHIN, lambda: process.poll() is None)
            except ImpastoError as error:
                tail = Path(log.name).read_bytes()[-2000:].decode(errors="replace")
                raise ImpastoError(f"{error}; its log ends:\n{tail}") from error
            yield process.pid
        finally:
            _stop(process)


def free_port(count: int = 1) -> int:
    """The first of `count` ports in a row that are free now, and that the system gives to nobody of its own accord."""
    while True:
        first = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as taken:
            for port in range(first, first + count):
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then end whatever of it is left."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(family, STOP_WITHIN)
