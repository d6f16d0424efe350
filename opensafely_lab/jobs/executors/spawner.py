"""The thread that starts supervisors."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from typing import Any


class Spawner:
    """Starts processes from one thread that lives as long as we do.

    The wish to die with one's parent follows the parent *thread*: a supervisor started from a
    worker thread would die with that thread, and its run with it.
    """

    def __init__(self) -> None:
        self.orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.pid = os.getpid()
        threading.Thread(target=self._serve, name="sandbox-spawner", daemon=True).start()

    def _serve(self) -> None:
        while True:
            words, options, answer = self.orders.get()
            try:
                answer.put(subprocess.Popen(words, **options))
            except OSError as problem:
                answer.put(problem)

    def spawn(self, words: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        answer: queue.SimpleQueue[subprocess.Popen[bytes] | OSError] = queue.SimpleQueue()
        self.orders.put((words, options, answer))
        made = answer.get()
        if isinstance(made, OSError):
            raise made
        return made


_the_one: Spawner | None = None
_lock = threading.Lock()


def the_spawner() -> Spawner:
    global _the_one
    with _lock:
        if _the_one is None or _the_one.pid != os.getpid():
            _the_one = Spawner()
        return _the_one
