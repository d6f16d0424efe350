"""Lab server to the backend's level 4 service, inside the wall."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from opensafely_lab.wire.base import Commit, Identifier, Message, Moment, Name, ParameterName, ParameterValue

Day = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]


class Failure(Message):
    """Why a real run failed: a class from a fixed list and the cell, from a daily budget."""

    failure_class: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z-]{0,39}$")]
    cell: Annotated[int, Field(ge=0, lt=10_000)] | None


class Level4Job(Message):
    """A finished job as level 4 shows it. `result` is there if there is a document to read."""

    id: Identifier
    project: Name
    workspace: Name
    backend: Name
    action: Name
    commit: Commit
    parameters: dict[ParameterName, ParameterValue]
    succeeded: bool
    finished_day: Day  # the day; durations are told in slots (disclosure.md, decision 2)
    result: bool
    failure: Failure | None


class Level4JobList(Message):
    jobs: list[Level4Job]


class ResultDocument(Message):
    """The result notebook (JSON text of an .ipynb we built) and the disclosure record (JSON text)."""

    id: Identifier
    name: str
    notebook: str
    disclosure: str


class Heartbeat(Message):
    """What an operator's and a Lab's health check see."""

    backend: Name
    executor: str
    layers: dict[str, str]
    ready: bool
    since: Moment
