"""Errors that speak to the analyst: a code, a sentence, a next step.

Each room derives its own from `LabError`. An error may name a job, a declared output, a column or
a parameter; never a value from the data, and never text that a run made.
"""

from __future__ import annotations

from enum import Enum
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
