"""`safe.dataset`: the columns of an extract, to ask about. It holds no rows."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, NoReturn

from attrs import frozen

from opensafely_lab.expressions.nodes import Column, Expr, ExpressionError, call
from opensafely_lab.expressions.schema import DatasetSchema
from opensafely_lab.expressions.series import SERIES, BoolSeries, Scope, Series
from opensafely_lab.safe.errors import NoColumn, NoExtract, SafeError
from opensafely_lab.safe.extracts import read_schema, require_file
from opensafely_lab.safe.kinds import kind_of


def dataset(path: str | os.PathLike[str]) -> Frame:
    """The columns of an extract of this study, such as "output/dataset.arrow".

    The path starts at the folder of `project.yaml`, wherever the notebook is. Columns are
    attributes: `data.age`, or `data["age"]`. Raises `NoExtract` if there is no such file yet.
    """
    root, relative = _place(path, "safe.dataset")
    return Frame(relative, root / relative, read_schema(root, relative), None)


def file(path: str | os.PathLike[str]) -> Path:
    """Where an extract of this study is, to look at its dummy rows with pandas.

    The path starts at the folder of `project.yaml`, wherever the notebook is: at the desk as in a
    job. Raises `NoExtract` if there is no such file yet.
    """
    root, relative = _place(path, "safe.file")
    require_file(root, relative)
    return root / relative


def _place(path: str | os.PathLike[str], asked: str) -> tuple[Path, str]:
    if not isinstance(path, (str, os.PathLike)):
        raise SafeError(
            f"{asked}() takes the path of an extract, not {kind_of(path)}.",
            next_step=f'Write {asked}("output/dataset.arrow").',
        )
    root = project_root(Path.cwd())
    return root, _inside(root, Path(path))


def project_root(start: Path) -> Path:
    """The nearest folder with a project.yaml, from here upwards."""
    for folder in (start, *start.parents):
        if (folder / "project.yaml").is_file():
            return folder
    raise NoExtract(
        "There is no project.yaml in this folder or above it.",
        next_step="Open the notebook inside a study, or make one: opensafely-lab init.",
    )


def _inside(root: Path, path: Path) -> str:
    """The path of an extract, from the project's root. Links are left alone: a job's inputs are links."""
    absolute = Path(os.path.normpath(root / path))
    if root not in absolute.parents:
        raise NoExtract(
            "That path is outside the project.",
            next_step="Name an output of one of the project's own actions, such as output/dataset.arrow.",
        )
    return absolute.relative_to(root).as_posix()


@frozen
class FrameScope:
    """The rows of one extract: columns of two extracts do not go together."""

    path: str

    def meet(self, other: Scope) -> Scope:
        if other != self:
            raise ExpressionError(
                "A column of this dataset cannot be combined with one from elsewhere.",
                next_step="Put both into one dataset definition.",
            )
        return self

    def wrap(self, expr: Expr) -> Series:
        return SERIES[expr.type](expr, self)


class Frame:
    """An extract's columns, and which of its people are meant."""

    def __init__(self, path: str, file: Path, schema: DatasetSchema, condition: Expr | None) -> None:
        self._path = path
        self._file = file
        self._schema = schema
        self._condition = condition
        self._scope = FrameScope(path)

    def where(self, *conditions: BoolSeries) -> Frame:
        """The people for whom every condition is true; where it is missing they are left out."""
        condition = self._condition
        for given in conditions:
            if not isinstance(given, BoolSeries):
                raise SafeError(
                    f"where() takes a condition over columns, not {kind_of(given)}.",
                    next_step="Write data.where(data.age >= 18).",
                )
            self._scope.meet(given._scope)
            condition = given._expr if condition is None else call("and", condition, given._expr)
        return Frame(self._path, self._file, self._schema, condition)

    def _column(self, name: str) -> Series:
        column = self._schema.column(name)
        if column is None:
            near = difflib.get_close_matches(name, self._names(), n=1)
            raise NoColumn(
                f"{self._path} has no column {name}.",
                next_step=f"Did you mean {near[0]}?" if near else _advice(name, self._names()),
            )
        return self._scope.wrap(Column(column.name, column.type))

    def _names(self) -> list[str]:
        return [column.name for column in self._schema.columns]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._column(name)

    def __getitem__(self, name: str) -> Any:
        if isinstance(name, BoolSeries):
            raise SafeError("People are chosen with where().", next_step="Write data.where(condition).")
        if not isinstance(name, str):
            raise SafeError(
                f"A column is named by text, not by {kind_of(name)}.", next_step='Write data["age"] or data.age.'
            )
        return self._column(name)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            raise SafeError(
                "A dataset cannot be changed.",
                next_step="Use the expression itself, as in by={'age band': data.age.cut([18, 65])}.",
            )
        object.__setattr__(self, name, value)

    def _no_rows(self, *_: object) -> NoReturn:
        raise SafeError(
            "A dataset of safe has columns to ask about, and no rows.",
            next_step="Ask for a number with safe.table(...); look at dummy rows with pandas.",
        )

    __len__ = __iter__ = __bool__ = __array__ = __setitem__ = _no_rows

    def __dir__(self) -> Iterable[str]:
        return ["where", *(name for name in self._names() if name.isidentifier())]

    def _ipython_key_completions_(self) -> list[str]:
        return self._names()

    def __repr__(self) -> str:
        lines = [f"Dataset {self._path}{', some of its people' if self._condition is not None else ''}"]
        width = max(map(len, self._names()), default=0)
        lines += [f"  {name.ljust(width)}  {described}" for name, described in self._described()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        some = ", some of its people" if self._condition is not None else ""
        left = "text-align:left;font-weight:400;padding:0.15em 0.8em"
        rows = "".join(
            f'<tr><th scope="row" style="{left}"><code>{escape(name)}</code></th>'
            f'<td style="{left}">{escape(described)}</td></tr>'
            for name, described in self._described()
        )
        return f"<div>Dataset <code>{escape(self._path)}</code>{some}<table>{rows}</table></div>"

    def _described(self) -> list[tuple[str, str]]:
        described = []
        for column in self._schema.columns:
            words = [column.type.value]
            if column.categories is not None:
                shown = ", ".join(column.categories[:6])
                words.append(f"one of {shown}{', ...' if len(column.categories) > 6 else ''}")
            if column.nullable:
                words.append("may be missing")
            if column.column_class.value != "ordinary":
                words.append(column.column_class.value)
            described.append((column.name, "; ".join(words)))
        return described


# What people try who think of pandas.
_PANDAS = frozenset({
    "head", "tail", "groupby", "value_counts", "describe", "query", "loc", "iloc", "columns", "shape", "dtypes",
    "values", "index", "info", "sample", "apply", "agg", "plot", "hist", "pivot_table", "merge", "join", "drop",
    "assign", "rename", "to_csv", "to_numpy", "sort_values", "mean", "sum", "count",
})  # fmt: skip


def _advice(name: str, names: list[str]) -> str:
    if name in _PANDAS:
        return "This is no pandas frame: ask with safe.table(data, by=[data.sex]), and look at dummy rows with pandas."
    return f"It has {', '.join(names)}."
