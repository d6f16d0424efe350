"""`safe.table` and `safe.plot`: questions as values, and how they show themselves."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from opensafely_lab.disclosure.admission import admit, admit_plot
from opensafely_lab.disclosure.outcome import Outcome
from opensafely_lab.disclosure.policy import OPENSAFELY
from opensafely_lab.disclosure.requests import (
    LONGEST_TEXT,
    MOST_GROUPS,
    PLOTS,
    Group,
    Measure,
    PlotRequest,
    TableRequest,
    is_plain,
)
from opensafely_lab.expressions.jsonio import MAX_DEPTH, MAX_NODES
from opensafely_lab.expressions.nodes import Call, Column, Expr, leaves
from opensafely_lab.expressions.series import Series
from opensafely_lab.safe.dataset import Frame
from opensafely_lab.safe.display import DUMMY_MARK, table_html, table_text
from opensafely_lab.safe.errors import NoValueHere, SafeError
from opensafely_lab.safe.kinds import kind_of
from opensafely_lab.safe.recorder import recorder

if TYPE_CHECKING:
    import pandas as pd

REQUEST_MIME = "application/vnd.opensafely.request+json"

Groups = Series | Iterable[Series] | Mapping[str, Series]


def count() -> Measure:
    """The number of people, each counted once."""
    return Measure("count", "count")


def table(
    data: Frame,
    by: Groups = (),
    measures: Measure | Iterable[Measure] | None = None,
    *,
    name: str | None = None,
    margins: bool = False,
) -> TableAnswer:
    """A table of the people of a dataset, split by columns with declared values.

    `by` is a list of columns, or {heading: column}; numbers are cut into bands first:
    `data.age.cut([18, 65])`. `measures` is [safe.count()] unless given. With `margins` there are totals.
    Raises `RequestRefused` where it may not be asked, with what to ask instead.
    """
    if not isinstance(data, Frame):
        raise SafeError(
            f"safe.table() takes a dataset of safe, not {kind_of(data)}.",
            next_step='Write data = safe.dataset("output/dataset.arrow") and safe.table(data, by=[data.sex]).',
        )
    if not isinstance(margins, bool):
        raise SafeError("margins is True or False.", next_step="Write margins=True for totals.")
    groups, wanted = _groups(data, by), _measures(measures)
    for expr in (data._condition, *(group.expr for group in groups)):
        if expr is not None:
            _check_size(expr)

    def make(number: int, named: str, cell: int) -> TableRequest:
        request = TableRequest(number, named, cell, data._path, data._condition, groups, wanted, margins)
        admit(request, data._schema, OPENSAFELY)
        return request

    request = recorder().table(name, make)
    return _shown_at_once(TableAnswer(data, request))


def plot(request: TableAnswer, kind: str = "bar", title: str | None = None, *, name: str | None = None) -> PlotAnswer:
    """A figure of a table: the first group along the axis, the second as colours.

    `kind` is "bar" or "line". Hidden cells are hatched. The backend draws it from what is shown.
    """
    if not isinstance(request, TableAnswer):
        raise SafeError(
            f"safe.plot() takes a table of safe.table(), not {kind_of(request)}.",
            next_step="Write safe.plot(safe.table(data, by=[data.sex])).",
        )
    if kind not in PLOTS:
        raise SafeError(f"A plot is one of {', '.join(PLOTS)}.", next_step='Write kind="bar".')
    heading = _default_title(request.request) if title is None else title
    if not isinstance(heading, str) or not 0 < len(heading) <= LONGEST_TEXT or not is_plain(heading):
        raise SafeError(f"A title is one line of plain text, up to {LONGEST_TEXT} characters.")

    def make(number: int, named: str, cell: int) -> PlotRequest:
        made = PlotRequest(number, named, cell, request.request.id, kind, heading)
        admit_plot(made, request.request, request._data._schema)
        return made

    return _shown_at_once(PlotAnswer(request, recorder().plot(name, make)))


def _default_title(request: TableRequest) -> str:
    names = [group.name.replace("_", " ") for group in request.by]
    return f"People by {' and '.join(names)}"[:LONGEST_TEXT] if names else "People"


# Arguments, as people write them.


def _groups(data: Frame, by: Any) -> tuple[Group, ...]:
    if isinstance(by, Series):
        by = [by]
    if isinstance(by, str) or not isinstance(by, (Mapping, list, tuple)):
        raise SafeError(
            f"by takes a list of columns, not {kind_of(by)}.", next_step="Write by=[data.sex, data.age.cut([18, 65])]."
        )
    named = list(by.items()) if isinstance(by, Mapping) else [(None, item) for item in by]
    if len(named) > MOST_GROUPS:
        raise SafeError(f"A table has up to {MOST_GROUPS} groups.", next_step="Ask for two tables.")
    groups = tuple(_group(data, heading, series) for heading, series in named)
    headings = [group.name.casefold() for group in groups]
    for heading in headings:
        if headings.count(heading) > 1 or heading == "count":
            raise SafeError(
                f"Two columns of this table would be called {heading}.",
                next_step='Give them headings: by={"age band": data.age.cut([18, 65])}.',
            )
    return groups


def _group(data: Frame, heading: Any, series: Any) -> Group:
    if not isinstance(series, Series):
        hint = f"data.{series}" if isinstance(series, str) and series in data._names() else "data.sex"
        raise SafeError(f"by takes columns of the dataset, not {kind_of(series)}.", next_step=f"Write {hint}.")
    data._scope.meet(series._scope)
    expr = series._expr
    if heading is None:
        heading = _heading(expr)
    if not isinstance(heading, str) or not 0 < len(heading) <= 64 or not is_plain(heading):
        raise SafeError(
            "The heading of a group is one line of plain text, up to 64 characters.",
            next_step='Write by={"age band": data.age.cut([18, 65])}.',
        )
    return Group(heading, expr)


def _heading(expr: Expr) -> str:
    """The name of the one column that an expression is about."""
    columns = [leaf.name for leaf in leaves(expr) if isinstance(leaf, Column)]
    if len(columns) != 1:
        raise SafeError(
            "A group made of several columns needs a heading.",
            next_step='Write by={"age at start": (data.start - data.birth).years.cut([18, 65])}.',
        )
    return columns[0]


def _measures(measures: Any) -> tuple[Measure, ...]:
    if measures is None:
        return (count(),)
    listed = [measures] if isinstance(measures, Measure) or not isinstance(measures, (list, tuple)) else measures
    for measure in listed:
        if not isinstance(measure, Measure):
            what = "safe.count without its brackets" if measure is count else kind_of(measure)
            raise SafeError(f"measures takes a list of measures, not {what}.", next_step="Write [safe.count()].")
    if len(listed) != 1:
        raise SafeError("A table counts people once.", next_step="Write measures=[safe.count()].")
    return tuple(listed)


def _check_size(expr: Expr) -> None:
    """Refuse what is too large to be written: shared parts are written each time they occur."""
    depths: dict[int, tuple[int, int]] = {}

    def measure(node: Expr, level: int) -> tuple[int, int]:
        if level > MAX_DEPTH:
            raise _too_large()
        if id(node) not in depths:
            below = [measure(arg, level + 1) for arg in node.args] if isinstance(node, Call) else []
            depths[id(node)] = (1 + max((d for d, _ in below), default=0), 1 + sum(n for _, n in below))
        return depths[id(node)]

    depth, nodes = measure(expr, 1)
    if depth > MAX_DEPTH or nodes > MAX_NODES:
        raise _too_large()


def _too_large() -> SafeError:
    return SafeError(
        "This expression is too large to be asked.", next_step="Compute part of it in the dataset definition."
    )


# Answers.


class Answer:
    """A request, and at the desk also what would come back."""

    request: TableRequest | PlotRequest
    _outcome: Outcome | None = None
    _shown_in: int | None = None

    def _bundle(self, outcome: Outcome) -> dict[str, Any]:
        raise NotImplementedError

    def _describe(self) -> str:
        raise NotImplementedError

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        if self._outcome is None:
            kind = "plot" if isinstance(self.request, PlotRequest) else "table"
            listed = {"id": self.request.id, "name": self.request.name, "kind": kind}
            return {REQUEST_MIME: listed, "text/plain": self._describe()}
        return self._bundle(self._outcome)

    def __repr__(self) -> str:
        return str(self._repr_mimebundle_()["text/plain"])

    def _ipython_display_(self) -> None:
        """Show it, once in each cell: it showed itself when it was made, as it will in the result."""
        now = _execution()
        if now is None or now != self._shown_in:
            _publish(self._repr_mimebundle_())
        self._shown_in = now


Made = TypeVar("Made", bound=Answer)


def _shown_at_once(answer: Made) -> Made:
    """In a notebook a request shows itself when it is made, as it will stand in the result."""
    if _execution() is not None:
        answer._ipython_display_()
    return answer


class TableAnswer(Answer):
    """What `safe.table` gives: shows itself; at the desk `.to_pandas()` reads what is shown."""

    request: TableRequest

    def __init__(self, data: Frame, request: TableRequest) -> None:
        self._data = data
        self.request = request
        if not recorder().settings.in_job:
            from opensafely_lab.safe.desk import compute

            self._outcome = compute(request, data._file, data._schema)

    def to_pandas(self) -> pd.DataFrame:
        """The table as it is shown, on dummy data: hidden numbers are missing. Not in a submitted run."""
        if self._outcome is None:
            raise NoValueHere
        from opensafely_lab.safe.desk import shown_frame

        return shown_frame(self._outcome)

    def _repr_html_(self) -> str | None:
        return None if self._outcome is None else table_html(self._outcome)

    def _bundle(self, outcome: Outcome) -> dict[str, Any]:
        return {"text/html": table_html(outcome), "text/plain": table_text(outcome)}

    def _describe(self) -> str:
        by = f" by {', '.join(group.name for group in self.request.by)}" if self.request.by else ""
        return f"{self.request.name}: a count of people{by}. The backend computes it after the run."


class PlotAnswer(Answer):
    """What `safe.plot` gives: a figure of a table, as it would come back."""

    request: PlotRequest

    def __init__(self, of: TableAnswer, request: PlotRequest) -> None:
        self.request = request
        if of._outcome is not None:
            from opensafely_lab.safe.desk import drawn

            self._outcome = drawn(request, of._outcome)

    def _bundle(self, outcome: Outcome) -> dict[str, Any]:
        text = f"{self.request.name} ({DUMMY_MARK}): {self.request.title}. {outcome.sentence}"
        if outcome.figure is None:
            return {"text/plain": text}
        return {"image/png": base64.b64encode(outcome.figure).decode("ascii"), "text/plain": text}

    def to_pandas(self) -> pd.DataFrame:
        """A figure has no numbers of its own."""
        if self._outcome is None:
            raise NoValueHere
        raise SafeError("A figure has no numbers of its own.", next_step="Read its table with .to_pandas().")

    def _describe(self) -> str:
        return f"{self.request.name}: {self.request.title}. The backend draws it after the run."


def _shell() -> Any:
    """The notebook's IPython, if this is one; IPython is not loaded for it."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _execution() -> int | None:
    shell = _shell()
    return None if shell is None else int(shell.execution_count)


def _publish(bundle: dict[str, Any]) -> None:
    shell = _shell()
    if shell is None:
        print(bundle["text/plain"])  # noqa: T201 - a plain Python shows text
        return
    shell.display_pub.publish(data=bundle, metadata={})
