"""The agent's `Work` made of the pipeline: definitions, extract, sandboxed run, gate."""

from __future__ import annotations

from opensafely_lab.backend.settings import AgentSettings
from opensafely_lab.backend.work import Work
from opensafely_lab.errors import PlatformError


def make(settings: AgentSettings) -> Work:
    """The real thing, on the records of `settings.data`."""
    raise PlatformError("This version of the backend cannot carry out jobs yet.")
