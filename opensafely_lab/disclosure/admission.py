"""May this be asked? Decided from the request and the schema alone, never from a row.

A refusal says which part of the request it is about and what to ask instead. `admit` refuses:

1. a column that the extract does not have, or with another type than the schema says;
2. `where` that is not true or false;
3. `by` or `where` on a column of a closed class: identifiers, organisations, small areas;
4. a date of birth used for more than a year or an age (no equality, day, month or arithmetic);
5. a group whose levels are not declared: its values in the data would be the message;
6. labels that are not plain text, or that look like the mark for hidden;
7. more cells than the policy's largest table.

The class of a column follows it through ehrQL's expressions into the schema, and here through the
request's: every leaf of an expression counts. Source: disclosure.md, decision 5; decisions.md, 6.

Left to the caller: that the extract was made by the engine from a definition, and what was asked before.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator

from attrs import evolve

from opensafely_lab.disclosure import figure_limits
from opensafely_lab.disclosure.cells import GroupLevels, size
from opensafely_lab.disclosure.outcome import REDACTED
from opensafely_lab.disclosure.policy import Policy
from opensafely_lab.disclosure.requests import PlotRequest, RequestList, TableRequest, is_plain
from opensafely_lab.errors import Refused
from opensafely_lab.expressions.nodes import Call, Column, Expr, Leaf, Literal, Value, leaves, walk
from opensafely_lab.expressions.schema import ColumnClass, ColumnSchema, DatasetSchema, ValueType
from opensafely_lab.expressions.static import STRICT, levels, nullable

LONGEST_LABEL = 100


class RequestRefused(Refused):
    """A request that may not be asked, with what to ask instead."""

    code = "request-refused"


def admit(request: TableRequest, schema: DatasetSchema, policy: Policy) -> None:
    """Nothing, if the request may be asked of an extract with this schema. Else `RequestRefused`."""
    if request.where is not None:
        _check_columns(request.where, schema, policy, "where")
        if request.where.type is not ValueType.BOOL:
            raise RequestRefused(
                "The condition in where(...) is not true or false for each patient.",
                next_step="Compare the column with something, as in data.where(data.age >= 18).",
            )
    for group in request.by:
        _check_columns(group.expr, schema, policy, f"by, {group.name}")
    groups = expected_groups(request, schema)
    for group_levels in groups:
        _check_labels(group_levels)
    cells = size(groups) * len(request.measures)
    if cells > policy.largest_table:
        raise RequestRefused(
            f"The table would have {cells:,} cells; {policy.largest_table:,} is the most.",
            next_step="Use fewer groups or wider bands, or ask for several smaller tables.",
        )


def admit_plot(plot: PlotRequest, table: TableRequest, schema: DatasetSchema) -> None:
    """Nothing, if the table can be drawn legibly. Else `RequestRefused`."""
    groups = expected_groups(table, schema)
    if len(groups) not in (1, 2) or len(table.measures) != 1:
        raise RequestRefused(
            "A figure shows a table with one or two groups.",
            next_step="Ask for a table by one or two columns, and plot that.",
        )
    counts = [len(group.all_levels()) for group in groups]
    most = (figure_limits.MOST_ALONG_AXIS, figure_limits.MOST_SERIES)
    if any(count > limit for count, limit in zip(counts, most, strict=False)):
        raise RequestRefused(
            f"A figure has room for {most[0]} levels along its axis and {most[1]} colours; "
            f"this table has {' and '.join(str(count) for count in counts)}.",
            next_step="Put the group with more levels first in by=[...], or use wider bands.",
        )


def admit_all(requests: RequestList, schema_of: Callable[[str], DatasetSchema], policy: Policy) -> None:
    """Nothing, if every request of the list may be asked. Else the first `RequestRefused`."""
    for request in requests.requests:
        if isinstance(request, PlotRequest):
            table = requests.table(request.of)
            admit_plot(request, table, schema_of(table.dataset))
        else:
            admit(request, schema_of(request.dataset), policy)


def expected_groups(request: TableRequest, schema: DatasetSchema) -> tuple[GroupLevels, ...]:
    """The groups of the answer: declared levels, and missing where the expression may be. Never from data.

    A level that the request's own condition leaves out is none: missing where a value is compared,
    and the categories that it does not list where it lists some.
    """
    if request.where is not None:
        schema = _narrowed(schema, request.where)
    groups = []
    for group in request.by:
        declared = levels(group.expr, schema)
        if not declared:
            raise _undeclared(group.name, group.expr)
        groups.append(GroupLevels(group.name, declared, nullable(group.expr, schema)))
    return tuple(groups)


def _narrowed(schema: DatasetSchema, condition: Expr) -> DatasetSchema:
    """What the columns can be for the people for whom the condition is true."""
    known, listed = _known(condition), _listed(condition)

    def narrow(column: ColumnSchema) -> ColumnSchema:
        nullable = column.nullable and column.name not in known
        categories = column.categories
        if categories is not None and column.name in listed:
            # a list of none of the categories is left as it is: a table of nothing, all hidden
            categories = tuple(c for c in categories if c in listed[column.name]) or categories
        return evolve(column, nullable=nullable, categories=categories)

    return DatasetSchema(tuple(narrow(column) for column in schema.columns))


def _listed(condition: Expr) -> dict[str, frozenset[Value]]:
    """The values to which the condition confines a column, where it names them."""
    match condition:
        case Call(op="and", args=(one, other)):
            first, second = _listed(one), _listed(other)
            both = {name: first[name] & second[name] for name in first.keys() & second.keys()}
            return {**first, **second, **both}
        case Call(op="or", args=(one, other)):
            first, second = _listed(one), _listed(other)
            return {name: first[name] | second[name] for name in first.keys() & second.keys()}
        case Call(op="is_in", args=(Column(name=name), *values)):
            return {name: frozenset(value.value for value in values if isinstance(value, Literal))}
        case (
            Call(op="eq", args=(Column(name=name), Literal(value=value)))
            | Call(op="eq", args=(Literal(value=value), Column(name=name)))
        ):
            return {name: frozenset({value})}
    return {}


def _known(condition: Expr) -> frozenset[str]:
    """The columns that have a value for everybody for whom the condition is true."""
    if isinstance(condition, Call):
        match condition.op:
            case "and":
                return _known(condition.args[0]) | _known(condition.args[1])
            case "or":
                return _known(condition.args[0]) & _known(condition.args[1])
            case "is_not_null":
                return _needed(condition.args[0])
            case "is_null":
                return frozenset()
            case "is_in":
                return _needed(condition.args[0]) if len(condition.args) > 1 else frozenset()
    return _needed(condition)


def _needed(expr: Expr) -> frozenset[str]:
    """The columns without which the expression has no value: NULL in any of them makes it NULL."""
    if isinstance(expr, Column):
        return frozenset({expr.name})
    if isinstance(expr, Call) and expr.op in STRICT:
        return frozenset().union(*(_needed(arg) for arg in expr.args))
    return frozenset()


def _undeclared(name: str, expr: Expr) -> RequestRefused:
    what = f"data.{expr.name}" if isinstance(expr, Column) else "it"
    match expr.type:
        case ValueType.INT | ValueType.FLOAT:
            step = f"Cut the number into bands, as in {what}.cut([18, 40, 65])."
        case ValueType.DATE:
            step = f"Cut its year into bands, as in {what}.year.cut([2019, 2020, 2021])."
        case _:
            step = (
                f'List the values you want, as in safe.listed({what}, ["first", "second"]); the rest is "other". '
                "Or declare its categories in the dataset definition."
            )
    return RequestRefused(f"The values of {name} are not declared, so no table can be laid out by it.", next_step=step)


# What a column may be used for.


def _check_columns(expr: Expr, schema: DatasetSchema, policy: Policy, where: str) -> None:
    for leaf in leaves(expr):
        column = _column_of(leaf, schema)
        if column.column_class in policy.closed_classes:
            raise _closed(column, where)
    for parent, column in _uses(expr, schema):
        if _is_birth_date(column) and not _coarse(parent):
            raise RequestRefused(
                f"{column.name} is a date of birth, or follows from one: {where} may use its year or an age, no more.",
                next_step=f"Use data.{column.name}.year, or an age: (date - data.{column.name}).years.",
            )


def _column_of(leaf: Leaf, schema: DatasetSchema) -> ColumnSchema:
    column = schema.column(leaf.name) if isinstance(leaf, Column) else None
    if column is None:
        named = leaf.name if isinstance(leaf, Column) else "a column"
        raise RequestRefused(
            f"The extract has no column {named}.",
            next_step=f"It has {', '.join(c.name for c in schema.columns)}.",
        )
    if column.type is not leaf.type:
        raise RequestRefused(
            f"Column {column.name} is of type {column.type.value} in the extract, and of type {leaf.type.value} here.",
            next_step="Run the action that makes the extract again, and this notebook after it.",
        )
    return column


def _closed(column: ColumnSchema, where: str) -> RequestRefused:
    what, step = {
        ColumnClass.IDENTIFIER: (
            "names single patients",
            "Choose people by what they have in common, such as an age band or a diagnosis.",
        ),
        ColumnClass.ORGANISATION: (
            "names single organisations",
            "Use a region or another large area, made in the dataset definition.",
        ),
        ColumnClass.SMALL_AREA: (
            "names small areas",
            "Use a region or an index such as deprivation, made in the dataset definition.",
        ),
    }.get(column.column_class, ("is closed by the project's policy", "Use another column."))
    return RequestRefused(f"Column {column.name} {what}, so it cannot be used in {where}.", next_step=step)


def _uses(expr: Expr, schema: DatasetSchema) -> Iterator[tuple[Call | None, ColumnSchema]]:
    """Each column of the expression with each call that takes it directly; None where it is the whole."""
    if isinstance(expr, Leaf):
        yield None, _column_of(expr, schema)
    for node in walk(expr):
        if isinstance(node, Call):
            for arg in node.args:
                if isinstance(arg, Leaf):
                    yield node, _column_of(arg, schema)


_BIRTH = re.compile(r"(^|_)(dob|birth|born|birthday|birthdate)(_|$)")


def _is_birth_date(column: ColumnSchema) -> bool:
    """A sensitive date, or one that is called so: its class follows it under another name, its name
    covers an extract that came without classes."""
    if column.type is not ValueType.DATE:
        return False
    return column.column_class is ColumnClass.SENSITIVE or _BIRTH.search(column.name.casefold()) is not None


_COARSE = frozenset({"year", "to_first_of_year", "difference_in_years", "is_null", "is_not_null"})


def _coarse(parent: Call | None) -> bool:
    """Does this use leave of a date only its year, or an age? Before or from a 1 January is a year too."""
    if parent is None:
        return False
    if parent.op in _COARSE:
        return True
    if parent.op in ("lt", "ge") and isinstance(parent.args[1], Literal):
        day = parent.args[1].value
        return isinstance(day, dt.date) and (day.month, day.day) == (1, 1)
    return False


def _check_labels(group: GroupLevels) -> None:
    for level in group.levels:
        text = str(level)
        if not 0 < len(text) <= LONGEST_LABEL or not is_plain(text) or text == REDACTED:
            raise RequestRefused(
                f"A level of {group.name} is not a short line of plain text.",
                next_step=f"Give each level a label of up to {LONGEST_LABEL} ordinary characters.",
            )
