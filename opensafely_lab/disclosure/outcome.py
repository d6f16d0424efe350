"""What the gate answers: for each request a verdict and, if it may be seen, exactly what is shown."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from attrs import field, frozen

# The one mark for a hidden number, whatever the reason (disclosure.md, decision 8).
REDACTED = "[REDACTED]"

# In place of what a cell of the notebook wrote by itself, whatever it was and whether or not it was.
PLACEHOLDER_SENTENCE = "What this cell writes itself is not shown: only tables and figures asked for with safe are."
FILE_SENTENCE = "What a notebook writes into files is not shown: only tables and figures asked for with safe are."
FILE_NEXT_STEP = "Ask for it with safe.table or safe.plot; each comes back as a file too."
PLACEHOLDER_NEXT_STEP = "Ask for it with safe.table or safe.plot; look at printed output in a run on dummy data."


class Verdict(StrEnum):
    VERIFIED = "verified"  # the gate computed it
    CHECKED = "checked"  # a file whose every cell passes; a checker looks first
    HELD = "held"


class Treatment(StrEnum):
    AS_IS = "as is"
    ROUNDED = "rounded"
    HIDDEN = "hidden"  # rounded, and some cells hidden


def _texts(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(texts)


@frozen
class ShownTable:
    """A table as text, ready to be shown: nothing else about the numbers leaves the gate.

    `columns` are the headings, `label_columns` how many of them (from the left) are labels, and
    each row has as many cells as there are columns. A number is text in the policy's format, a
    hidden one is `REDACTED`. `total_rows` are the indices of the rows that add up others.
    """

    columns: tuple[str, ...] = field(converter=_texts)
    label_columns: int
    rows: tuple[tuple[str, ...], ...]
    total_rows: tuple[int, ...] = ()

    def repeated(self, row: int) -> int:
        """How many labels of a row, from the left, only say again what the row above says; never its last one."""
        if row == 0:
            return 0
        alike = 0
        for here, above in zip(self.rows[row], self.rows[row - 1], strict=True):
            if here != above or alike >= self.label_columns - 1:
                break
            alike += 1
        return alike


@frozen
class Outcome:
    """The gate's answer to one request.

    `sentence` is ours and says no more than `table` implies. `cell` is the index of the notebook
    cell that asked, in the submitted source. `figure` is a PNG drawn by the gate from `table`.
    """

    request: int
    name: str
    kind: str  # "table" or "figure"
    cell: int
    verdict: Verdict
    treatment: Treatment
    sentence: str
    table: ShownTable | None = None
    figure: bytes | None = None
