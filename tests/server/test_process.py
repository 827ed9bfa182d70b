"""How the process of a server is tuned."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop

from impasto.server.process import new_event_loop
from tests.support.bundles import write_tiny_bundle

ALLOCATIONS, PAGES = 50, 2048
COUNT_FAULTS = f"""
import resource
from impasto.server.process import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({ALLOCATIONS}):
        replies = [b"x" * ({PAGES} * 4096), b"y" * ({PAGES} * 4096)]
        del replies
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is tuned")
def test_freed_memory_is_used_again_without_asking_the_kernel() -> None:
    shown = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    assert int(shown.stdout) < 4 * PAGES


def test_server_runs_on_uvloop_where_it_is_installed() -> None:
    loop = new_event_loop()
    try:
        assert isinstance(loop, uvloop.Loop)
    finally:
        loop.close()


def test_server_runs_on_asyncios_own_loop_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_event_loop()
    try:
        assert type(loop).__module__.startswith("asyncio")
    finally:
        loop.close()


POLICIES = """
import asyncio, os, threading
from pathlib import Path
import grpc
from impasto.server.process import let_the_event_loop_finish

async def main():
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    let_the_event_loop_finish()
    polling = [thread.native_id for thread in threading.enumerate() if "_poll_wrapper" in thread.name]
    print([os.sched_getscheduler(thread) == os.SCHED_BATCH for thread in polling])
    print(os.sched_getscheduler(0) == os.SCHED_OTHER)
    await server.stop(None)

asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is Linux that is told")
def test_grpcs_polling_thread_does_not_interrupt_the_event_loop() -> None:
    shown = subprocess.run([sys.executable, "-c", POLICIES], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == ["[True]", "True"]


CORES = """
import asyncio, json, os, signal, sys, threading
from pathlib import Path
import grpc
from impasto.api.impasto.v1 import generation_pb2 as generation, models_pb2 as models
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.api.impasto.v1.models_pb2_grpc import ModelServiceStub
from impasto.server.config import ServerConfig
from impasto.server.server import serve

async def main(folder, first, second):
    config = ServerConfig(listen="127.0.0.1:0", metrics_listen="", models=[Path(folder)], load=[first])
    ready = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(config, ready.set_result))
    server = await ready
    async with grpc.aio.insecure_channel(server.address) as channel:
        await ModelServiceStub(channel).LoadModel(models.LoadModelRequest(name=second))
        for name in (first, second):
            await GenerationServiceStub(channel).Generate(generation.GenerateRequest(model=name, seeds=range(4)))
        names = {str(thread.native_id): thread.name for thread in threading.enumerate()}
        cores = {}
        for thread in Path("/proc/self/task").iterdir():
            name = names.get(thread.name) or (thread / "comm").read_text().strip()
            cores.setdefault(name, []).append(len(os.sched_getaffinity(int(thread.name))))
        print(json.dumps(cores))
    os.kill(os.getpid(), signal.SIGTERM)
    await serving

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or len(os.sched_getaffinity(0)) < 2, reason="it is Linux that is told"
)
def test_events_are_kept_to_one_core_and_the_rows_of_models_and_pictures_files_are_not(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_tiny_bundle(tmp_path, name)
    command = [sys.executable, "-c", CORES, str(tmp_path), "first", "second"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    cores: dict[str, list[int]] = json.loads(shown.stdout)
    every = len(os.sched_getaffinity(0))
    assert cores["MainThread"] == [1]
    assert {count for name in cores if "_poll_wrapper" in name for count in cores[name]} == {1}
    rows = {name for name in cores if name.startswith(("first-1-", "second-1-", "encode"))}
    assert len(rows) >= 2 * every + 1
    assert {count for name in rows for count in cores[name]} == {every}
