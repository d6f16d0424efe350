"""Answers that wait for news: a desk's panel is live at once, and an agent's poll costs one query."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")
LOOK_AGAIN_SECONDS = 5.0  # in case another process of the site made the change


class Changes:
    """The site's doorbell: whoever changes something rings, whoever waits looks again."""

    def __init__(self) -> None:
        self._bell = asyncio.Event()
        self._closed = False

    def ring(self) -> None:
        self._bell.set()
        self._bell = asyncio.Event()

    def close(self) -> None:
        """Nobody waits from now on: the site stops."""
        self._closed = True
        self.ring()

    async def until(self, read: Callable[[], T], is_news: Callable[[T], bool], seconds: float) -> T:
        """What `read` gives, as soon as it is news, or when `seconds` have gone by."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while True:
            bell = self._bell  # taken before reading, so that no ring in between is missed
            value = await run_in_threadpool(read)
            left = deadline - clock()
            if left <= 0 or self._closed or is_news(value):
                return value
            with suppress(TimeoutError):
                await asyncio.wait_for(bell.wait(), min(left, LOOK_AGAIN_SECONDS))
