"""Serve an application with uvicorn on loopback until SIGTERM or Ctrl-C, and say on which port."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import ClassVar

import uvicorn
from fastapi import FastAPI

from opensafely_lab.errors import PlatformError
from opensafely_lab.service.logs import log

LOOPBACK = "127.0.0.1"
FINISH_SECONDS = 5


class PortTaken(PlatformError):
    code: ClassVar[str] = "port-taken"

    def __init__(self, port: int) -> None:
        super().__init__(
            f"Port {port} of this computer is taken.", next_step="Set the port to 0 in the settings: any free one."
        )


class _Server(uvicorn.Server):
    """Waiting answers (long polls) must hear of the end at once, not after their time."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stopping()
        super().handle_exit(sig, frame)


def serve(app: FastAPI, port: int, port_file: Path | None, stopping: Callable[[], None]) -> None:
    """Blocks. The port goes into `port_file` once connections are taken; the kernel queues them from then on."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.close()
        raise PortTaken(port) from None
    listener.listen(512)
    chosen = listener.getsockname()[1]
    if port_file is not None:
        write_whole(port_file, f"{chosen}\n".encode())
    log.info("listening on port %d", chosen)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=FINISH_SECONDS,
        timeout_keep_alive=30,
        proxy_headers=False,
    )
    server = _Server(config, stopping)
    with _stopping_on_signals(server):
        server.run(sockets=[listener])
    log.info("stopped")


@contextmanager
def _stopping_on_signals(server: _Server) -> Iterator[None]:
    """Also before uvicorn listens to signals, and after: it raises them again once stopped; that is no failure."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file so that a reader sees the old or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
