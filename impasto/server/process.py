"""How the process of a server is tuned; none of it changes what the server does."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import platform
import random
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from impasto.server.config import MEBIBYTE

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 64 * MEBIBYTE
LARGEST_KEPT = 32 * MEBIBYTE
"""The most that glibc takes as its threshold."""
NEW_OBJECTS = 10_000
"""Between two looks of the garbage collector; Python's own default is 700."""
_usual_cores = set[int]()
"""Those of the process, once the event loop is kept to one of them."""


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
    for thread in _threads_of_grpc():
        with contextlib.suppress(OSError):  # it has ended, or the system allows no such change
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


def keep_events_to_one_core() -> None:
    """Have this thread, the event loop's, and gRPC's on one core, any, where they interrupt no row of a model.

    For models whose rows keep every core busy: an event passes from thread to thread, and to wake the next one on
    another core takes longer than what it has to do. Threads that the event loop starts from now on must begin with
    `on_any_core`; those of its default executor do.
    """
    if not sys.platform.startswith("linux"):
        return
    _usual_cores.update(os.sched_getaffinity(0))
    core = {random.choice(sorted(_usual_cores))}
    loop = threading.get_native_id()
    for thread in (loop, *_threads_of_grpc()):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, core)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(loop, os.SCHED_BATCH | os.SCHED_RESET_ON_FORK, os.sched_param(0))
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(initializer=on_any_core))


def on_any_core() -> None:
    """Have this thread on all cores of the process, also where the event loop, kept to one, has started it."""
    if _usual_cores:
        with contextlib.suppress(OSError):  # they have been taken from the process
            os.sched_setaffinity(0, _usual_cores)


def _threads_of_grpc() -> Iterator[int]:
    """Those that take events from the network and hand them on to the event loop; none but on Linux."""
    if not sys.platform.startswith("linux"):
        return
    polling = {thread.native_id for thread in threading.enumerate() if "_poll_wrapper" in thread.name}
    for path in Path("/proc/self/task").iterdir():
        thread = int(path.name)
        with contextlib.suppress(OSError):  # it has ended
            if thread in polling or (path / "comm").read_text().strip() == "event_engine":
                yield thread


def spare_the_garbage_collector() -> None:
    """Have it leave alone what there is now, which stays, and look seldom: requests are freed without it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
