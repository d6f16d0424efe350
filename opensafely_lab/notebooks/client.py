"""papermill's client as `execute` uses it: an adopted kernel, no idle waiting, a limit on outputs.

Imported inside the sandbox only, after the kernel has been started.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty
from typing import Any

import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_async
from papermill.clientwrap import PapermillNotebookClient  # type: ignore[import-untyped]
from papermill.engines import NBClientEngine, papermill_engines  # type: ignore[import-untyped]

ENGINE = "opensafely"


class Flood(Exception):
    """More outputs, or larger ones, than a run may make."""


class Watch:
    """What `execute` keeps of a run: the cells, the position being executed, the sum of its outputs."""

    def __init__(self, most_messages: int, most_bytes: int, stop: Callable[[], None]) -> None:
        self.most_messages = most_messages
        self.most_bytes = most_bytes
        self.stop = stop
        self.flooded = False
        self.messages = 0
        self.bytes = 0
        self.position: int | None = None
        self.cells: list[Any] = []
        self.metadata: dict[str, Any] = {}  # the notebook's: papermill adds what the kernel says at its end

    def count(self, message: dict[str, Any]) -> None:
        self.messages += 1
        self.bytes += sum(_size(value) for value in message["content"].values()) + sum(map(len, message["buffers"]))
        if self.messages > self.most_messages or self.bytes > self.most_bytes:
            self.flooded = True
            self.stop()  # nbclient would listen until the cell ends, if it ever does
            raise Flood


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_size(item) for item in value.values())
    if isinstance(value, list):
        return sum(_size(item) for item in value)
    return 8


class FastClient(AsyncKernelClient):
    """Ready as soon as the kernel has answered.

    jupyter_client's own wait ends with 0.2 s of silence on iopub; nbclient matches messages by their
    parent, so nothing depends on that silence. Drops no message: see `batch_kernel`.
    """

    async def _async_wait_for_ready(self, timeout: float | None = None) -> None:
        end = time.monotonic() + (timeout or 60)
        while True:
            self.kernel_info()
            try:
                message = await ensure_async(self.shell_channel.get_msg(timeout=1))
            except Empty:
                message = None
            if message and message["msg_type"] == "kernel_info_reply":
                try:  # iopub is connected once it has said anything
                    await ensure_async(self.iopub_channel.get_msg(timeout=0.2))
                except Empty:
                    continue
                self._handle_kernel_info_reply(message)
                return
            if not await self._async_is_alive() or time.monotonic() > end:
                raise RuntimeError("the kernel did not answer")

    wait_for_ready = _async_wait_for_ready


class AdoptedKernel(AsyncKernelManager):
    """A manager of a kernel that is running already. It neither starts nor ends it."""

    adopted: Any = None

    @property
    def has_kernel(self) -> bool:
        return True

    async def _async_is_alive(self) -> bool:
        return bool(self.adopted.alive())

    is_alive = _async_is_alive

    def client(self, **options: Any) -> FastClient:  # type: ignore[override]  # the async one, as its class says
        self.adopted.wait_for_sockets()
        context = zmq.asyncio.Context()
        context.setsockopt(zmq.RCVHWM, 0)
        made = FastClient(parent=self, context=context)
        made.load_connection_info(self.adopted.connection)
        return made


def manager(kernel: Any) -> AdoptedKernel:
    made = AdoptedKernel()
    made.adopted = kernel
    return made


def register(watch: Watch) -> None:
    """Make `ENGINE` known to papermill: its own engine, with our client."""

    class Client(PapermillNotebookClient):  # type: ignore[misc]  # papermill has no types
        def process_message(self, *arguments: Any, **options: Any) -> Any:
            watch.count(arguments[0])
            return super().process_message(*arguments, **options)

        def execute_cell(self, cell: Any, cell_index: int, *arguments: Any, **options: Any) -> Any:
            watch.position = cell_index
            return super().execute_cell(cell, cell_index, *arguments, **options)

    class Engine(NBClientEngine):  # type: ignore[misc]  # papermill has no types
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
            # The cells, now: when one fails, papermill puts markers of its own between them.
            watch.cells = list(nb_man.nb.cells)
            watch.metadata = nb_man.nb.metadata
            for name in ("input_path", "log_output", "stdout_file", "stderr_file", "execution_timeout"):
                options.pop(name, None)
            start_timeout = options.pop("start_timeout", 60)
            return Client(nb_man, kernel_name=kernel_name, startup_timeout=start_timeout, **options).execute()

    papermill_engines.register(ENGINE, Engine)
