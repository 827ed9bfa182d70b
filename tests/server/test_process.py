"""How the process of a server is tuned."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import uvloop

from impasto.server.process import new_event_loop

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
