"""CPU time that servers spend inside onnxruntime, counted in each of their processes in the same way.

The peers run this file inside their own processes: it imports nothing of Impasto. A run's CPU time is that of the
thread that called it, and all that onnxruntime's own threads take counts too, spinning as well as computing.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from pathlib import Path
from typing import Any

_NANOSECONDS = struct.Struct("<Q")
_TICK = 1.0 / os.sysconf("SC_CLK_TCK")


def count_model_cpu(folder: Path) -> None:
    """From now on write this process's time in sessions to `folder`, where `model_cpu_seconds` finds it."""
    import onnxruntime

    session = onnxruntime.InferenceSession
    create, run = session.__init__, session.run
    counter = _Counter(folder / f"{os.getpid()}.time")
    threads = folder / f"{os.getpid()}.threads"

    def creating(self: Any, *arguments: Any, **options: Any) -> None:
        before = set(_threads())
        create(self, *arguments, **options)
        with threads.open("a") as file:
            file.writelines(f"{thread}\n" for thread in set(_threads()) - before)

    def running(self: Any, *arguments: Any, **options: Any) -> Any:
        began = time.thread_time_ns()
        try:
            return run(self, *arguments, **options)
        finally:
            counter.add(time.thread_time_ns() - began)

    session.__init__, session.run = creating, running


def model_cpu_seconds(folder: Path) -> float:
    """What all processes that count into `folder` have spent so far."""
    callers = sum(_NANOSECONDS.unpack(file.read_bytes()[: _NANOSECONDS.size])[0] for file in folder.glob("*.time"))
    own = sum(
        _thread_seconds(file.stem, thread) for file in folder.glob("*.threads") for thread in file.read_text().split()
    )
    return float(callers / 1e9 + own)


class _Counter:
    """A number in a file that another process can read at any time."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._lock = threading.Lock()
        self._total = 0

    def add(self, nanoseconds: int) -> None:
        with self._lock:
            self._total += nanoseconds
            _NANOSECONDS.pack_into(self._memory, 0, self._total)


def _threads() -> list[str]:
    return [task.name for task in Path("/proc/self/task").iterdir()]


def _thread_seconds(process: str, thread: str) -> float:
    """User and system time of a thread; 0 of one that has ended."""
    try:
        fields = Path(f"/proc/{process}/task/{thread}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * _TICK
