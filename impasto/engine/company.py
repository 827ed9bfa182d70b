"""Whether a row that runs on a CPU has it to itself."""

from __future__ import annotations

import threading
import time
from types import TracebackType

QUIET_SECONDS = 1.0
"""How long after two rows ran at the same time each still gets one core only.

Under a steady load a row often finds the others idle for a moment. If it took all cores, the next row would find them
taken: at 0.3 of the capacity that doubles the latest replies, and helps few. A caller who asks for one picture after
the other never has company.
"""


class Company:
    """`with company as alone:` around each row's run; `alone` says that it may have all cores. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = 0
        self._quiet_from = 0.0

    def __enter__(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if self._rows:
                self._quiet_from = now + QUIET_SECONDS
            self._rows += 1
            return self._rows == 1 and now >= self._quiet_from

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._rows -= 1
