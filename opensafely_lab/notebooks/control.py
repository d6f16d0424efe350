"""What a run says about itself, read on the trusted side: strict, bounded, and never believed for more.

A run can write whatever it likes into these files. So they decide only what an author may learn
anyway (it ran, or which of `FAILURE_CLASSES`), and on dummy data what its error was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from opensafely_lab.errors import PlatformError

STATUS_BYTES = 64 << 10
CELLS_BYTES = 1 << 20
ERROR_BYTES = 1 << 20
MOST_CELLS = 10_000
LONGEST_ERROR = 20_000  # characters shown
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")

# All that is ever told about why a run on real data failed, and that to level 4 only.
EXCEPTION_CLASSES = (
    "ArithmeticError", "AssertionError", "AttributeError", "EOFError", "FileNotFoundError", "FloatingPointError",
    "ImportError", "IndentationError", "IndexError", "KeyError", "KeyboardInterrupt", "LookupError", "MemoryError",
    "ModuleNotFoundError", "NameError", "NotImplementedError", "OSError", "OverflowError", "PermissionError",
    "RecursionError", "RuntimeError", "StopIteration", "SyntaxError", "SystemExit", "TabError", "TimeoutError",
    "TypeError", "UnboundLocalError", "UnicodeDecodeError", "UnicodeEncodeError", "UnicodeError", "ValueError",
    "ZeroDivisionError",
)  # fmt: skip
FAILURE_CLASSES = (
    *EXCEPTION_CLASSES,
    "other-error",  # any other exception: its name was chosen by the notebook
    "kernel-died",
    "too-much-output",
    "time-limit",
    "memory-limit",
    "not-started",
    "requests-differ",  # the real run asked for something else than the dummy run
)


class ControlFileRefused(PlatformError):
    """A run left a status that is not one of ours. The run counts as failed."""

    code = "control-file-refused"


def _class(_: object, __: object, value: str | None) -> None:
    if value is not None and value not in FAILURE_CLASSES:
        raise ControlFileRefused("The run's status names an unknown class.")


@frozen
class Status:
    """How the notebook ended. `cell` is an index in the submitted source."""

    succeeded: bool
    failure: str | None = field(default=None, validator=_class)
    cell: int | None = None


@frozen
class CellsReport:
    """Which cells left output of their own, and the execution numbers (used of a dummy run only)."""

    outputs: tuple[int, ...]
    execution_counts: Mapping[int, int]


@frozen
class ErrorReport:
    """The exception of a dummy run, shown to its author as it is. Never kept of a run on real data."""

    ename: str
    evalue: str
    traceback: tuple[str, ...] = field(converter=tuple)

    def text(self) -> str:
        """The error for a terminal or a page: plain, its end if it is long. The notebook chose every character."""
        told = "\n".join(self.traceback) or f"{self.ename}: {self.evalue}"
        plain = _ANSI.sub("", told)
        printable = "".join(c if c.isprintable() or c == "\n" else " " for c in plain)
        return printable[-LONGEST_ERROR:]


def failure_class(name: str) -> str:
    """The class of an exception by its name, from the fixed list."""
    return name if name in EXCEPTION_CLASSES else "other-error"


def parse_status(data: bytes) -> Status:
    found = _object(data, STATUS_BYTES, {"state", "class", "cell"})
    state, failure, cell = found["state"], found["class"], found["cell"]
    if state not in ("succeeded", "failed") or not (failure is None or isinstance(failure, str)):
        raise ControlFileRefused("The run's status is not one of ours.")
    if (state == "succeeded") is not (failure is None):
        raise ControlFileRefused("The run's status contradicts itself.")
    return Status(state == "succeeded", failure, None if cell is None else _index(cell))


def parse_cells(data: bytes) -> CellsReport:
    found = _object(data, CELLS_BYTES, {"outputs", "execution_counts"})
    outputs, counts = found["outputs"], found["execution_counts"]
    if not isinstance(outputs, list) or not isinstance(counts, dict) or len(counts) > MOST_CELLS:
        raise ControlFileRefused("The run's list of cells is not one of ours.")
    numbers = {}
    for key, value in counts.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 5):
            raise ControlFileRefused("The run's list of cells is not one of ours.")
        numbers[_index(int(key))] = _index(value)
    return CellsReport(tuple(sorted({_index(item) for item in outputs})), numbers)


def parse_error(data: bytes) -> ErrorReport:
    found = _object(data, ERROR_BYTES, {"ename", "evalue", "traceback"})
    lines = found["traceback"]
    texts = [found["ename"], found["evalue"], *(lines if isinstance(lines, list) else [None])]
    if not all(isinstance(text, str) for text in texts):
        raise ControlFileRefused("The run's error is not one of ours.")
    return ErrorReport(found["ename"], found["evalue"], lines)


def _index(value: object) -> int:
    if type(value) is not int or not 0 <= value < MOST_CELLS:
        raise ControlFileRefused("The run names a cell that cannot be.")
    return value


def _refuse_constant(_: str) -> None:
    raise ControlFileRefused("The run's report holds a number that is none.")


def _object(data: bytes, most: int, keys: set[str]) -> dict[str, Any]:
    """A JSON object with exactly these keys; anything else is refused without saying what it was."""
    if len(data) > most:
        raise ControlFileRefused("The run's report is too large.")
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ControlFileRefused("The run's report is not JSON.") from None
    if not isinstance(found, dict) or set(found) != keys:
        raise ControlFileRefused("The run's report does not have the keys it must have.")
    return found
