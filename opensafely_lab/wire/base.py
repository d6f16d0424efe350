"""What every message has: listed fields, strict types, no unknown field, bounded text.

Strict means: what JSON says is what is taken. `"1"` is no number, `1` is no truth value, and a
number that a float cannot hold is refused instead of rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


class Message(BaseModel):
    """Base of all messages. Unknown fields are an error, on both ends. Parse with `wire.decode`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
ParameterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{16}$")]  # random, chosen once, means nothing
IdempotencyKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{16,64}$")]
Moment = AwareDatetime

# Whole numbers that a float holds exactly: beyond, JavaScript and Python disagree about a value.
LARGEST_WHOLE = 2**53


def _written_as_float(value: object) -> object:
    if isinstance(value, int):
        raise ValueError("a whole number here is an int, not a float")
    return value


def _exact(value: object) -> object:
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        raise ValueError("too large to be exact")
    return value


_Int = Annotated[int, Field(ge=-LARGEST_WHOLE, le=LARGEST_WHOLE)]
_Float = Annotated[float, BeforeValidator(_written_as_float)]
_ListedFloat = Annotated[float, BeforeValidator(_exact)]
_Text = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$")]

ParameterValue = (
    bool
    | _Int
    | _Float
    | _Text
    | Annotated[list[_Int], Field(max_length=1000)]
    | Annotated[list[_ListedFloat], Field(max_length=1000)]
    | Annotated[list[_Text], Field(max_length=1000)]
    | Annotated[list[bool], Field(max_length=1000)]
)


class JobState(StrEnum):
    """The coarse states that OpenSAFELY's users know."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class JobCode(StrEnum):
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


# A code has one state: a message that pairs them otherwise is rubbish.
STATE_OF: Mapping[JobCode, JobState] = MappingProxyType(
    {
        JobCode.CREATED: JobState.PENDING,
        JobCode.WAITING: JobState.PENDING,
        JobCode.PREPARING: JobState.RUNNING,
        JobCode.EXECUTING: JobState.RUNNING,
        JobCode.CHECKING: JobState.RUNNING,
        JobCode.SUCCEEDED: JobState.SUCCEEDED,
        JobCode.RUN_FAILED: JobState.FAILED,
        JobCode.REFUSED: JobState.FAILED,
        JobCode.CANCELLED: JobState.FAILED,
        JobCode.PLATFORM: JobState.FAILED,
    }
)

# The way of a job, as far as anybody outside is told: forwards, and it ends once. A second
# attempt (the agent was killed) is not told; so a late or repeated notice is no move at all.
_WAY = (JobCode.CREATED, JobCode.WAITING, JobCode.PREPARING, JobCode.EXECUTING, JobCode.CHECKING)
ENDS = frozenset(JobCode) - frozenset(_WAY)
MOVES: Mapping[JobCode, frozenset[JobCode]] = MappingProxyType(
    {code: frozenset(_WAY[index + 1 :]) | ENDS for index, code in enumerate(_WAY)} | {end: frozenset() for end in ENDS}
)
