"""The parameters that a notebook declares: simple values in its cell tagged `parameters`.

The cell is read with `ast`, never run. What it cannot say (bounds, choices, that a text is a date)
project.yaml adds, and `merge` puts the two together.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Mapping
from typing import Any

from attrs import evolve

from opensafely_lab.notebooks.source import NotebookError, SubmittedNotebook
from opensafely_lab.study.parameters import (
    MAX_PARAMETERS,
    ParameterError,
    ParameterSpec,
    ParameterType,
    is_date,
    make_spec,
    mistake_in_name,
    parse_value,
)

MAX_SOURCE = 50_000
_ADVICE = 'Keep only lines such as `index_date = "2015-03-31"` in the cell tagged `parameters`.'

# A type that the cell shows, and the types that project.yaml may say it has.
_NARROWER: dict[ParameterType, tuple[ParameterType, ...]] = {
    ParameterType.INT: (ParameterType.INT, ParameterType.FLOAT),
    ParameterType.LIST_INT: (ParameterType.LIST_INT, ParameterType.LIST_FLOAT),
    ParameterType.STR: (ParameterType.STR,),
    ParameterType.DATE: (ParameterType.DATE, ParameterType.STR),
    ParameterType.LIST_DATE: (ParameterType.LIST_DATE, ParameterType.LIST_STR),
}


def declared(notebook: SubmittedNotebook) -> dict[str, ParameterSpec]:
    """A spec for each name of the parameters cell, in its order; none if there is no such cell.

    A text written like a date is a date. Raises `NotebookError`, `ParameterError`.
    """
    tagged = [index for index, cell in enumerate(notebook.cells) if cell.is_parameters]
    if not tagged:
        return {}
    if len(tagged) > 1:
        numbers = ", ".join(str(index + 1) for index in tagged[:10])
        raise NotebookError(
            f"{len(tagged)} cells are tagged `parameters` (cells {numbers}); there can be one.",
            next_step="Put all parameters into one cell, and take the tag off the others.",
        )
    source = notebook.cells[tagged[0]].source
    if len(source) > MAX_SOURCE:
        raise NotebookError(f"The parameters cell is longer than {MAX_SOURCE} characters.", next_step=_ADVICE)
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        where = f"line {error.lineno} of the parameters cell" if error.lineno else "the parameters cell"
        raise NotebookError(f"Python cannot read {where}.", next_step=_ADVICE) from None
    except (ValueError, RecursionError, MemoryError):
        raise NotebookError("Python cannot read the parameters cell.", next_step=_ADVICE) from None
    comments = _comments(source)
    specs: dict[str, ParameterSpec] = {}
    for statement in tree.body:
        for name, node in _assigned(statement):
            spec = _spec(name, node, statement)
            specs[name] = evolve(spec, description=comments.get(statement.end_lineno or statement.lineno))
    if len(specs) > MAX_PARAMETERS:
        raise NotebookError(f"The parameters cell has {len(specs)} names; there may be up to {MAX_PARAMETERS}.")
    return specs


def merge(
    declared_specs: Mapping[str, ParameterSpec], project_specs: Mapping[str, ParameterSpec]
) -> dict[str, ParameterSpec]:
    """What the notebook declares, with the bounds, choices, type and default that project.yaml gives.

    The notebook says which names there are; a default in project.yaml goes before the notebook's.
    Raises `ParameterError`.
    """
    for name in project_specs:
        if name not in declared_specs:
            raise ParameterError(
                f"project.yaml describes a parameter `{name}` that the notebook does not declare.",
                next_step="Add it to the cell tagged `parameters`, or take it out of project.yaml.",
                parameter=name,
            )
    return {
        name: _merged(spec, project_specs[name]) if name in project_specs else spec
        for name, spec in declared_specs.items()
    }


def _merged(declared_spec: ParameterSpec, said: ParameterSpec) -> ParameterSpec:
    name = declared_spec.name
    allowed = _NARROWER.get(declared_spec.type, (declared_spec.type,))
    if declared_spec.default == []:
        allowed = tuple(kind for kind in ParameterType if kind.is_list)
    if said.type not in allowed:
        raise ParameterError(
            f"Parameter `{name}` is {said.type.value} in project.yaml, and the notebook's value is a "
            f"{declared_spec.type.value}.",
            next_step="Make the two agree.",
            parameter=name,
        )
    default = said.default
    if default is None:
        try:
            default = parse_value(said, declared_spec.default)
        except ParameterError as error:
            raise ParameterError(
                f"The notebook's own value does not fit project.yaml: {error.sentence}",
                next_step="Change the value in the parameters cell, or the bounds in project.yaml.",
                parameter=name,
            ) from None
    return evolve(said, default=default, description=said.description or declared_spec.description)


def _assigned(statement: ast.stmt) -> list[tuple[str, ast.expr]]:
    """The names that one line assigns, each with its value; [] for a text that documents the cell."""
    match statement:
        case ast.Expr(value=ast.Constant(value=str())) | ast.Pass():
            return []
        case ast.Assign(targets=targets, value=value) if all(isinstance(t, ast.Name) for t in targets):
            return [(t.id, value) for t in targets if isinstance(t, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
            return [(name, value)]
        case _:
            raise NotebookError(
                f"Line {statement.lineno} of the parameters cell is no plain assignment.", next_step=_ADVICE
            )


def _spec(name: str, node: ast.expr, statement: ast.stmt) -> ParameterSpec:
    wrong = mistake_in_name(name)
    if wrong:
        raise NotebookError(f"Line {statement.lineno} of the parameters cell: a parameter's name {wrong}.")
    value = _literal(node)
    annotated = _annotation(statement.annotation) if isinstance(statement, ast.AnnAssign) else None
    kind = _type_of(value)
    if annotated in [one.value for one in ParameterType] and not (annotated == "str" and kind is ParameterType.DATE):
        kind = ParameterType(str(annotated))  # make_spec checks that the value is that
    if kind is None:
        raise NotebookError(
            f"Line {statement.lineno} of the parameters cell: `{name}` must be a number, a text, True, False, "
            "or a list of one of these.",
            next_step=_ADVICE,
        )
    return make_spec(name, {"type": kind.value, "default": value})


def _annotation(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Constant(value=str() as name):
            return name
        case ast.Subscript(value=ast.Name(id=outer), slice=ast.Name(id=inner)):
            return f"{outer}[{inner}]"
        case _:
            return None


def _literal(node: ast.expr) -> Any:
    """The value of a literal, or a value of no allowed type (None) for anything else."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float() as number)):
            if isinstance(number, bool):
                return None
            return -number if isinstance(node.op, ast.USub) else number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [None if isinstance(item, ast.List | ast.Tuple) else _literal(item) for item in items]
        case _:
            return None


def _type_of(value: object) -> ParameterType | None:
    if isinstance(value, list):
        if not value:
            return ParameterType.LIST_STR  # project.yaml or an annotation may say otherwise
        kinds = {_type_of(item) for item in value}
        if kinds == {ParameterType.INT, ParameterType.FLOAT}:
            kinds = {ParameterType.FLOAT}
        if kinds == {ParameterType.STR, ParameterType.DATE}:
            kinds = {ParameterType.STR}
        kind = kinds.pop()
        return ParameterType(f"list[{kind.value}]") if kind is not None and not kinds and not kind.is_list else None
    if is_date(value):
        return ParameterType.DATE
    return {
        bool: ParameterType.BOOL,
        int: ParameterType.INT,
        float: ParameterType.FLOAT,
        str: ParameterType.STR,
    }.get(type(value))


def _comments(source: str) -> dict[int, str]:
    """The comment at the end of each line that has code before it: the parameter's description."""
    found: dict[int, str] = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip():
                text = "".join(c for c in token.string.lstrip("# ").strip() if c.isprintable())
                if text:
                    found[token.start[0]] = text[:200]
    except (tokenize.TokenError, SyntaxError):
        return {}
    return found
