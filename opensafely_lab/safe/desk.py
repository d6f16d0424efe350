"""Answers at the desk: the gate's own code over dummy data. Loaded only there.

A job has neither an engine nor a use for this: what a request gives there is nobody's to see.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve

from opensafely_lab.disclosure import gate
from opensafely_lab.disclosure.outcome import REDACTED, Outcome
from opensafely_lab.disclosure.policy import OPENSAFELY
from opensafely_lab.disclosure.requests import PlotRequest, Request, RequestList, TableRequest
from opensafely_lab.expressions.schema import DatasetSchema
from opensafely_lab.safe.display import DUMMY_MARK
from opensafely_lab.safe.errors import SafeError

if TYPE_CHECKING:
    import pandas as pd


def compute(request: TableRequest, extract: Path, schema: DatasetSchema) -> Outcome:
    """What would come back for one table, computed on the dummy extract."""
    from opensafely_lab.ehrql.engine import aggregate

    (outcome,) = gate.answer(
        RequestList((evolve(request, id=0),)),
        lambda asked: aggregate(asked, extract, schema),
        lambda path: schema,
        OPENSAFELY,
        dummy=True,
        report=_raise,
    )
    return evolve(outcome, request=request.id)


def drawn(plot: PlotRequest, shown: Outcome) -> Outcome:
    """The figure of a table that is shown here."""
    return gate.draw(plot, shown, policy=OPENSAFELY, dummy=True)


def shown_frame(outcome: Outcome) -> pd.DataFrame:
    """The shown table as pandas: labels as text, numbers as whole numbers, hidden ones missing."""
    import pandas as pd

    table = outcome.table
    if table is None:
        raise SafeError("This table is held back, so there is nothing to read.")
    columns = {}
    for place, name in enumerate(table.columns):
        texts = [row[place] for row in table.rows]
        if place < table.label_columns:
            columns[name] = pd.Series(texts, dtype="str")
        else:
            columns[name] = pd.Series([None if text == REDACTED else int(text) for text in texts], dtype="Int64")
    frame = pd.DataFrame(columns)
    frame.attrs["opensafely"] = DUMMY_MARK
    return frame


def _raise(request: Request, error: Exception) -> None:
    """At the desk a mistake is told, where the gate of a backend would hold the output in silence."""
    raise error
