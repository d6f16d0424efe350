"""Where this Python runs: in a job, or at the desk. The one place of `safe` that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

REQUESTS_FILE = "/outputs/.osl/requests.json"


@frozen
class Settings:
    """`requests_file` is where a job lists its requests; None at the desk, where they are computed."""

    requests_file: Path | None

    @property
    def in_job(self) -> bool:
        return self.requests_file is not None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Settings:
        """OSL_RUN is "dummy" or "real" in a job; OSL_REQUESTS moves the file, for tests."""
        if not environment.get("OSL_RUN"):
            return cls(None)
        return cls(Path(environment.get("OSL_REQUESTS") or REQUESTS_FILE))


def here() -> Settings:
    return Settings.of(os.environ)
