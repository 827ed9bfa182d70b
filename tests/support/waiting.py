"""Waiting for what comes about by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

GUARD = 60.0
"""Seconds after which a test that hangs is given up."""


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds. TimeoutError after GUARD."""
    async with asyncio.timeout(GUARD):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.01)
