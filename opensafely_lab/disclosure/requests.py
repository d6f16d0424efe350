"""What a notebook asks for: an aggregate over the columns of one extract, as a value.

The list of requests is made inside the sandbox, where the notebook is the attacker's, so `parse`
takes bytes and believes nothing. It refuses, each with a `BadRequestList`:

1. more than 256 KiB, bytes that are not UTF-8, JSON that is nested too deeply;
2. a key that comes twice, an unknown or a missing key, NaN and infinities, numbers too long to be meant;
3. text with control or direction characters or lone surrogates; names that are not plain;
4. ids that do not count up from 0, names used twice, a plot of something that is no earlier table;
5. expressions that `expressions.jsonio` refuses: unknown operators, operands of the wrong types.

Left to the caller: whether the columns exist and may be used (`admission`), and that the list is
the one that the dummy run fixed. Two lists are the same if their `text()` is.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from opensafely_lab.errors import Refused
from opensafely_lab.expressions.jsonio import from_json, to_json
from opensafely_lab.expressions.nodes import Expr, ExpressionError

LARGEST_FILE = 256 * 1024  # disclosure.md 3.1
MOST_REQUESTS = 500
MOST_GROUPS = 6
MOST_CELLS_OF_A_NOTEBOOK = 10_000
LONGEST_TEXT = 200
DEEPEST = 80  # brackets: an expression of 32 levels has two of them a level, the list around it has five
_LONGEST_NUMBER = 25  # characters

VERSION = 1
MEASURES = ("count",)
PLOTS = ("bar", "line")

# Names are names of files and headings as well.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")
_DATASET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


class BadRequestList(Refused):
    """A request file that is not one."""

    code = "bad-requests"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The notebook's list of requests cannot be used: {what}.",
            next_step="Make requests with opensafely_lab.safe only; it writes the list.",
        )


@frozen
class Group:
    """One group of a table: a heading and an expression over one row."""

    name: str
    expr: Expr


@frozen
class Measure:
    """What is computed in each cell. `count` counts people."""

    name: str
    fn: str


@frozen
class TableRequest:
    """A table of people over declared levels: who (`where`), split how (`by`), showing what."""

    id: int
    name: str
    cell: int
    dataset: str
    where: Expr | None
    by: tuple[Group, ...]
    measures: tuple[Measure, ...]
    margins: bool


@frozen
class PlotRequest:
    """A picture of an earlier table."""

    id: int
    name: str
    cell: int
    of: int
    plot: str
    title: str


Request = TableRequest | PlotRequest


@frozen
class RequestList:
    """All that a notebook asks for, in order. Equal lists have equal texts."""

    requests: tuple[Request, ...]

    def text(self) -> str:
        """The canonical JSON of the list: the same requests, the same text, whoever wrote the file."""
        listed = {"version": VERSION, "requests": [_request_json(request) for request in self.requests]}
        return json.dumps(listed, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

    def table(self, number: int) -> TableRequest:
        request = self.requests[number]
        if not isinstance(request, TableRequest):
            raise BadRequestList("a plot is of something that is no table")
        return request

    def datasets(self) -> tuple[str, ...]:
        """The extracts that are asked about, each once, in order of use."""
        return tuple(dict.fromkeys(r.dataset for r in self.requests if isinstance(r, TableRequest)))


def parse(data: bytes) -> RequestList:
    """The requests in a file, or `BadRequestList`. See the module for what is refused."""
    root = _object(_json(data), "the list", ("version", "requests"))
    if type(root["version"]) is not int or root["version"] != VERSION:
        raise BadRequestList("it has an unknown version")
    listed = _array(root["requests"], "requests", MOST_REQUESTS)
    requests: list[Request] = []
    names: set[str] = set()
    for number, obj in enumerate(listed):
        request = _request(obj, requests)
        if request.id != number:
            raise BadRequestList("the ids do not count up from 0")
        if request.name.casefold() in names:
            raise BadRequestList("two requests have one name")
        names.add(request.name.casefold())
        requests.append(request)
    return RequestList(tuple(requests))


def is_plain(text: str) -> bool:
    """Is this text that shows as what it is: no control, direction or private characters, no odd spaces?"""
    return text.isprintable() and text == text.strip() and text == unicodedata.normalize("NFC", text)


# From JSON.


def _request(obj: Any, before: Sequence[Request]) -> Request:
    kind = obj.get("kind") if isinstance(obj, dict) else None
    if kind == "table":
        return _table_request(_object(obj, "a table", _TABLE_KEYS))
    if kind == "plot":
        return _plot_request(_object(obj, "a plot", _PLOT_KEYS), before)
    raise BadRequestList("a request has an unknown kind")


_TABLE_KEYS = ("kind", "id", "name", "cell", "dataset", "where", "by", "measures", "margins")
_PLOT_KEYS = ("kind", "id", "name", "cell", "of", "plot", "title")


def _table_request(obj: Mapping[str, Any]) -> TableRequest:
    if type(obj["margins"]) is not bool:
        raise BadRequestList("margins is not true or false")
    groups = tuple(_group(group) for group in _array(obj["by"], "by", MOST_GROUPS))
    measures = tuple(_measure(measure) for measure in _array(obj["measures"], "measures", len(MEASURES)))
    headings = [name.casefold() for name in (*(g.name for g in groups), *(m.name for m in measures))]
    if not measures or len(set(headings)) != len(headings):
        raise BadRequestList("a table has no measure, or two columns of one name")
    return TableRequest(
        id=_whole(obj["id"], "id", MOST_REQUESTS),
        name=_name(obj["name"]),
        cell=_whole(obj["cell"], "cell", MOST_CELLS_OF_A_NOTEBOOK),
        dataset=_dataset(obj["dataset"]),
        where=None if obj["where"] is None else _expr(obj["where"]),
        by=groups,
        measures=measures,
        margins=obj["margins"],
    )


def _plot_request(obj: Mapping[str, Any], before: Sequence[Request]) -> PlotRequest:
    of = _whole(obj["of"], "of", MOST_REQUESTS)
    if of >= len(before) or not isinstance(before[of], TableRequest):
        raise BadRequestList("a plot is of something that is no earlier table")
    return PlotRequest(
        id=_whole(obj["id"], "id", MOST_REQUESTS),
        name=_name(obj["name"]),
        cell=_whole(obj["cell"], "cell", MOST_CELLS_OF_A_NOTEBOOK),
        of=of,
        plot=_one_of(obj["plot"], "plot", PLOTS),
        title=_line(obj["title"], "title"),
    )


def _group(obj: Any) -> Group:
    fields = _object(obj, "a group", ("name", "expr"))
    return Group(_line(fields["name"], "a group's name"), _expr(fields["expr"]))


def _measure(obj: Any) -> Measure:
    fields = _object(obj, "a measure", ("name", "fn"))
    return Measure(_line(fields["name"], "a measure's name"), _one_of(fields["fn"], "fn", MEASURES))


def _expr(obj: Any) -> Expr:
    try:
        return from_json(obj)
    except ExpressionError as error:
        raise BadRequestList("an expression is not one that may be asked") from error


# The small readers: a value of one shape, or a refusal that quotes nothing of the file.


def _object(obj: Any, what: str, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(obj, dict) or set(obj) != set(keys):
        raise BadRequestList(f"{what} does not have exactly the keys {', '.join(keys)}")
    return obj


def _array(obj: Any, what: str, most: int) -> Sequence[Any]:
    if not isinstance(obj, list) or len(obj) > most:
        raise BadRequestList(f"{what} is not a list of at most {most}")
    return obj


def _whole(obj: Any, what: str, most: int) -> int:
    if type(obj) is not int or not 0 <= obj < most:
        raise BadRequestList(f"{what} is not a whole number from 0 to {most - 1}")
    return obj


def _one_of(obj: Any, what: str, choices: tuple[str, ...]) -> str:
    if not isinstance(obj, str) or obj not in choices:
        raise BadRequestList(f"{what} is not one of {', '.join(choices)}")
    return obj


def _name(obj: Any) -> str:
    if not isinstance(obj, str) or not NAME.fullmatch(obj):
        raise BadRequestList("a name has more than letters, digits, space, dot, dash and underscore, or is too long")
    return obj


def _line(obj: Any, what: str) -> str:
    if not isinstance(obj, str) or not 0 < len(obj) <= LONGEST_TEXT or not is_plain(obj):
        raise BadRequestList(f"{what} is not a line of plain text")
    return obj


def _dataset(obj: Any) -> str:
    if not isinstance(obj, str) or len(obj) > LONGEST_TEXT or not _DATASET.fullmatch(obj):
        raise BadRequestList("a dataset is not a plain path inside the project")
    return obj


# JSON, strictly.


def _json(data: bytes) -> Any:
    if len(data) > LARGEST_FILE:
        raise BadRequestList(f"it is larger than {LARGEST_FILE // 1024} KiB")
    try:
        text = data.decode("utf-8", "strict")
        _check_depth(text)
        parsed = json.loads(
            text,
            object_pairs_hook=_pairs,
            parse_constant=_no_constant,
            parse_int=_int,
            parse_float=_float,
        )
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BadRequestList("it is not JSON in UTF-8") from error
    _check_text(parsed)
    return parsed


def _check_depth(text: str) -> None:
    """Refuse before parsing what would nest deeper than any request does."""
    depth = 0
    for token in re.finditer(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', text, re.DOTALL):
        match token.group()[0]:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
        if depth > DEEPEST:
            raise BadRequestList("it is nested too deeply")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    obj = dict(pairs)
    if len(obj) != len(pairs):
        raise BadRequestList("a key comes twice")
    return obj


def _no_constant(_: str) -> Any:
    raise BadRequestList("it holds a number that is none")


def _int(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER or not -(2**63) <= int(digits) < 2**63:
        raise BadRequestList("it holds a number too large to be meant")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits) if len(digits) <= _LONGEST_NUMBER else math.inf
    if not math.isfinite(value):
        raise BadRequestList("it holds a number too large to be meant")
    return value


def _check_text(parsed: Any) -> None:
    """No string anywhere holds a control or direction character or half a surrogate pair."""
    if isinstance(parsed, str):
        if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co") for character in parsed):
            raise BadRequestList("it holds text with invisible characters")
    elif isinstance(parsed, list):
        for item in parsed:
            _check_text(item)
    elif isinstance(parsed, dict):
        for key, item in parsed.items():
            _check_text(key)
            _check_text(item)


# To JSON.


def _request_json(request: Request) -> dict[str, Any]:
    if isinstance(request, PlotRequest):
        return {
            "kind": "plot",
            "id": request.id,
            "name": request.name,
            "cell": request.cell,
            "of": request.of,
            "plot": request.plot,
            "title": request.title,
        }
    return {
        "kind": "table",
        "id": request.id,
        "name": request.name,
        "cell": request.cell,
        "dataset": request.dataset,
        "where": None if request.where is None else to_json(request.where),
        "by": [{"name": group.name, "expr": to_json(group.expr)} for group in request.by],
        "measures": [{"name": measure.name, "fn": measure.fn} for measure in request.measures],
        "margins": request.margins,
    }
