"""How the process of a server is tuned; none of it changes what the server does."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import platform
import sys
import threading
from pathlib import Path

from impasto.server.config import MEBIBYTE

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 64 * MEBIBYTE
LARGEST_KEPT = 32 * MEBIBYTE
"""The most that glibc takes as its threshold."""
NEW_OBJECTS = 10_000
"""Between two looks of the garbage collector; Python's own default is 700."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed, which takes a fifth off the cost of a small call; else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def keep_freed_memory() -> None:
    """Have glibc keep up to KEPT bytes that were freed, and take blocks of up to LARGEST_KEPT from them.

    Otherwise every large reply gets its memory from the kernel, page by page, and gives it back, which takes several
    times as long as to copy the picture.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)


def let_the_event_loop_finish() -> None:
    """Have gRPC's threads, which hand each event on to the event loop, not interrupt it in the midst of the last one.

    Linux lets whoever wakes up take the core at once, but not those of SCHED_BATCH. It takes a tenth off a small call.
    """
    if not sys.platform.startswith("linux"):
        return
    polling = {str(thread.native_id) for thread in threading.enumerate() if "_poll_wrapper" in thread.name}
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended, or the system allows no such change
            if thread.name in polling or (thread / "comm").read_text().strip() == "event_engine":
                os.sched_setscheduler(int(thread.name), os.SCHED_BATCH, os.sched_param(0))


def spare_the_garbage_collector() -> None:
    """Have it leave alone what there is now, which stays, and look seldom: requests are freed without it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
