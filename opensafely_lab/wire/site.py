"""Desk to site, and backend to site. The site never calls anybody."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from opensafely_lab.wire.base import (
    Commit,
    Digest,
    IdempotencyKey,
    Identifier,
    JobCode,
    JobState,
    Message,
    Name,
    ParameterValue,
)

# A list of requests is at most 256 KiB of JSON (disclosure.md 3.1); it travels as that very text,
# so that what was authorised is compared byte by byte with what runs.
RequestListText = Annotated[str, Field(max_length=256 * 1024)]


class Layout(Message):
    """Where the dummy run had output: the code cells (index in the submitted source) that get a
    placeholder, and the execution number of every code cell that ran."""

    outputs: Annotated[list[Annotated[int, Field(ge=0, lt=10_000)]], Field(max_length=10_000)]
    execution_counts: dict[Annotated[int, Field(ge=0, lt=10_000)], Annotated[int, Field(ge=1, lt=10_000)]]


class SubmitRequest(Message):
    """One action at one commit, for one or several backends. Sent twice with one key, run once."""

    idempotency_key: IdempotencyKey
    project: Name
    workspace: Name
    backends: Annotated[list[Name], Field(min_length=1, max_length=8)]
    commit: Commit
    bundle: Digest  # of the git bundle, uploaded before
    action: Name
    parameters: Annotated[dict[str, ParameterValue], Field(max_length=100)]
    requests: RequestListText
    layout: Layout
    definitions: dict[Name, Digest]  # ehrql action -> digest of its query model, evaluated at submit
    policy: Name


class Job(Message):
    """A job as its author's desk sees it."""

    id: Identifier
    project: Name
    workspace: Name
    backend: Name
    commit: Commit
    action: Name
    parameters: dict[str, ParameterValue]
    state: JobState
    code: JobCode
    created_at: datetime
    updated_at: datetime
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
    assignments: list[Assignment]


class JobNotice(Message):
    """All that a backend says of a job: a state and a code from fixed lists."""

    job: Identifier
    state: JobState
    code: JobCode


class Refusal(Message):
    """An error as JSON, from site and backend alike: a code, a sentence, a next step."""

    code: str
    sentence: str
    next_step: str
    fix: str | None = None
