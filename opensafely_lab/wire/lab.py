"""Browser to our Jupyter server extension. `extension/src/wire.ts` is generated from this module."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from opensafely_lab.wire.base import Message, ParameterValue


class Stage(StrEnum):
    """Where a run is, for the progress bar and the panel."""

    QUEUED = "queued"
    DUMMY_RUN = "dummy-run"  # the local run on dummy data, before anything is sent
    SENDING = "sending"
    WAITING = "waiting"
    PREPARING = "preparing"
    EXECUTING = "executing"
    CHECKING = "checking"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"


class RunKind(StrEnum):
    LOCAL = "local"  # on dummy data, on this computer
    SUBMITTED = "submitted"


class Problem(Message):
    """What went wrong: our sentence, the next step, and the one-click fix if there is one."""

    code: str
    sentence: str
    next_step: str
    fix: str | None = None  # "commit" | "strip"
    detail: str | None = None  # of a dummy run only: the error text, plain


class ParameterInfo(Message):
    name: str
    type: str  # int | float | bool | str | date, or list of them as "list[int]"
    default: ParameterValue
    minimum: float | str | None = None
    maximum: float | str | None = None
    choices: list[ParameterValue] | None = None
    description: str | None = None


class NotebookInfo(Message):
    """What the open notebook is: an action of a study, or the reason why not."""

    path: str
    study: str | None
    action: str | None
    parameters: list[ParameterInfo]
    problem: Problem | None


class RunRow(Message):
    """One line of the panel."""

    id: str
    kind: RunKind
    action: str
    notebook: str
    backend: str | None
    commit: str | None
    parameters: dict[str, ParameterValue]
    stage: Stage
    progress: float  # 0 to 1
    started: str  # ISO time of the desk's own clock
    problem: Problem | None
    has_result: bool
    level: str  # "dummy" | "level4" | "released" | "none"


class RunList(Message):
    runs: list[RunRow]


class StartRun(Message):
    """Ask for a run of the notebook at `path` (a Contents path). `fixes` allows one-click repairs."""

    path: str
    kind: RunKind
    parameters: dict[str, ParameterValue]
    fixes: list[str] = Field(default_factory=list)


class Started(Message):
    run: RunRow


class Result(Message):
    """The read-only document: JSON text of the result notebook that we built."""

    id: str
    name: str
    level: str
    notebook: str


class Status(Message):
    """For the status bar: who, where, and whether site and backend answer."""

    version: str
    user: str | None
    workspace: str | None
    site_reachable: bool
    backend_reachable: bool
    sandbox: str
    level4: bool
    study: str | None


class CreateStudy(Message):
    template: str
    folder: str


class StudyCreated(Message):
    folder: str
    notebook: str


class LabMessages(Message):
    """The root of the generated schema: one field per message the browser sees."""

    notebook_info: NotebookInfo
    run_list: RunList
    start_run: StartRun
    started: Started
    result: Result
    status: Status
    create_study: CreateStudy
    study_created: StudyCreated
    problem: Problem
