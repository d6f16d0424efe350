"""A shown table at the desk, as HTML and as plain text, marked DUMMY DATA.

Everything is escaped; there is no script, no link and no style sheet in it.
"""

from __future__ import annotations

from html import escape

from opensafely_lab.disclosure.outcome import REDACTED, Outcome, ShownTable

DUMMY_MARK = "DUMMY DATA"

_MARK = (
    '<span style="background:#b3452f;color:#fff;font-size:85%;font-weight:600;letter-spacing:0.04em;'
    f'padding:0.1em 0.5em;border-radius:3px;margin-right:0.6em">{DUMMY_MARK}</span>'
)
_CELL = "padding:0.25em 0.8em;border:0"
_LINE = "1px solid var(--jp-border-color2,#bdbdbd)"


def table_html(outcome: Outcome) -> str:
    """The table of an outcome with its name and sentence; "" where there is none."""
    table = outcome.table
    if table is None:
        return f'<div class="osl-shown"><p>{escape(outcome.sentence)}</p></div>'
    head = "".join(
        f'<th scope="col" style="{_CELL};border-bottom:{_LINE};text-align:{_side(table, place)}">{escape(text)}</th>'
        for place, text in enumerate(table.columns)
    )
    body = "".join(_row_html(table, number) for number in range(len(table.rows)))
    return (
        f'<div class="osl-shown">{_MARK}<strong>{escape(outcome.name)}</strong>'
        f'<table style="border-collapse:collapse;margin:0.5em 0;font-variant-numeric:tabular-nums">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f'<p style="margin:0.25em 0;color:var(--jp-ui-font-color2,#616161)">{escape(outcome.sentence)}</p></div>'
    )


def table_text(outcome: Outcome) -> str:
    """The table of an outcome in columns of characters, with its name and sentence."""
    from opensafely_lab.notebooks import result

    heading = f"{outcome.name} ({DUMMY_MARK})"
    if outcome.table is None:
        return f"{heading}\n{outcome.sentence}"
    return f"{heading}\n{result.table_text(outcome.table)}\n{outcome.sentence}"


def _row_html(table: ShownTable, number: int) -> str:
    total = ";font-weight:600" if number in table.total_rows else ""
    repeated = table.repeated(number)
    cells = []
    for place, text in enumerate(table.rows[number]):
        faint = ";opacity:0.7" if place < repeated or text == REDACTED else ""
        tag = "th" if place < table.label_columns else "td"
        scope = ' scope="row"' if tag == "th" else ""
        weight = total or (";font-weight:400" if tag == "th" else "")
        style = f"{_CELL};text-align:{_side(table, place)}{weight}{faint}"
        cells.append(f'<{tag}{scope} style="{style}">{escape(text)}</{tag}>')
    return f"<tr>{''.join(cells)}</tr>"


def _side(table: ShownTable, place: int) -> str:
    return "left" if place < table.label_columns else "right"
