"""The backend's only way out: three questions to the site, each with a time limit and a bounded answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from opensafely_lab.errors import PlatformError
from opensafely_lab.service.blobs import Incoming
from opensafely_lab.wire.decode import BadMessage, decode
from opensafely_lab.wire.site import AssignmentList, JobNotice

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
LARGEST_ANSWER = 64 << 20
LARGEST_BUNDLE = 1 << 30
CHUNK = 1 << 16


class SiteUnreachable(PlatformError):
    """No answer, or none that makes sense: ask again later."""

    code: ClassVar[str] = "site-unreachable"

    def __init__(self) -> None:
        super().__init__(
            "The jobs site does not answer as it should.",
            next_step="Nothing is lost; the agent asks again. Check the site's address and the backend's token.",
        )


class NotAtSite(PlatformError):
    """The site says that it is not there, or not for this backend."""

    code: ClassVar[str] = "not-at-site"

    def __init__(self) -> None:
        super().__init__("The jobs site does not know this for this backend.")


class _Bearer(AuthBase):
    """Explicit, so that a .netrc cannot put another password in its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class SiteLink:
    """For one thread. `url` without a slash at its end."""

    def __init__(self, url: str, token: str, new_session: Callable[[], requests.Session] = requests.Session) -> None:
        self._url = url + "/api/v1/backend"
        self._session = new_session()
        self._session.auth = _Bearer(token)
        # A proxy of the environment is for the world outside, not for this computer.
        self._session.trust_env = urlsplit(url).hostname not in {"127.0.0.1", "localhost"}

    def assignments(self, seen: int, wait: float) -> AssignmentList:
        with self._ask("GET", f"/assignments?seen={seen}&wait={wait}", wait=wait) as answer:
            if answer.status_code != 200:
                raise SiteUnreachable
            try:
                return decode(AssignmentList, self._body(answer), limit=LARGEST_ANSWER)
            except BadMessage:
                raise SiteUnreachable from None

    def bundle(self, sha256: str, into: Incoming) -> None:
        """The whole of what the site sends. Raises `NotAtSite`."""
        with self._ask("GET", f"/bundles/{sha256}") as answer:
            if answer.status_code == 404:
                raise NotAtSite
            if answer.status_code != 200:
                raise SiteUnreachable
            announced = answer.headers.get("Content-Length")
            try:
                for chunk in answer.iter_content(CHUNK):
                    into.write(chunk)
                    if into.size > LARGEST_BUNDLE:
                        raise SiteUnreachable
            except requests.RequestException:
                raise SiteUnreachable from None
            if announced is not None and announced != str(into.size):
                raise SiteUnreachable

    def notify(self, notice: JobNotice) -> None:
        """Raises `NotAtSite` if the site will never take it."""
        with self._ask("POST", "/notices", notice.model_dump_json().encode()) as answer:
            if answer.status_code in {400, 404}:
                raise NotAtSite
            if answer.status_code != 204:
                raise SiteUnreachable

    def _ask(self, method: str, path: str, body: bytes | None = None, wait: float = 0) -> requests.Response:
        try:
            return self._session.request(
                method,
                self._url + path,
                data=body,
                headers={"Content-Type": "application/json"} if body is not None else None,
                timeout=(CONNECT_SECONDS, ANSWER_SECONDS + wait),
                allow_redirects=False,
                stream=True,
            )
        except requests.RequestException:
            raise SiteUnreachable from None

    def _body(self, answer: requests.Response) -> bytes:
        data = bytearray()
        try:
            for chunk in answer.iter_content(CHUNK):
                data += chunk
                if len(data) > LARGEST_ANSWER:
                    raise SiteUnreachable
        except requests.RequestException:
            raise SiteUnreachable from None
        return bytes(data)
