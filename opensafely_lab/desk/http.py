"""One way to ask a service of ours: bounded, retried only where that is safe, told in sentences.

The token goes in a header to that one host: never along a redirect, into an error or into a log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar
from urllib.parse import urlsplit

import requests
from attrs import field, frozen
from requests.auth import AuthBase

from opensafely_lab import __version__
from opensafely_lab.errors import ErrorKind, LabError, PlatformError, Refused, UsageError
from opensafely_lab.wire.base import Message
from opensafely_lab.wire.decode import BadMessage, decode
from opensafely_lab.wire.site import Refusal

Method = Literal["GET", "HEAD", "PUT", "POST"]
M = TypeVar("M", bound=Message)

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
TRIES = 3
MAX_REPLY = 64 * 1024 * 1024
_LATER = frozenset({502, 503, 504})
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Unreachable(PlatformError):
    """The service did not answer."""

    code = "unreachable"


class NotSignedIn(Refused):
    """The token is unknown or has expired."""

    code = "not-signed-in"
    kind = ErrorKind.UNAUTHENTICATED


class NoPermission(Refused):
    """The service knows who asks, and says no."""

    code = "no-permission"
    kind = ErrorKind.FORBIDDEN


class NotFound(Refused):
    code = "not-found"
    kind = ErrorKind.NOT_FOUND


class RefusedThere(Refused):
    """The service refused, in its own words."""


class BadReply(PlatformError):
    """The service answered with something that this version cannot read."""

    code = "bad-reply"


class _Bearer(AuthBase):
    """Sets the token itself, so that no ~/.netrc can put another in its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def __repr__(self) -> str:
        return "<a token>"


@frozen
class Reply:
    status: int
    body: bytes = field(repr=False)


class Service:
    """A service at one address, as `who` (say, "The jobs site") in sentences; `hint` is the next step if it is down."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        who: str,
        hint: str,
        sleep: Callable[[float], None] = time.sleep,
        read_seconds: float = READ_SECONDS,
        unsafe_plain_http: bool = False,
    ) -> None:
        self.url = checked_url(url, unsafe_plain_http=unsafe_plain_http)
        self._who, self._hint, self._sleep, self._read_seconds = who, hint, sleep, read_seconds
        self._session = requests.Session()
        self._session.auth = _Bearer(token)
        self._session.headers["User-Agent"] = f"opensafely-lab/{__version__}"
        # A proxy is for the world outside; what runs on this computer is asked directly.
        self._session.trust_env = urlsplit(self.url).hostname not in _LOOPBACK

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.url}>"

    def close(self) -> None:
        self._session.close()

    def ask(
        self,
        reply: type[M],
        method: Method,
        path: str,
        *,
        body: Message | None = None,
        params: Mapping[str, str] | None = None,
        safe: bool = True,
    ) -> M:
        """Ask and read the answer as `reply`. `safe` says that asking twice does no harm."""
        data = body.model_dump_json().encode("utf-8") if body is not None else None
        headers = {"Content-Type": "application/json"} if data is not None else {}
        answer = self.send(method, path, data=data, headers=headers, params=params, safe=safe)
        try:
            return decode(reply, answer.body, limit=MAX_REPLY)
        except BadMessage:
            raise self._bad_reply() from None

    def exists(self, path: str) -> bool:
        try:
            self.send("HEAD", path)
        except NotFound:
            return False
        return True

    def send(
        self,
        method: Method,
        path: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        safe: bool = True,
    ) -> Reply:
        """The reply if it is one of success; else raises one of this module's errors."""
        tries = TRIES if safe else 1
        for attempt in range(1, tries + 1):
            try:
                answer = self._once(method, path, data, headers or {}, params or {})
            except (requests.ConnectionError, requests.Timeout):
                if attempt == tries:
                    raise Unreachable(f"{self._who} does not answer at {self.url}.", next_step=self._hint) from None
            except requests.RequestException:
                raise Unreachable(
                    f"{self._who} could not be asked at {self.url}.", next_step="Look at its address for a mistake."
                ) from None
            else:
                if answer.status not in _LATER or attempt == tries:
                    return self._judged(answer)
            self._sleep(0.25 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _once(
        self, method: Method, path: str, data: bytes | None, headers: Mapping[str, str], params: Mapping[str, str]
    ) -> Reply:
        with self._session.request(
            method,
            self.url + path,
            data=data,
            headers=dict(headers),
            params=dict(params),
            timeout=(CONNECT_SECONDS, self._read_seconds),
            allow_redirects=False,
            stream=True,
        ) as response:
            parts: list[bytes] = []
            length = 0
            for part in response.iter_content(1 << 16):
                length += len(part)
                if length > MAX_REPLY:
                    raise self._bad_reply()
                parts.append(part)
            return Reply(response.status_code, b"".join(parts))

    def _judged(self, reply: Reply) -> Reply:
        if 200 <= reply.status < 300:
            return reply
        raise self._refusal(reply)

    def _refusal(self, reply: Reply) -> LabError:
        said: Refusal | None
        try:
            said = decode(Refusal, reply.body)
        except BadMessage:
            said = None
        if reply.status == 401:
            return NotSignedIn(
                f"{self._who} does not know this desk's token.",
                next_step="Get a new one; on one computer, restart `opensafely-lab up`.",
            )
        if reply.status == 403:
            return _told(
                NoPermission, said, f"{self._who} does not permit this.", "Ask the project's owner for access."
            )
        if reply.status == 404:
            return _told(NotFound, said, f"{self._who} knows nothing of that name.", "Look at the name for a mistake.")
        if said is not None and reply.status < 500:
            return _told(RefusedThere, said, "", "")
        if reply.status >= 500:
            return _told(
                Unreachable, said, f"{self._who} at {self.url} is not working at the moment.", "Try again in a minute."
            )
        return self._bad_reply()

    def _bad_reply(self) -> BadReply:
        return BadReply(
            f"{self._who} at {self.url} gave an answer that this version ({__version__}) cannot read.",
            next_step="Look whether the address is right, and both sides have the same version.",
        )


def checked_url(url: str, *, unsafe_plain_http: bool = False) -> str:
    """The address without a trailing slash. Raises `UsageError` where a token would travel in the open."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise UsageError("The address of a service cannot be read.", next_step="Write it as https://HOST") from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise UsageError("The address of a service must be https://HOST[:PORT].")
    if parts.username is not None or parts.password is not None:
        raise UsageError("The address of a service must not hold a name or password.", next_step="Use a token file.")
    if parts.scheme == "http" and host not in _LOOPBACK and not unsafe_plain_http:
        raise UsageError(
            f"The address of {host} begins with http: the token could be read on the way.",
            next_step="Write https, or use a service on this computer.",
        )
    return url.rstrip("/")


def _told(kind: type[LabError], said: Refusal | None, sentence: str, next_step: str) -> LabError:
    if said is None:
        return kind(sentence, next_step=next_step)
    error = kind(said.sentence, next_step=said.next_step)
    # Code and fix belong to the class; here they are what the service said.
    vars(error).update(code=said.code, fix=said.fix)
    return error
