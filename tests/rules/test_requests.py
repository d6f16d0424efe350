"""The list of requests comes from inside the sandbox, so nothing in it is believed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from gate_examples import at_least, column, cut, plot, table
from hypothesis import given
from hypothesis import strategies as st

from opensafely_lab.disclosure.requests import (
    LARGEST_FILE,
    MOST_REQUESTS,
    BadRequestList,
    RequestList,
    is_plain,
    parse,
)

TABLE: dict[str, Any] = {
    "kind": "table",
    "id": 0,
    "name": "table-1",
    "cell": 4,
    "dataset": "output/dataset.arrow",
    "where": {"op": "ge", "args": [{"column": "age", "type": "int"}, {"int": 18}]},
    "by": [{"name": "sex", "expr": {"column": "sex", "type": "str"}}],
    "measures": [{"name": "count", "fn": "count"}],
    "margins": True,
}
PLOT: dict[str, Any] = {
    "kind": "plot",
    "id": 1,
    "name": "figure-2",
    "cell": 5,
    "of": 0,
    "plot": "bar",
    "title": "People by sex",
}
LIST: dict[str, Any] = {"version": 1, "requests": [TABLE, PLOT]}


def data(obj: Any) -> bytes:
    return json.dumps(obj).encode()


def changed(change: Callable[[Any], None]) -> bytes:
    obj = deepcopy(LIST)
    change(obj)
    return data(obj)


def test_a_list_reads_back_as_it_was_written() -> None:
    requests = RequestList(
        (table({"sex": column("sex"), "age": cut("age", 18, 65)}, where=at_least("age", 18), margins=True), plot())
    )
    assert parse(requests.text().encode()) == requests
    assert parse(data(LIST)).requests[0].name == "table-1"


def test_the_text_of_a_list_is_the_same_however_the_file_was_written() -> None:
    backwards = json.dumps({key: LIST[key] for key in reversed(list(LIST))}, indent=3, ensure_ascii=False).encode()
    assert parse(backwards).text() == parse(data(LIST)).text()


def test_lists_that_differ_in_one_constant_have_different_texts() -> None:
    other = changed(lambda o: o["requests"][0]["where"]["args"][1].update(int=19))
    assert parse(other).text() != parse(data(LIST)).text()


def test_an_empty_list_is_a_list() -> None:
    assert parse(b'{"version":1,"requests":[]}').requests == ()


def set_in(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(obj: Any) -> None:
        for step in path[:-1]:
            obj = obj[step]
        obj[path[-1]] = value

    return change


T = ("requests", 0)
P = ("requests", 1)
DEEP: Any = {"column": "ill", "type": "bool"}
for _ in range(33):
    DEEP = {"op": "not", "args": [DEEP]}


@pytest.mark.parametrize(
    "change",
    [
        set_in("version", value=2),
        set_in("version", value=True),
        set_in("extra", value=1),
        set_in("requests", value={}),
        set_in("requests", value=[TABLE] * (MOST_REQUESTS + 1)),
        set_in(*T, value=[]),
        set_in(*T, "kind", value="model"),
        set_in(*T, "id", value=1),
        set_in(*T, "id", value=False),
        set_in(*T, "id", value=0.0),
        set_in(*T, "cell", value=-1),
        set_in(*T, "cell", value=None),
        set_in(*T, "cell", value=10**6),
        set_in(*T, "name", value=""),
        set_in(*T, "name", value="../../etc"),
        set_in(*T, "name", value="-rf"),
        set_in(*T, "name", value="x" * 65),
        set_in(*T, "name", value="tab\nle"),
        set_in(*T, "name", value="tabl\u202ee"),
        set_in(*T, "name", value="figure-2"),
        set_in(*T, "name", value="FIGURE-2"),
        set_in(*T, "dataset", value="/etc/passwd"),
        set_in(*T, "dataset", value="output/../../x"),
        set_in(*T, "dataset", value="output//x"),
        set_in(*T, "dataset", value="output/.osl"),
        set_in(*T, "dataset", value="output/\ud800"),
        set_in(*T, "margins", value=1),
        set_in(*T, "extra", value=1),
        set_in(*T, "where", value={"op": "system", "args": []}),
        set_in(*T, "where", value={"op": "lt", "args": [{"column": "age", "type": "int"}, {"str": "x"}]}),
        set_in(*T, "where", value={"op": "is_null", "args": [{"column": "age; drop", "type": "int"}]}),
        set_in(*T, "where", value=DEEP),
        set_in(*T, "where", value={"int": 10**19}),
        set_in(*T, "where", value="age >= 18"),
        set_in(*T, "by", value=[TABLE["by"][0]] * 7),
        set_in(*T, "by", value=[TABLE["by"][0]] * 2),
        set_in(*T, "by", value=[{"name": "Count", "expr": TABLE["by"][0]["expr"]}]),
        set_in(*T, "by", 0, "name", value="se\u200bx"),
        set_in(*T, "by", 0, "name", value=" sex"),
        set_in(*T, "by", 0, "name", value="e\u0301"),
        set_in(*T, "by", 0, "extra", value=1),
        set_in(*T, "measures", value=[]),
        set_in(*T, "measures", 0, "fn", value="max"),
        set_in(*P, "of", value=1),
        set_in(*P, "of", value=-1),
        set_in(*P, "of", value=7),
        set_in(*P, "plot", value="scatter"),
        set_in(*P, "title", value="x" * 201),
        set_in(*P, "title", value="<b>\x1b[0m</b>"),
        set_in(*P, "title", value=""),
    ],
)
def test_a_list_with_anything_unexpected_in_it_is_refused(change: Callable[[Any], None]) -> None:
    with pytest.raises(BadRequestList):
        parse(changed(change))


@pytest.mark.parametrize("key", [*TABLE])
def test_a_request_without_one_of_its_keys_is_refused(key: str) -> None:
    with pytest.raises(BadRequestList):
        parse(changed(lambda o: o["requests"][0].pop(key)))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"\xef\xbb\xbf" + data(LIST),
        b'{"version":1,"version":1,"requests":[]}',
        b'{"version":NaN,"requests":[]}',
        b'{"version":Infinity,"requests":[]}',
        b'{"version":1e999,"requests":[]}',
        b'{"version":' + b"9" * 5000 + b',"requests":[]}',
        b'{"version":1,"requests":[]} trailing',
        b'{"version":1,"requests":"\xed\xa0\x80"}',
        b"[" * 100_000,
        b'{"a":' * 20_000,
        b'{"version":1,"requests":' + b"[" * 90 + b"]" * 90 + b"}",
        b'{"version":1,"requests":[]}' + b" " * LARGEST_FILE,
        data(LIST).replace(b'"int": 18', b'"float": -Infinity'),
        data(LIST).replace(b'"int": 18', b'"int": 1e1'),
        data(LIST).replace(b'"sex"', b'"s\\u0000x"'),
        data(LIST).replace(b'"People by sex"', b'"\\ud83d"'),
    ],
)
def test_bytes_that_are_no_request_list_are_refused(raw: bytes) -> None:
    with pytest.raises(BadRequestList):
        parse(raw)


def test_brackets_inside_text_do_not_count_as_depth() -> None:
    title = "[" * 150
    assert parse(changed(set_in(*P, "title", value=title))).requests[1].title == title  # type: ignore[union-attr]


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused_and_never_crash(raw: bytes) -> None:
    with contextlib.suppress(BadRequestList):
        parse(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*TABLE]), JSON)
def test_any_value_in_any_place_is_parsed_or_refused_and_never_crashes(key: str, value: Any) -> None:
    try:
        again = parse(changed(set_in(*T, key, value=value)))
    except BadRequestList:
        return
    assert parse(again.text().encode()) == again


@given(st.text(max_size=20))
def test_plain_text_has_no_character_that_hides(text: str) -> None:
    if is_plain(text):
        assert text.isprintable()
        assert "\u202e" not in text


def test_an_error_quotes_nothing_of_the_file() -> None:
    with pytest.raises(BadRequestList) as refused:
        parse(changed(set_in(*T, "name", value="pt_7be19c40d2 !")))
    assert "7be19" not in str(refused.value)
