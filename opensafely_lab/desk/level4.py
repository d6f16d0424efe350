"""The backend's level 4 service, as a Lab inside the wall asks it with the analyst's own token.

What comes back is for the panel alone: it is never given to a kernel or written into the study.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from opensafely_lab.desk.client import checked_identifier
from opensafely_lab.desk.http import Service
from opensafely_lab.wire.level4 import Heartbeat, Level4Job, Level4JobList, ResultDocument


class Level4Client:
    """Raises the errors of `desk.http`; none of them holds the token."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        unsafe_plain_http: bool = False,
    ) -> None:
        self._service = Service(
            url,
            token,
            who="The backend's level 4 service",
            hint="Is `opensafely-lab up` running, or this Lab inside the backend's network?",
            sleep=sleep,
            unsafe_plain_http=unsafe_plain_http,
        )

    @property
    def url(self) -> str:
        return self._service.url

    def close(self) -> None:
        self._service.close()

    def health(self) -> Heartbeat:
        return self._service.ask(Heartbeat, "GET", "/health")

    def jobs(self) -> list[Level4Job]:
        return self._service.ask(Level4JobList, "GET", "/level4/jobs").jobs

    def job(self, job: str) -> Level4Job:
        return self._service.ask(Level4Job, "GET", f"/level4/jobs/{checked_identifier(job)}")

    def result(self, job: str) -> ResultDocument:
        return self._service.ask(ResultDocument, "GET", f"/level4/jobs/{checked_identifier(job)}/result")
