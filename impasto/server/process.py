"""How the process of a server is tuned; none of it changes what the server does."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import platform

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


def spare_the_garbage_collector() -> None:
    """Have it leave alone what there is now, which stays, and look seldom: requests are freed without it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
