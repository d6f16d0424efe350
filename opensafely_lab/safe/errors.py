"""What `safe` says when something cannot be asked: one sentence, and what to do."""

from __future__ import annotations

from opensafely_lab.errors import Refused, UsageError


class SafeError(UsageError, TypeError):
    """A call of `safe` with something that is not what it takes."""

    code = "safe"


class NoColumn(UsageError, AttributeError, KeyError):
    """A column that the extract does not have."""

    code = "no-column"

    # KeyError would print the sentence in quotation marks.
    __str__ = UsageError.__str__


class NoExtract(UsageError, FileNotFoundError):
    """An extract that is not there, or cannot be read as one."""

    code = "no-extract"

    __str__ = UsageError.__str__


class NoValueHere(Refused):
    """Reading a request in a submitted run, or in the dummy run before it. Decision 6."""

    code = "no-value-here"

    def __init__(self) -> None:
        super().__init__(
            "In a submitted run a request has no value: the backend computes it after the notebook has ended.",
            next_step="Combine, plot and write up in a report notebook, which reads cleared tables.",
        )


class TooManyRequests(Refused):
    """More requests than a notebook may make."""

    code = "too-many-requests"
