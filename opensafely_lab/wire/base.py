"""What every message has: listed fields, strict types, no unknown field, bounded text."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints


class Message(BaseModel):
    """Base of all messages. Unknown fields are an error, on both ends."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{16}$")]  # random, chosen once, means nothing
IdempotencyKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{16,64}$")]
ParameterValue = bool | int | float | str | list[int] | list[float] | list[str] | list[bool]


class JobState(str, Enum):
    """The coarse states that OpenSAFELY's users know."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class JobCode(str, Enum):
    """All that may be said of a job outside level 4. Each has one sentence (`wire.sentences`)."""

    CREATED = "created"  # the site has it
    WAITING = "waiting"  # the backend has it and has not begun
    PREPARING = "preparing"  # code fetched, extract being made
    EXECUTING = "executing"
    CHECKING = "checking"  # the gate is at work
    SUCCEEDED = "succeeded"
    RUN_FAILED = "run-failed"  # one code for every failure of the author's code, limits included
    REFUSED = "refused-by-backend"  # permission ended, definition or policy differs from submit
    CANCELLED = "cancelled"
    PLATFORM = "platform-error"  # not the author's doing; three attempts were made
