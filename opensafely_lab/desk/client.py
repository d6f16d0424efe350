"""The jobs site, as this desk asks it: who am I, take this commit, run this action, how is it going.

Speaks only the messages of `wire.site`.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from datetime import datetime

from opensafely_lab.desk.http import Service
from opensafely_lab.errors import LabError, UsageError
from opensafely_lab.study.ids import InvalidId, is_name
from opensafely_lab.wire.site import Job, JobList, Me, SubmitRequest

_IDENTIFIER = re.compile(r"[a-z0-9]{16}\Z")
UPLOAD_SECONDS = 120.0
LONGEST_WAIT = 25.0
API = "/api/v1"


class Client:
    """Raises the errors of `desk.http`; none of them holds the token."""

    def __init__(
        self,
        site_url: str,
        token: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        unsafe_plain_http: bool = False,
    ) -> None:
        self._service = Service(
            site_url,
            token,
            who="The jobs site",
            hint="Is `opensafely-lab up` running?",
            read_seconds=UPLOAD_SECONDS,
            unsafe_plain_http=unsafe_plain_http,
            sleep=sleep,
        )

    @property
    def url(self) -> str:
        return self._service.url

    def close(self) -> None:
        self._service.close()

    def healthy(self) -> bool:
        """Whether the site answers at all."""
        try:
            self._service.send("GET", "/health", safe=False)
        except LabError:
            return False
        return True

    def me(self) -> Me:
        return self._service.ask(Me, "GET", f"{API}/me")

    def has_bundle(self, digest: str) -> bool:
        return self._service.exists(f"{API}/bundles/{digest}")

    def upload_bundle(self, data: bytes) -> str:
        """Send a bundle unless the site has it; its SHA-256. Sending twice is sending once."""
        digest = hashlib.sha256(data).hexdigest()
        if not self.has_bundle(digest):
            self._service.send(
                "PUT", f"{API}/bundles/{digest}", data=data, headers={"Content-Type": "application/octet-stream"}
            )
        return digest

    def submit(self, request: SubmitRequest) -> list[Job]:
        """One job per backend. Sent again after a lost answer: the idempotency key makes that one request."""
        return self._service.ask(JobList, "POST", f"{API}/jobs", body=request).jobs

    def jobs(self, workspace: str, *, seen: datetime | None = None, wait: float = 0.0) -> list[Job]:
        """The workspace's jobs, newest first. With `seen` and `wait`: once one is newer, or after `wait` seconds."""
        if not is_name(workspace):
            raise InvalidId("That cannot be the name of a workspace.")
        params = {"workspace": workspace, **_polling(seen, wait)}
        return self._service.ask(JobList, "GET", f"{API}/jobs", params=params).jobs

    def job(self, job: str, *, seen: datetime | None = None, wait: float = 0.0) -> Job:
        """One job. With `seen` (its `updated_at`) and `wait`: once it has moved on, or after `wait` seconds."""
        return self._service.ask(Job, "GET", f"{API}/jobs/{checked_identifier(job)}", params=_polling(seen, wait))

    def cancel(self, job: str) -> Job:
        """Ask for a job to be cancelled; again and again is the same as once."""
        return self._service.ask(Job, "POST", f"{API}/jobs/{checked_identifier(job)}/cancel")


def _polling(seen: datetime | None, wait: float) -> dict[str, str]:
    return {} if seen is None else {"seen": seen.isoformat(), "wait": f"{min(max(wait, 0.0), LONGEST_WAIT):g}"}


def checked_identifier(text: str) -> str:
    if not _IDENTIFIER.match(text):
        raise UsageError("That cannot be the id of a job.", next_step="Copy it from the panel of runs.")
    return text
