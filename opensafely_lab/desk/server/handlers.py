"""Routes under `/opensafely`: each reads one message strictly, asks the desk, answers with one message.

Every route asks for a signed-in user who is authorised for the resource "opensafely". What goes
wrong is answered as `wire.lab.Problem`. Nothing of a result is ever written to the server's log.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.iostream import StreamClosedError

from opensafely_lab.desk.inspect import problem
from opensafely_lab.desk.server.desk import Desk
from opensafely_lab.errors import LabError, UsageError
from opensafely_lab.wire.base import Message
from opensafely_lab.wire.decode import decode
from opensafely_lab.wire.lab import CreateStudy, Problem, Started, StartRun

MAX_BODY = 256 * 1024  # a request of ours is a path and some parameters
MAX_PATH = 4096
MAX_LISTENERS = 64
SECONDS_BETWEEN_EVENTS = 0.2
SECONDS_BETWEEN_SIGNS_OF_LIFE = 15.0

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=Message)


def routes(base_url: str, desk: Desk) -> list[tuple[str, type[web.RequestHandler], dict[str, Any]]]:
    """The handlers, for `web_app.add_handlers`."""
    listeners: set[EventsHandler] = set()

    def at(*parts: str) -> str:
        return url_path_join(base_url, "opensafely", *parts)

    return [
        (at("status"), StatusHandler, {"desk": desk}),
        (at("notebook"), NotebookHandler, {"desk": desk}),
        (at("runs"), RunsHandler, {"desk": desk}),
        (at("runs", "([a-z0-9]{1,64})", "cancel"), CancelHandler, {"desk": desk}),
        (at("events"), EventsHandler, {"desk": desk, "listeners": listeners}),
        (at("results", "([a-z0-9]{1,64})"), ResultHandler, {"desk": desk}),
        (at("studies"), StudiesHandler, {"desk": desk}),
    ]


class DeskHandler(APIHandler):
    """What our handlers share: the desk in a thread, problems as JSON, nothing cached."""

    auth_resource = "opensafely"

    def initialize(self, desk: Desk) -> None:
        self.desk = desk

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    async def ask(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The desk's answer; the server goes on with other requests meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(None, partial(function, *args, **kwargs))

    def read(self, message: type[M]) -> M:
        """The request's body as a message, or a refusal that does not repeat it."""
        return decode(message, self.request.body, MAX_BODY)

    def answer(self, message: Message, status: int = 200) -> None:
        self.set_status(status)
        self.finish(message.model_dump_json())

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Every error as a `Problem`. Our own sentences travel; the text of other errors does not."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        self.set_header("Content-Type", "application/json")
        if isinstance(error, LabError):
            self.set_status(error.http_status)
            answer = problem(error)
        elif isinstance(error, web.HTTPError):
            answer = Problem(
                code=f"http-{status_code}",
                sentence=_HTTP_SENTENCES.get(status_code, f"The Jupyter server refused the request ({status_code})."),
                next_step="Reload the page, and sign in again if you are asked to.",
            )
        else:
            answer = Problem(
                code="platform",
                sentence="Something in OpenSAFELY Lab broke while it answered.",
                next_step="Try again. If it stays, the server's log says where.",
            )
        self.finish(answer.model_dump_json())

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Where it broke, never what was in it: an error's text may quote what it was working on."""
        if isinstance(value, LabError):
            self.log.info("OpenSAFELY: %s %s: %s", self.request.method, self.request.path, value.code)
        elif isinstance(value, web.HTTPError):
            self.log.info("OpenSAFELY: %s %s: %d", self.request.method, self.request.path, value.status_code)
        else:
            where = "".join(traceback.format_tb(tb))
            self.log.error("OpenSAFELY: %s in %s\n%s", typ.__name__, self.request.path, where)


_HTTP_SENTENCES = {
    403: "You may not use OpenSAFELY on this Jupyter server.",
    404: "There is nothing at this address.",
    405: "This cannot be asked that way.",
}


class StatusHandler(DeskHandler):
    @web.authenticated
    @authorized
    async def get(self) -> None:
        self.answer(await self.ask(self.desk.status))


class NotebookHandler(DeskHandler):
    @web.authenticated
    @authorized
    async def get(self) -> None:
        self.answer(await self.ask(self.desk.notebook_info, checked_path(self.get_query_argument("path"))))


class RunsHandler(DeskHandler):
    @web.authenticated
    @authorized
    async def get(self) -> None:
        self.answer(await self.ask(self.desk.runs))

    @web.authenticated
    @authorized
    async def post(self) -> None:
        asked = self.read(StartRun)
        checked_path(asked.path)
        self.answer(Started(run=await self.ask(self.desk.start, asked)), 202)


class CancelHandler(DeskHandler):
    """The run is named by its address; there is nothing to say in the body, and none is read."""

    @web.authenticated
    @authorized
    async def post(self, run: str) -> None:
        self.answer(await self.ask(self.desk.cancel, run), 202)


class ResultHandler(DeskHandler):
    @web.authenticated
    @authorized
    async def get(self, run: str) -> None:
        self.answer(await self.ask(self.desk.result, run))


class StudiesHandler(DeskHandler):
    @web.authenticated
    @authorized
    async def post(self) -> None:
        asked = self.read(CreateStudy)
        checked_path(asked.folder)
        self.answer(await self.ask(self.desk.create_study, asked), 201)


class EventsHandler(DeskHandler):
    """Server-sent events: the whole list of runs at once, and again whenever it has changed."""

    def initialize(self, desk: Desk, listeners: set[EventsHandler] | None = None) -> None:
        super().initialize(desk)
        self.listeners = listeners if listeners is not None else set()
        self.changed = asyncio.Event()
        self.gone = False

    def on_connection_close(self) -> None:
        self.gone = True
        self.changed.set()

    @web.authenticated
    @authorized
    async def get(self) -> None:
        if len(self.listeners) >= MAX_LISTENERS:
            raise web.HTTPError(503)
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")
        loop = asyncio.get_running_loop()
        unsubscribe = self.desk.subscribe(partial(_wake, loop, self.changed))
        self.listeners.add(self)
        try:
            await self.tell()
        except StreamClosedError:
            pass
        finally:
            self.listeners.discard(self)
            unsubscribe()

    async def tell(self) -> None:
        told = None
        while not self.gone:
            self.changed.clear()
            runs = (await self.ask(self.desk.runs)).model_dump_json()
            self.write(": here\n\n" if runs == told else f"data: {runs}\n\n")
            told = runs
            await self.flush()
            await asyncio.sleep(SECONDS_BETWEEN_EVENTS)
            try:
                await asyncio.wait_for(self.changed.wait(), SECONDS_BETWEEN_SIGNS_OF_LIFE)
            except TimeoutError:
                continue


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(event.set)


def checked_path(path: str) -> str:
    """A Contents path as it may be used, or a refusal: relative, inside the server's root, printable."""
    parts = path.split("/")
    if not path or len(path) > MAX_PATH or not path.isprintable() or "\\" in path:
        raise UsageError("This is not a path in JupyterLab's file browser.")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise UsageError("A path must lie inside the folder that JupyterLab serves.")
    return path
