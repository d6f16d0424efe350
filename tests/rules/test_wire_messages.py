from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensafely_lab.wire.base import ENDS, MOVES, STATE_OF, JobCode, JobState
from opensafely_lab.wire.decode import BadMessage, decode
from opensafely_lab.wire.level4 import Failure
from opensafely_lab.wire.sentences import SENTENCES
from opensafely_lab.wire.site import AssignmentList, JobNotice, SubmitRequest

SECRET = "pt_7be19c40d2"


def request(**changes: Any) -> dict[str, Any]:
    return {
        "idempotency_key": "k" * 16,
        "project": "p",
        "workspace": "w",
        "backends": ["b"],
        "commit": "0" * 40,
        "bundle": "0" * 64,
        "action": "a",
        "parameters": {},
        "requests": "{}",
        "layout": {"outputs": [0, 2], "execution_counts": {"0": 1, "2": 2}},
        "definitions": {},
        "policy": "opensafely",
    } | changes


def read(**changes: Any) -> SubmitRequest:
    return decode(SubmitRequest, json.dumps(request(**changes)).encode())


@pytest.mark.parametrize(
    "value", [True, False, 0, -7, 2**53, 0.5, -0.0, 1e300, "", "2010-01-01", "é\n", [], [1, 2], [0.5, 1], ["a"], [True]]
)
def test_a_parameter_arrives_with_the_value_and_type_that_was_sent(value: object) -> None:
    sent = read(parameters={"x": value})
    again = decode(SubmitRequest, sent.model_dump_json().encode())
    assert again.parameters["x"] == value
    assert type(again.parameters["x"]) is type(value)
    assert again == sent


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"a": 1},
        [[1]],
        [None],
        [1, "a"],
        [True, "a"],
        2**53 + 1,
        -(2**60),
        10**400,
        [0.5, 2**53 + 1],
        "a\x00b",
        "x" * 10_001,
        [1] * 1001,
        float("nan"),
        float("inf"),
        "\ud800",
    ],
)
def test_a_parameter_that_could_change_on_its_way_is_refused(value: object) -> None:
    with pytest.raises(BadMessage):
        read(parameters={"x": value})


@pytest.mark.parametrize(
    "name", ["", "1x", "a b", "a-b", "x=1; import os", "__import__('os')", "é", "a\n", "x" * 65, "a.b"]
)
def test_a_parameter_name_that_is_no_plain_identifier_is_refused(name: str) -> None:
    with pytest.raises(BadMessage):
        read(parameters={name: 1})


@pytest.mark.parametrize(
    "change",
    [
        {"project": "../etc"},
        {"project": "a/b"},
        {"project": "a\n"},
        {"project": ".hidden"},
        {"project": ""},
        {"project": 5},
        {"project": None},
        {"commit": "HEAD"},
        {"commit": "A" * 40},
        {"commit": "0" * 41},
        {"bundle": "0" * 63},
        {"backends": []},
        {"backends": "b"},
        {"backends": ["b", "b"]},
        {"backends": ["b"] * 9},
        {"idempotency_key": "short"},
        {"requests": "x" * (256 * 1024 + 1)},
        {"requests": {"version": 1}},
        {"layout": {"outputs": [2, 1], "execution_counts": {}}},
        {"layout": {"outputs": [1, 1], "execution_counts": {}}},
        {"layout": {"outputs": [-1], "execution_counts": {}}},
        {"layout": {"outputs": [True], "execution_counts": {}}},
        {"layout": {"outputs": [1.0], "execution_counts": {}}},
        {"layout": {"outputs": [], "execution_counts": {" 1": 1}}},
        {"layout": {"outputs": [], "execution_counts": {"01": 1}}},
        {"layout": {"outputs": [], "execution_counts": {"1.0": 1}}},
        {"layout": {"outputs": [], "execution_counts": {"1": "1"}}},
        {"layout": {"outputs": []}},
        {"definitions": {"a": "x"}},
        {"definitions": {"a b": "0" * 64}},
        {"extra": 1},
        {"parameters": []},
    ],
)
def test_a_field_that_is_not_as_agreed_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        read(**change)


def test_a_field_that_is_named_twice_is_refused() -> None:
    text = json.dumps(request()).replace('"project": "p"', '"project": "p", "project": "q"')
    with pytest.raises(BadMessage, match="twice"):
        decode(SubmitRequest, text.encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b"1", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"9" * 10_000, b"{}x"],
)
def test_what_is_no_message_is_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(SubmitRequest, data)
    assert caught.value.sentence
    assert caught.value.next_step


def test_a_message_over_its_limit_is_not_even_parsed() -> None:
    with pytest.raises(BadMessage, match="larger"):
        decode(JobNotice, b"[" * 3_000_000)


@pytest.mark.parametrize(
    "change",
    [{"project": f"{SECRET} /"}, {SECRET: 1}, {"parameters": {f"{SECRET}-": 1}}, {"parameters": {"x": {SECRET: 1}}}],
)
def test_a_refusal_names_our_field_and_never_what_was_in_it(change: dict[str, Any]) -> None:
    with pytest.raises(BadMessage) as caught:
        read(**change)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(sorted(request())), json_values)
def test_whatever_stands_in_a_field_it_is_taken_as_it_is_or_refused(field: str, value: object) -> None:
    try:
        found = read(**{field: value})
    except BadMessage:
        return
    assert json.loads(found.model_dump_json()) == json.loads(json.dumps(request(**{field: value})))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_refusal(data: bytes) -> None:
    for model in (SubmitRequest, JobNotice, AssignmentList):
        with pytest.raises(BadMessage):
            decode(model, data)


def notice(state: str, code: str) -> JobNotice:
    return decode(JobNotice, json.dumps({"job": "a" * 16, "state": state, "code": code}).encode())


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("code", list(JobCode))
def test_a_notice_has_a_code_with_its_own_state(state: JobState, code: JobCode) -> None:
    if STATE_OF[code] is state and code is not JobCode.CREATED:
        assert notice(state, code).code is code
    else:
        with pytest.raises(BadMessage):
            notice(state, code)


def test_a_notice_has_no_room_for_text() -> None:
    assert set(JobNotice.model_fields) == {"job", "state", "code"}
    with pytest.raises(BadMessage):
        notice("failed", SECRET)


@pytest.mark.parametrize("failure_class", ["ValueError: " + SECRET, "Out of memory", "", "x" * 41, "a_b", "7be"])
def test_a_failure_has_a_class_that_looks_like_one_of_ours(failure_class: str) -> None:
    with pytest.raises(BadMessage):
        decode(Failure, json.dumps({"failure_class": failure_class, "cell": 1}).encode())


def test_every_code_has_one_sentence_and_a_next_step() -> None:
    assert set(SENTENCES) == set(JobCode)
    texts = [said.sentence for said in SENTENCES.values()]
    assert len(set(texts)) == len(texts)
    for said in SENTENCES.values():
        assert said.sentence.endswith(".")
        assert said.next_step.endswith(".")


def test_a_job_only_moves_forwards_and_ends_once() -> None:
    assert set(MOVES) == set(JobCode)
    for code, following in MOVES.items():
        assert code not in following
        assert all(code not in MOVES[later] for later in following)
        assert (following == frozenset()) == (code in ENDS)
        assert code in ENDS or following >= ENDS
