"""Desk to site, and backend to site. The site never calls anybody."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from opensafely_lab.wire.base import (
    STATE_OF,
    Commit,
    Digest,
    IdempotencyKey,
    Identifier,
    JobCode,
    JobState,
    Message,
    Moment,
    Name,
    ParameterName,
    ParameterValue,
)

# A list of requests is at most 256 KiB of JSON (disclosure.md 3.1); it travels as that very text,
# so that what was authorised is compared byte by byte with what runs.
RequestListText = Annotated[str, Field(max_length=256 * 1024)]


LARGEST_NOTEBOOK = 10_000  # cells


def _plain_number(key: object) -> object:
    """JSON has text for keys. One way to write each number: not " 1", "+1", "01" or "1.0"."""
    if isinstance(key, str):
        if not (key.isascii() and key.isdecimal() and len(key) <= 5 and str(int(key)) == key):
            raise ValueError("not a plain number")
        return int(key)
    return key


CellIndex = Annotated[int, Field(ge=0, lt=LARGEST_NOTEBOOK)]
CellKey = Annotated[int, BeforeValidator(_plain_number, json_schema_input_type=int), Field(ge=0, lt=LARGEST_NOTEBOOK)]


class Layout(Message):
    """Where the dummy run had output: the code cells (index in the submitted source) that get a
    placeholder, and the execution number of every code cell that ran."""

    outputs: Annotated[list[CellIndex], Field(max_length=LARGEST_NOTEBOOK)]
    execution_counts: Annotated[
        dict[CellKey, Annotated[int, Field(ge=1, lt=LARGEST_NOTEBOOK)]], Field(max_length=LARGEST_NOTEBOOK)
    ]

    @model_validator(mode="after")
    def _in_order_once_each(self) -> Self:
        if self.outputs != sorted(set(self.outputs)):
            raise ValueError("outputs are cell indices in order, once each")
        return self


class SubmitRequest(Message):
    """One action at one commit, for one or several backends. Sent twice with one key, run once."""

    idempotency_key: IdempotencyKey
    project: Name
    workspace: Name
    backends: Annotated[list[Name], Field(min_length=1, max_length=8)]
    commit: Commit
    bundle: Digest  # of the git bundle, uploaded before
    action: Name
    parameters: Annotated[dict[ParameterName, ParameterValue], Field(max_length=100)]
    requests: RequestListText
    layout: Layout
    # ehrql action -> digest of its query model, evaluated at submit
    definitions: Annotated[dict[Name, Digest], Field(max_length=100)]
    policy: Name

    @model_validator(mode="after")
    def _each_backend_once(self) -> Self:
        if len(set(self.backends)) != len(self.backends):
            raise ValueError("a backend is named twice")
        return self


class Job(Message):
    """A job as its author's desk sees it."""

    id: Identifier
    project: Name
    workspace: Name
    backend: Name
    commit: Commit
    action: Name
    parameters: dict[ParameterName, ParameterValue]
    state: JobState
    code: JobCode
    created_at: Moment
    updated_at: Moment  # every change has its own, later than all before: `seen=` asks for what came after
    author: Name


class JobList(Message):
    jobs: list[Job]


class Workspace(Message):
    project: Name
    workspace: Name
    backends: list[Name]
    may_submit: bool


class Me(Message):
    """Who the token belongs to, and where they may submit."""

    user: Name
    workspaces: list[Workspace]


class Assignment(Message):
    """Work for a backend: the author's request, and the job it became there."""

    job: Identifier
    author: Name
    cancelled: bool
    request: SubmitRequest


class AssignmentList(Message):
    """Open work, oldest first. `revision` is what the agent has then seen: `?seen=` asks for what came after."""

    assignments: Annotated[list[Assignment], Field(max_length=100)]
    revision: Annotated[int, Field(ge=0)]


class JobNotice(Message):
    """All that a backend says of a job: a state and a code from fixed lists."""

    job: Identifier
    state: JobState
    code: JobCode

    @model_validator(mode="after")
    def _code_and_state_agree(self) -> Self:
        if STATE_OF[self.code] is not self.state or self.code is JobCode.CREATED:
            raise ValueError("this code does not go with this state")
        return self


class Health(Message):
    """That the site answers, and which version it is."""

    version: str
    ready: bool


class Refusal(Message):
    """An error as JSON, from site and backend alike: a code, a sentence, a next step."""

    code: str
    sentence: str
    next_step: str
    fix: str | None = None
