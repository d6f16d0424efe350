"""What the handlers need of the desk, as a Protocol: they can be tested with a fake one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from opensafely_lab.wire.lab import (
    CreateStudy,
    NotebookInfo,
    Result,
    RunList,
    RunRow,
    StartRun,
    Status,
    StudyCreated,
)


class Desk(Protocol):
    """The analyst's side of one Jupyter server.

    Each method may take its time (git, a slow site): the handlers call them in threads. Each may
    raise `LabError`, which the browser is shown as it is.
    """

    def status(self) -> Status: ...

    def notebook_info(self, path: str) -> NotebookInfo:
        """What the notebook at this Contents path is; a problem that stops any run is part of it."""

    def runs(self) -> RunList:
        """The study's runs, newest first."""

    def subscribe(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed`, from any thread, when `runs()` has a new answer; the returned function ends that."""

    def start(self, asked: StartRun) -> RunRow:
        """Begin a run in the background, or raise the refusal."""

    def cancel(self, run: str) -> RunRow:
        """Ask the site to end a run's job; the run as it is then, which may be a while before its end."""

    def result(self, run: str) -> Result:
        """The read-only document of a run; kept nowhere by whoever asks."""

    def create_study(self, asked: CreateStudy) -> StudyCreated: ...

    def close(self) -> None:
        """End the threads that this desk started. Runs go on by themselves."""
