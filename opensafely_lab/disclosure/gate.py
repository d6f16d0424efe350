"""The gate: for each request a verdict and, if it may be seen, exactly what is shown.

`answer` verifies, in order, for each request of the list that the dummy run fixed:

1. The request may be asked of this extract: `admission.admit`.
2. The cells are those of the request: its groups, the levels that schema and condition declare
   (`admission.expected_groups`), none left out (`cells.CellTable` refuses a partial table).
3. The cells are protected and written canonically: `judge`. From there on no count is in reach.
4. A figure is drawn from the shown table alone: `draw`. The figure of a held table is held.

Whatever goes wrong in one request holds that request, with one neutral sentence; the rest go on.

Left to the caller: that the list is the one fixed by the dummy run, that the engine counts distinct
patients of the extract that the request names, what was shown before (the ledger), and a capped
process to run this in.
"""

from __future__ import annotations

from collections.abc import Callable

from opensafely_lab.disclosure import redaction
from opensafely_lab.disclosure.admission import admit, admit_plot, expected_groups
from opensafely_lab.disclosure.cells import BadCells, CellTable
from opensafely_lab.disclosure.outcome import Outcome, ShownTable, Treatment, Verdict
from opensafely_lab.disclosure.policy import Policy
from opensafely_lab.disclosure.requests import PlotRequest, Request, RequestList, TableRequest
from opensafely_lab.expressions.schema import DatasetSchema

# The same words whatever the reason: a reason could be an answer about somebody.
HELD_SENTENCE = "This output is held back."
HELD_NEXT_STEP = "Ask a checker of your project what to do."

Aggregate = Callable[[TableRequest], CellTable]
SchemaOf = Callable[[str], DatasetSchema]
Report = Callable[[Request, Exception], None]


def answer(
    requests: RequestList,
    aggregate: Aggregate,
    schema_of: SchemaOf,
    policy: Policy,
    dummy: bool,
    *,
    report: Report = lambda request, error: None,
) -> tuple[Outcome, ...]:
    """One outcome for each request, in their order.

    `aggregate` counts, `schema_of` gives the schema of an extract by its path. `report` hears of each
    exception, for the trusted side's own log: it may hold data and must never leave that side.
    """
    outcomes: list[Outcome] = []
    for request in requests.requests:
        try:
            if isinstance(request, PlotRequest):
                table = requests.table(request.of)
                admit_plot(request, table, schema_of(table.dataset))
                outcome = draw(request, outcomes[request.of], policy=policy, dummy=dummy)
            else:
                outcome = _table(request, aggregate, schema_of(request.dataset), policy)
        except Exception as error:  # noqa: BLE001 - anything at all holds the output
            report(request, error)
            outcome = held(request)
        outcomes.append(outcome)
    return tuple(outcomes)


def _table(request: TableRequest, aggregate: Aggregate, schema: DatasetSchema, policy: Policy) -> Outcome:
    admit(request, schema, policy)
    cells = aggregate(request).laid_out_by(expected_groups(request, schema))
    return judge(request, cells, policy)


def judge(request: TableRequest, cells: CellTable, policy: Policy) -> Outcome:
    """The verdict on one table and what is shown of it: a function of the request and the bands alone.

    Two tables that differ only within hidden cells, or within what a shown number can stand for, get
    the same outcome to the last byte.
    """
    if tuple(group.name for group in request.by) != tuple(group.name for group in cells.groups):
        raise BadCells("the cells are those of another request")
    protected = redaction.protect(cells, policy)
    return Outcome(
        request=request.id,
        name=request.name,
        kind="table",
        cell=request.cell,
        verdict=Verdict.VERIFIED,
        treatment=_treatment(protected, policy),
        sentence=_sentence(protected, request.margins, policy),
        table=_written(protected, request),
    )


_TOTALS = " Totals are sums of the counts shown."


def draw(plot: PlotRequest, shown: Outcome, *, policy: Policy, dummy: bool) -> Outcome:
    """The figure of a table that is shown, from its text alone; held where the table is held."""
    if shown.table is None or shown.verdict is Verdict.HELD or shown.request != plot.of:
        return held(plot)
    from opensafely_lab.disclosure.figure import Caption, draw_png  # matplotlib takes its time to load

    sentence = shown.sentence.removesuffix(_TOTALS)  # a figure has none
    caption = Caption(
        title=plot.title,
        axis="People",
        note=f"{sentence} Policy: {policy.name}, version {policy.version}.",
        hidden=f"hidden: {_few(policy)}",
        dummy=dummy,
    )
    return Outcome(
        request=plot.id,
        name=plot.name,
        kind="figure",
        cell=plot.cell,
        verdict=shown.verdict,
        treatment=shown.treatment,
        sentence=sentence,
        figure=draw_png(shown.table, plot.plot, caption),
    )


def held(request: Request) -> Outcome:
    """The outcome that says nothing."""
    return Outcome(
        request=request.id,
        name=request.name,
        kind="figure" if isinstance(request, PlotRequest) else "table",
        cell=request.cell,
        verdict=Verdict.HELD,
        treatment=Treatment.HIDDEN,
        sentence=HELD_SENTENCE,
    )


# What is written of a protected table.


def _written(protected: redaction.Protected, request: TableRequest) -> ShownTable:
    lines = list(redaction.lines_with_totals(protected) if request.margins else redaction.lines(protected))
    texts = [redaction.labels(group) for group in protected.groups]
    return ShownTable(
        columns=(*(group.name for group in request.by), *(measure.name for measure in request.measures)),
        label_columns=len(request.by),
        rows=tuple(
            (
                *(text[level] for text, level in zip(texts, line, strict=True)),
                *(redaction.shown(value) for _ in request.measures),
            )
            for line, value in lines
        ),
        total_rows=tuple(index for index, (line, _) in enumerate(lines) if redaction.is_total(line)),
    )


def _treatment(protected: redaction.Protected, policy: Policy) -> Treatment:
    if protected.hidden:
        return Treatment.HIDDEN
    return Treatment.AS_IS if policy.rounding_base == 1 else Treatment.ROUNDED


def _sentence(protected: redaction.Protected, margins: bool, policy: Policy) -> str:
    """What was done to the table, in words that its own text implies."""
    hidden, cells = protected.hidden, protected.cells
    rounded = "exact" if policy.rounding_base == 1 else f"rounded to the nearest {policy.rounding_base}"
    if hidden == cells:
        what = "The only cell is hidden" if cells == 1 else f"All {cells} cells are hidden"
        return f"{what}: {_few(policy)}."
    if hidden:
        sentence = f"{hidden} {'cell' if hidden == 1 else 'cells'} hidden: {_few(policy)}. Other counts are {rounded}."
    else:
        sentence = f"Counts are {rounded}."
    return f"{sentence}{_TOTALS}" if margins and protected.groups else sentence


def _few(policy: Policy) -> str:
    few = policy.largest_unsafe_count
    return "no people" if few == 0 else f"{few} or fewer {'person' if few == 1 else 'people'}, or none"
