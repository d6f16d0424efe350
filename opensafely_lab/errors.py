"""Errors that speak to the analyst: a code, a sentence, a next step.

Each room derives its own from `LabError`. An error may name a job, a declared output, a column or
a parameter; never a value from the data, and never text that a run made.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from types import TracebackType
from typing import ClassVar


class ErrorKind(Enum):
    """What sort of thing went wrong. `EXIT_CODES` and `HTTP_STATUS` are the one table to the outside."""

    RUN_FAILED = "run-failed"
    USAGE = "usage"
    REFUSED = "refused"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    TOO_LARGE = "too-large"
    HELD = "held"
    PLATFORM = "platform"


# Exit codes of `opensafely-lab run` and `submit` (0 is: shown). ehrQL's own, 10 to 14, come only
# from `ehrql:v1` actions.
EXIT_CODES: dict[ErrorKind, int] = {
    ErrorKind.RUN_FAILED: 1,
    ErrorKind.USAGE: 2,
    ErrorKind.REFUSED: 3,
    ErrorKind.UNAUTHENTICATED: 3,
    ErrorKind.FORBIDDEN: 3,
    ErrorKind.NOT_FOUND: 2,
    ErrorKind.TOO_LARGE: 3,
    ErrorKind.HELD: 4,
    ErrorKind.PLATFORM: 5,
}

HTTP_STATUS: dict[ErrorKind, int] = {
    ErrorKind.RUN_FAILED: 422,
    ErrorKind.USAGE: 400,
    ErrorKind.REFUSED: 409,
    ErrorKind.UNAUTHENTICATED: 401,
    ErrorKind.FORBIDDEN: 403,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.TOO_LARGE: 413,
    ErrorKind.HELD: 409,
    ErrorKind.PLATFORM: 503,
}


class LabError(Exception):
    """An error with a code for programs, a sentence for people, and what to do next.

    `fix` names the one-click (or one-flag) repair, where there is one: "commit" or "strip".
    """

    code: ClassVar[str] = "error"
    kind: ClassVar[ErrorKind] = ErrorKind.PLATFORM
    fix: ClassVar[str | None] = None

    def __init__(self, sentence: str, *, next_step: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.next_step = next_step

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.kind]

    @property
    def http_status(self) -> int:
        return HTTP_STATUS[self.kind]

    def __str__(self) -> str:
        return f"{self.sentence} {self.next_step}".strip()

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: the sentence, the next step, the line of the cell."""
        lines = [frame.tb_lineno for frame in _frames(self.__traceback__) if "ipykernel" in _file(frame)]
        where = f" (line {lines[-1]} of this cell)" if lines else ""
        return [f"{type(self).__name__}{where}: {self.sentence}", *([self.next_step] if self.next_step else [])]


def _frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _file(frame: TracebackType) -> str:
    """A cell's code has a file name of its own, such as /tmp/ipykernel_12/345.py."""
    parts = frame.tb_frame.f_code.co_filename.replace("\\", "/").split("/")
    return parts[-2] if len(parts) > 1 else ""


class UsageError(LabError):
    """A command line, a file or a message that does not say what it must."""

    code = "usage"
    kind = ErrorKind.USAGE


class Refused(LabError):
    """Well-formed, understood, and not done: the sentence says why, the next step what to do."""

    code = "refused"
    kind = ErrorKind.REFUSED


class PlatformError(LabError):
    """Not the analyst's doing: something of ours, or of the machine, is missing or broken."""

    code = "platform"
    kind = ErrorKind.PLATFORM
