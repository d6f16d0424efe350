"""A definition, evaluated where there are no data, as the value it defines.

A definition is somebody's Python. It runs in an isolation that the caller provides, with the study
and nothing else in sight; what comes back is bytes, and they are parsed here as if an enemy had
written them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ..errors import Refused
from ..expressions.nodes import ExpressionError
from . import model_json
from .model import DatasetModel

STUDY = PurePosixPath("/study")
ANSWER = PurePosixPath("/outputs/.osl/definition.json")
LONGEST_SENTENCE = 600


class DefinitionError(Refused):
    """A definition that does not define a dataset. `line` is the line of the definition, if known."""

    code = "definition"

    def __init__(self, sentence: str, *, line: int | None = None, next_step: str = "") -> None:
        super().__init__(sentence, next_step=next_step)
        self.line = line


class Isolation(Protocol):
    """A process without data, network or secrets, that runs Python with these arguments."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        mounts: Mapping[PurePosixPath, Path],
        files: Mapping[str, bytes],
        answer: PurePosixPath,
    ) -> bytes:
        """The bytes of the file `answer` that the process left; none, where it left none.

        `argv` is what follows the name of the Python interpreter. `mounts` are folders to be seen
        inside, read-only; the process starts in the first. `files` are further files for it.
        """


def evaluate(definition: PurePosixPath, study: Path, isolation: Isolation, args: Sequence[str] = ()) -> DatasetModel:
    """The dataset that a study's file defines. Raises `DefinitionError`, and what `isolation` raises."""
    argv = (
        "-m", "opensafely_lab.ehrql.evaluate_inside", "--study", str(STUDY), "--answer", str(ANSWER),
        str(definition), "--", *args,
    )  # fmt: skip
    answer = isolation(argv, mounts={STUDY: study}, files={}, answer=ANSWER)
    return parse_answer(answer, definition)


def parse_answer(answer: bytes, definition: PurePosixPath) -> DatasetModel:
    """What the bytes of an evaluation say."""
    if not answer:
        raise DefinitionError(
            f"{definition} did not finish: it took too long, used too much memory, or ended the process.",
            next_step="Run it by itself, and see where it stops.",
        )
    try:
        told = json.loads(answer[: model_json.MAX_BYTES])["error"] if answer.startswith(b'{"error"') else None
    except (ValueError, RecursionError, TypeError, KeyError):
        told = None
    if told is not None:
        raise _told(told, definition)
    try:
        return model_json.from_bytes(answer)
    except ExpressionError as error:
        raise DefinitionError(f"{definition}: {error.sentence}", next_step=error.next_step) from None


def _told(error: Any, definition: PurePosixPath) -> DefinitionError:
    """A mistake as the evaluation tells it: bounded and printable, whatever was written."""
    found = error if isinstance(error, dict) else {}
    line = found.get("line")
    line = line if type(line) is int and 0 < line < 10**6 else None
    file = _printable(found.get("file"), 200) or str(definition)
    where = f"{file}, line {line}" if line else file
    sentence = _printable(found.get("sentence"), LONGEST_SENTENCE) or "The definition raised an error."
    return DefinitionError(
        f"{where}: {sentence}", line=line, next_step=_printable(found.get("next_step"), LONGEST_SENTENCE)
    )


def _printable(value: object, longest: int) -> str:
    text = value if isinstance(value, str) else ""
    return "".join(c if c.isprintable() else " " for c in text[:longest]).strip()
