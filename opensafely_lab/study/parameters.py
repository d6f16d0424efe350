"""A notebook's parameters as data: what each may be, and values that are proved to be that.

papermill turns a parameter's *name* into source code and its value into a literal. So a name must be
one that was declared and is a plain identifier, and a value one of a few bounded types; everything
else is refused before papermill is near.
"""

from __future__ import annotations

import datetime
import json
import keyword
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from attrs import evolve, frozen

from opensafely_lab.errors import Refused

Scalar = bool | int | float | str
ParameterValue = bool | int | float | str | list[int] | list[float] | list[str] | list[bool]

MAX_PARAMETERS = 100
MAX_NAME = 64
MAX_TEXT = 1_000  # characters of one text
MAX_ITEMS = 200  # of one list
MAX_CHOICES = 1_000
MAX_GIVEN = 50_000  # characters of one `-p` value, before it is looked at
MAX_INTEGER = 2**53 - 1  # every whole number up to here is exact in JSON, whoever reads it

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_INT = re.compile(r"[+-]?[0-9]{1,16}\Z")
_FLOAT = re.compile(r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?\Z")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
# Marks that reorder the text around them: what is shown would not be what is run.
_REORDERING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class ParameterError(Refused):
    """A parameter that is unknown, badly typed or out of bounds. Nothing was run."""

    code = "parameter"

    def __init__(self, sentence: str, *, next_step: str = "", parameter: str | None = None) -> None:
        super().__init__(sentence, next_step=next_step or "Correct it and try again.")
        self.parameter = parameter


class ParameterType(StrEnum):
    """Dates travel, and reach the notebook, as ISO text."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    STR = "str"
    DATE = "date"
    LIST_INT = "list[int]"
    LIST_FLOAT = "list[float]"
    LIST_BOOL = "list[bool]"
    LIST_STR = "list[str]"
    LIST_DATE = "list[date]"

    @property
    def is_list(self) -> bool:
        return self.value.startswith("list[")

    @property
    def item(self) -> ParameterType:
        """The type of one item, for a list; itself, for anything else."""
        return ParameterType(self.value[5:-1]) if self.is_list else self

    @property
    def words(self) -> str:
        one = _WORDS[self.item]
        return f"a list in which each item is {one}" if self.is_list else one


_WORDS = {
    ParameterType.INT: "a whole number",
    ParameterType.FLOAT: "a number",
    ParameterType.BOOL: "true or false",
    ParameterType.STR: "a text",
    ParameterType.DATE: "a date such as 2015-03-31",
}


@frozen
class ParameterSpec:
    """What one parameter may be. Bounds and choices hold for each item of a list.

    `default` is None where a value must be given.
    """

    name: str
    type: ParameterType
    default: ParameterValue | None = None
    minimum: int | float | str | None = None
    maximum: int | float | str | None = None
    choices: tuple[Scalar, ...] | None = None
    description: str | None = None


def mistake_in_name(name: object) -> str | None:
    """Why this cannot name a parameter; None if it can."""
    if not isinstance(name, str) or not _NAME.match(name):
        return "must be a plain Python name: letters, digits and `_`, a letter first"
    if len(name) > MAX_NAME:
        return f"must have at most {MAX_NAME} characters"
    if keyword.iskeyword(name) or name.endswith("__"):
        return "is a word that Python keeps for itself"
    return None


def make_spec(name: str, said: Mapping[str, Any]) -> ParameterSpec:
    """A spec from what `config: parameters: NAME:` says. Raises `ParameterError`.

    `said` has `type`, and may have `default`, `min`, `max`, `choices` and `description`.
    """
    label = _label(name)
    wrong = mistake_in_name(name)
    if wrong:
        raise ParameterError(f"Parameter name {label} {wrong}.", parameter=None)
    unknown = sorted(set(said) - {"type", "default", "min", "max", "choices", "description"})
    if unknown:
        raise ParameterError(
            f"Parameter {label} has the unknown setting {_label(unknown[0])}.",
            next_step="It may have type, default, min, max, choices and description.",
            parameter=name,
        )
    try:
        kind = ParameterType(str(said.get("type")))
    except ValueError:
        raise ParameterError(
            f"Parameter {label} needs a `type`.",
            next_step="Write one of int, float, bool, str, date, or a list of them such as list[int].",
            parameter=name,
        ) from None
    description = said.get("description")
    if description is not None and (not isinstance(description, str) or _bad_text(description.replace("\n", " "))):
        raise ParameterError(f"The `description` of {label} must be a text of at most {MAX_TEXT} characters.")
    item = ParameterSpec(name, kind.item)
    minimum, maximum = _bound(item, "min", said), _bound(item, "max", said)
    if minimum is not None and maximum is not None and minimum > maximum:
        raise ParameterError(f"Parameter {label} has a `min` above its `max`.", parameter=name)
    spec = ParameterSpec(
        name,
        kind,
        minimum=minimum,
        maximum=maximum,
        choices=_choices(item, said.get("choices")),
        description=description,
    )
    if said.get("default") is None:
        return spec
    return evolve(spec, default=_setting(spec, said["default"], f"The `default` of {label}"))


def _bound(item: ParameterSpec, key: str, said: Mapping[str, Any]) -> Any:
    if said.get(key) is None:
        return None
    if item.type in (ParameterType.BOOL, ParameterType.STR):
        raise ParameterError(f"Parameter {_label(item.name)} has a `{key}`, which a {item.type.value} cannot have.")
    return _setting(item, said[key], f"The `{key}` of {_label(item.name)}")


def _choices(item: ParameterSpec, listed: object) -> tuple[Scalar, ...] | None:
    if listed is None:
        return None
    if not isinstance(listed, list | tuple) or not listed or len(listed) > MAX_CHOICES:
        raise ParameterError(f"The `choices` of {_label(item.name)} must be a list of 1 to {MAX_CHOICES} values.")
    return tuple(_setting(item, choice, f"A choice of {_label(item.name)}") for choice in listed)


def parse_value(spec: ParameterSpec, given: object) -> ParameterValue:
    """`given` as JSON has it, proved to be what `spec` says. Raises `ParameterError`."""
    if not spec.type.is_list:
        one: ParameterValue = _item(spec, given)
        return one
    if not isinstance(given, list | tuple):
        raise _refusal(spec, f"must be {spec.type.words}")
    if len(given) > MAX_ITEMS:
        raise _refusal(spec, f"has {len(given)} items; a list may have up to {MAX_ITEMS}")
    items: list[Any] = [_item(spec, item) for item in given]
    return items


def parse_text(spec: ParameterSpec, text: str) -> ParameterValue:
    """What somebody typed after `-p NAME`: a plain word for one value, JSON for a list. Raises `ParameterError`."""
    if len(text) > MAX_GIVEN:
        raise _refusal(spec, f"is longer than {MAX_GIVEN} characters")
    if spec.type.is_list:
        return parse_value(spec, _json_list(spec, text))
    word = text if spec.type is ParameterType.STR else text.strip()
    return parse_value(spec, _READERS[spec.type](word))


def bind(
    specs: Mapping[str, ParameterSpec], given: Mapping[str, object], *, from_text: bool
) -> dict[str, ParameterValue]:
    """The value of every declared parameter, in the order declared: the one given, else the default.

    `from_text` says that the values are text, as typed. Raises `ParameterError`.
    """
    if len(given) > MAX_PARAMETERS:
        raise ParameterError(f"{len(given)} parameters are given; there may be up to {MAX_PARAMETERS}.")
    for name in given:
        if name not in specs:
            raise ParameterError(
                f"There is no parameter {_label(name)}.",
                next_step=f"Declared are: {', '.join(specs)}."
                if specs
                else "Declare it in the cell of the notebook that is tagged `parameters`.",
            )
    bound: dict[str, ParameterValue] = {}
    for name, spec in specs.items():
        if mistake_in_name(name) or name != spec.name:
            raise ParameterError(f"Parameter name {_label(name)} {mistake_in_name(name) or 'is not its own'}.")
        if name in given:
            value = given[name]
            bound[name] = parse_text(spec, value) if from_text and isinstance(value, str) else parse_value(spec, value)
        elif spec.default is None:
            raise _refusal(spec, "has no value", f"Give one: -p {name} VALUE.")
        else:
            bound[name] = parse_value(spec, spec.default)
    return bound


def _setting(spec: ParameterSpec, given: object, what: str) -> Any:
    try:
        return parse_value(spec, given)
    except ParameterError as error:
        reason = error.sentence.removeprefix(f"Parameter {_label(spec.name)} ")
        raise ParameterError(f"{what} {reason}", next_step=error.next_step, parameter=spec.name) from None


def _item(spec: ParameterSpec, given: object) -> Any:
    kind = spec.type.item
    value = _typed(spec, kind, given)
    must_be = "must have items of" if spec.type.is_list else "must be"
    if spec.minimum is not None and value < spec.minimum:
        raise _refusal(spec, f"{must_be} at least {spec.minimum}")
    if spec.maximum is not None and value > spec.maximum:
        raise _refusal(spec, f"{must_be} at most {spec.maximum}")
    if spec.choices is not None and value not in spec.choices:
        few = ", ".join(str(choice) for choice in spec.choices[:10])
        more = ", …" if len(spec.choices) > 10 else ""
        wants = "has an item that is not" if spec.type.is_list else "must be"
        raise _refusal(spec, f"{wants} one of its choices", f"Choose from: {few}{more}.")
    return value


def _typed(spec: ParameterSpec, kind: ParameterType, given: object) -> Any:
    match kind:
        case ParameterType.INT:
            if type(given) is int:
                if abs(given) > MAX_INTEGER:
                    raise _refusal(spec, f"must be between -{MAX_INTEGER} and {MAX_INTEGER}")
                return given
        case ParameterType.FLOAT:
            if type(given) is int and abs(given) <= MAX_INTEGER:
                return float(given)
            if type(given) is float:
                if not math.isfinite(given):
                    raise _refusal(spec, "must be a finite number")
                return given
        case ParameterType.BOOL:
            if type(given) is bool:
                return given
        case ParameterType.STR:
            if type(given) is str:
                wrong = _bad_text(given)
                if wrong:
                    raise _refusal(spec, wrong)
                return given
        case ParameterType.DATE:
            if type(given) is str and _is_date(given):
                return given
    raise _refusal(spec, f"must be {spec.type.words}")


def _is_date(text: str) -> bool:
    if not _DATE.match(text):
        return False
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def is_date(value: object) -> bool:
    return isinstance(value, str) and _is_date(value)


def _bad_text(text: str) -> str | None:
    if len(text) > MAX_TEXT:
        return f"is longer than {MAX_TEXT} characters"
    for char in text:
        if unicodedata.category(char) in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp") or char in _REORDERING:
            return "holds a character that cannot be shown"
    return None


def _no_constant(_text: str) -> float:
    raise ValueError


def _json_list(spec: ParameterSpec, text: str) -> list[object]:
    advice = f"Write it as JSON, such as -p {spec.name} '{_EXAMPLES[spec.type.item]}'."
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _refusal(spec, f"must be {spec.type.words}", advice) from None
    if not isinstance(found, list):
        raise _refusal(spec, f"must be {spec.type.words}", advice)
    return found


_EXAMPLES = {
    ParameterType.INT: "[18, 40, 65]",
    ParameterType.FLOAT: "[0.5, 1.5]",
    ParameterType.BOOL: "[true, false]",
    ParameterType.STR: '["first", "second"]',
    ParameterType.DATE: '["2015-03-31"]',
}


def _as_int(text: str) -> object:
    return int(text) if _INT.match(text) else text


def _as_float(text: str) -> object:
    return float(text) if _FLOAT.match(text) else text


def _as_bool(text: str) -> object:
    return {"true": True, "false": False}.get(text.lower(), text) if len(text) < 6 else text


def _as_text(text: str) -> object:
    return text


_READERS: dict[ParameterType, Callable[[str], object]] = {
    ParameterType.INT: _as_int,
    ParameterType.FLOAT: _as_float,
    ParameterType.BOOL: _as_bool,
    ParameterType.STR: _as_text,
    ParameterType.DATE: _as_text,
}


def _refusal(spec: ParameterSpec, reason: str, next_step: str = "") -> ParameterError:
    return ParameterError(f"Parameter {_label(spec.name)} {reason}.", next_step=next_step, parameter=spec.name)


def _label(name: object) -> str:
    text = name if isinstance(name, str) else type(name).__name__
    flat = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:80])
    return f"`{flat if len(flat) <= 40 else flat[:39] + '…'}`"
