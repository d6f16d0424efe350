"""Answering HTTP: whole and bounded bodies, bearer tokens, one shape for every refusal, a log line per answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import Any, ClassVar, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage

from opensafely_lab.errors import ErrorKind, LabError
from opensafely_lab.service.logs import describe, log
from opensafely_lab.wire.base import Message
from opensafely_lab.wire.decode import LARGEST_MESSAGE, BadMessage, decode
from opensafely_lab.wire.site import Refusal

BODY_SECONDS = 60.0
M = TypeVar("M", bound=Message)


class Unauthenticated(LabError):
    """No token, or none that is known, or one that has ended: one answer for all."""

    code: ClassVar[str] = "not-signed-in"
    kind: ClassVar[ErrorKind] = ErrorKind.UNAUTHENTICATED

    def __init__(self) -> None:
        super().__init__(
            "This needs a valid token.", next_step="Run `opensafely-lab doctor` to see which token is missing or old."
        )


class NotThere(LabError):
    """It does not exist, or is not yours to know about: one answer for both."""

    code: ClassVar[str] = "not-found"
    kind: ClassVar[ErrorKind] = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("There is nothing here for you.", next_step="Check the address and your project.")


class TooLarge(LabError):
    code: ClassVar[str] = "too-large"
    kind: ClassVar[ErrorKind] = ErrorKind.TOO_LARGE

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"What was sent is larger than the {limit / (1 << 20):.0f} MB that are taken.",
            next_step="Leave large files out of the study's repository: code and codelists are enough.",
        )


class BrokeInside(LabError):
    code: ClassVar[str] = "platform"

    def __init__(self) -> None:
        super().__init__("Something of ours broke; nothing was changed.", next_step="Try again in a moment.")


_BEARER = re.compile(r"Bearer ([A-Za-z0-9_.~+/=-]{1,128})", re.IGNORECASE)


def bearer(request: Request) -> str:
    """The token of a request; never from a query string or a cookie. Raises `Unauthenticated`."""
    values = request.headers.getlist("authorization")
    match = _BEARER.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        raise Unauthenticated
    return match[1]


async def chunks(request: Request, limit: int, seconds: float) -> AsyncIterator[bytes]:
    """The body as it arrives, at most `limit` bytes and `seconds` long."""
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise TooLarge(limit)
                yield chunk
    except (ClientDisconnect, TimeoutError):
        raise BadMessage("it stopped before its end") from None


def json_body(model: type[M]) -> Callable[[Request], Awaitable[M]]:
    """A dependency: the body of a request as a message. Depend on the token before it."""

    async def read(request: Request) -> M:
        data = b"".join([chunk async for chunk in chunks(request, LARGEST_MESSAGE, BODY_SECONDS)])
        return decode(model, data)

    return read


def describe_body(model: type[Message]) -> dict[str, Any]:
    """For the OpenAPI page: what `json_body` reads."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


def refusal(error: LabError) -> Response:
    said = Refusal(code=error.code, sentence=error.sentence, next_step=error.next_step, fix=error.fix)
    headers = {"WWW-Authenticate": "Bearer"} if error.kind is ErrorKind.UNAUTHENTICATED else None
    return Response(
        said.model_dump_json(), status_code=error.http_status, headers=headers, media_type="application/json"
    )


async def _lab_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, LabError):  # cannot be: it is registered for LabError alone
        raise error
    return refusal(error)


async def _http_error(_request: Request, error: Exception) -> Response:
    """What the router says by itself: no such path, no such method."""
    answer = refusal(NotThere())
    answer.status_code = error.status_code if isinstance(error, HTTPException) else 404
    return answer


async def _bad_request(_request: Request, _error: Exception) -> Response:
    return refusal(BadMessage("a part of its address or its question is not as agreed"))


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT"})
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


class _Watch:
    """One line per answer (route, not address: an address has ids and questions), and no exception beyond here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        began = perf_counter()

        async def send_watched(message: AsgiMessage) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        except Exception as error:  # noqa: BLE001  the last door before the server, which would log the exception's text
            log.error("unexpected: %s", describe(error))
            if not status:
                await refusal(BrokeInside())(scope, receive, send_watched)
        route = getattr(scope.get("route"), "path", "-")
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        log.info("%s %s %d %d ms", method, route, status, (perf_counter() - began) * 1000)


# Newer FastAPI records requests, and the text of exceptions, for OpenTelemetry unless it is told not to; an
# environment variable is then enough to send them somewhere.
_NO_TELEMETRY: Any = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
    "exclude": lambda _scope: True,
}


def new_app(title: str, version: str) -> FastAPI:
    """An application without routes: no docs pages, no telemetry, our refusals, our log."""
    app = FastAPI(
        title=title, version=version, docs_url=None, redoc_url=None, openapi_url=None, telemetry=_NO_TELEMETRY
    )
    app.add_exception_handler(LabError, _lab_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_middleware(_Watch)
    return app
