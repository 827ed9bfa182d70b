"""What a server's processes take while a load runs: CPU time and memory, of all of them and their children."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import psutil

MEBIBYTE = 2**20


def listeners(address: str) -> list[int]:
    """The processes of this machine that listen on "host:port"; none if it is another machine's, or not ours to see."""
    host, _, port = address.rpartition(":")
    if host.strip("[]") not in ("127.0.0.1", "localhost", "::1"):
        return []
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return []
    found = {c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == int(port)}
    return sorted(pid for pid in found if pid is not None)


class ProcessWatch:
    """Looks at processes and their children when a `with` block begins and when it ends, and never between.

    `cpu_seconds` is what they took meanwhile, user and system; `resident_mib` what they hold at the end, in which a
    page that several of them share counts once (the kernel's proportional set size). Looking costs time, for which the
    client's requests would wait.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._roots = list(pids)
        self._before: dict[int, float] = {}
        self.cpu_seconds = 0.0
        self.resident_mib = 0.0
        self.processes = 0

    def __enter__(self) -> Self:
        self._before = {process.pid: _cpu(process) for process in self._all()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._all():
            with contextlib.suppress(psutil.Error):
                self.cpu_seconds += _cpu(process) - self._before.get(process.pid, 0.0)
                self.resident_mib += _resident_mib(process)
                self.processes += 1

    def _all(self) -> list[psutil.Process]:
        found: dict[int, psutil.Process] = {}
        for pid in self._roots:
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(pid)
                found |= {process.pid: process for process in (root, *root.children(recursive=True))}
        return list(found.values())


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _resident_mib(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / MEBIBYTE
    except (psutil.AccessDenied, AttributeError):  # no such sum on this system, or not ours to see
        return float(process.memory_info().rss) / MEBIBYTE
