"""Start a server on the embedded models, ask it over gRPC for 16 pictures of `starry`, and show them on one sheet.

    python examples/demo.py            writes out/starry.png

Runs with the extra `cpu` alone: onnxruntime, no torch.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import impasto
from impasto.events import Done, Event
from impasto.export.bundle import ZOO
from impasto.images import contact_sheet, encode

COUNT = 16
SHEET = Path("out") / "starry.png"


def main() -> None:
    stages: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        with timed("start the server, load and warm up the model", stages):
            address = stack.enter_context(running_server())
            client = stack.enter_context(impasto.Client(address))
            client.wait_until_ready()
        done: list[Done] = []

        def on_progress(event: Event) -> None:
            if isinstance(event, Done):
                done.append(event)

        with timed(f"{COUNT} pictures over gRPC", stages):
            pictures = client.generate("starry", seeds=0, count=COUNT, on_progress=on_progress)
    with timed("write the sheet", stages):
        SHEET.parent.mkdir(exist_ok=True)
        sheet = contact_sheet([picture.array for picture in pictures])
        SHEET.write_bytes(encode(sheet, "png", {"model": "starry", "seeds": [picture.seed for picture in pictures]}))
    for name, seconds in stages.items():
        print(f"{seconds:8.2f} s  {name}")
    (timing,) = done
    print(f"longest wait in the queue: {timing.queue_ms:.0f} ms; longest batch: {timing.execute_ms:.0f} ms")
    for size, rows in sorted(Counter(timing.batch_sizes).items()):
        print(f"batches of {size}: {rows // size}")
    print(f"the sheet: {SHEET.resolve()}")


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """A server process on a free port, stopped at the end; its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    options = ["--listen", address, "--metrics-listen", "127.0.0.1:0", "--models", str(ZOO)]
    command = [sys.executable, "-m", "impasto.cli", "serve", *options]
    server = subprocess.Popen(command, env={**os.environ, "GRPC_VERBOSITY": "ERROR"})
    try:
        yield address
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def timed(name: str, stages: dict[str, float]) -> Iterator[None]:
    start = perf_counter()
    yield
    stages[name] = perf_counter() - start


if __name__ == "__main__":
    main()
