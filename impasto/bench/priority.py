"""The client's place among the processes of a machine that it shares with a busy server."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

THREADS = Path("/proc/self/task")
_AS_USUAL = (
    "import os, sys; os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)); os.execvp(sys.argv[1], sys.argv[1:])"
)


@contextmanager
def ahead_of_others() -> Iterator[None]:
    """All threads of this process before those of a server on the same cores, where the system allows it (on Linux).

    Else a client waits for its turn, and takes that for latency. Niceness would not do: Linux weighs it only within a
    session. What is started meanwhile is as urgent; see `usual_command`.
    """
    if sys.platform != "linux":
        yield
        return
    _schedule_all(os.SCHED_RR, 1)
    try:
        yield
    finally:
        _schedule_all(os.SCHED_OTHER, 0)


def usual_command(command: list[str]) -> list[str]:
    """The command with the usual scheduling, whatever this process has."""
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_RR:
        return [sys.executable, "-I", "-c", _AS_USUAL, *command]
    return command


def _schedule_all(policy: int, priority: int) -> None:
    for thread in THREADS.iterdir():
        with contextlib.suppress(OSError):  # not allowed, or the thread has ended
            os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))
