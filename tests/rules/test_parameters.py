"""Parameters are data: a name that was declared, a value of a bounded type, or a sentence."""

from __future__ import annotations

import time

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from opensafely_lab.errors import LabError
from opensafely_lab.study.parameters import (
    ParameterError,
    ParameterSpec,
    ParameterType,
    bind,
    make_spec,
    parse_text,
    parse_value,
)

SPECS = {
    "index_date": make_spec("index_date", {"type": "date", "default": "2010-01-01", "min": "2000-01-01"}),
    "age_bands": make_spec("age_bands", {"type": "list[int]", "default": [50, 60], "min": 0, "max": 120}),
    "drug": make_spec("drug", {"type": "str", "default": "naproxen", "choices": ["naproxen", "diclofenac"]}),
    "rate": make_spec("rate", {"type": "float", "default": 0.5}),
    "adults": make_spec("adults", {"type": "bool", "default": True}),
    "count": make_spec("count", {"type": "int", "default": 3}),
    "label": make_spec("label", {"type": "str", "default": "x"}),
    "names": make_spec("names", {"type": "list[str]", "default": ["a"]}),
    "dates": make_spec("dates", {"type": "list[date]", "default": ["2010-01-01"]}),
}


def test_what_is_not_given_has_its_default_and_the_order_is_the_declared_one():
    bound = bind(SPECS, {"drug": "diclofenac"}, from_text=True)
    assert list(bound) == list(SPECS)
    assert bound["drug"] == "diclofenac"
    assert bound["index_date"] == "2010-01-01"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("index_date", "2015-03-31", "2015-03-31"),
        ("age_bands", "[18, 40]", [18, 40]),
        ("rate", "1e-3", 0.001),
        ("rate", "2", 2.0),
        ("adults", "False", False),
        ("count", " -12 ", -12),
        ("label", " a 'quoted' \"text\" with \\ and 雪 ", " a 'quoted' \"text\" with \\ and 雪 "),
        ("names", '["a", "b [c]"]', ["a", "b [c]"]),
        ("dates", '["2012-02-29"]', ["2012-02-29"]),
    ],
)
def test_typed_text_becomes_a_value_of_the_declared_type(name, text, value):
    bound = bind(SPECS, {name: text}, from_text=True)[name]
    assert bound == value
    assert type(bound) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("index_date", "2015-02-30", "a date such as"),
        ("index_date", "31/03/2015", "a date such as"),
        ("index_date", "20150331", "a date such as"),
        ("index_date", "1999-12-31", "at least 2000-01-01"),
        ("age_bands", "50", "a list in which each item is a whole number"),
        ("age_bands", "[50, 130]", "at most 120"),
        ("age_bands", "[50, 1.5]", "a whole number"),
        ("age_bands", "[true]", "a whole number"),
        ("age_bands", "[[1]]", "a whole number"),
        ("age_bands", "__import__('os')", "a list in which"),
        ("age_bands", "[" * 40_000, "a list in which"),
        ("age_bands", "[1" + ",1" * 300 + "]", "301 items"),
        ("drug", "aspirin", "one of its choices"),
        ("rate", "nan", "a number"),
        ("rate", "inf", "a number"),
        ("rate", "1e999", "finite"),
        ("rate", "1_0", "a number"),
        ("adults", "yes", "true or false"),
        ("count", "1.0", "a whole number"),
        ("count", "9007199254740992", "must be between"),
        ("count", "9" * 1_000_000, "longer than"),
        ("count", "9" * 40_000, "a whole number"),
        ("label", "\ud800", "cannot be shown"),
        ("label", "a\x00b", "cannot be shown"),
        ("label", "a\u202eb", "cannot be shown"),
        ("label", "x" * 1001, "longer than 1000"),
        ("names", "[NaN]", "a list in which"),
        ("names", '["\\ud800"]', "cannot be shown"),
    ],
)
def test_badly_typed_values_are_refused_quickly_with_a_sentence(name, text, told):
    began = time.thread_time()
    with pytest.raises(ParameterError) as caught:
        bind(SPECS, {name: text}, from_text=True)
    assert time.thread_time() - began < 0.5
    assert told in caught.value.sentence
    assert caught.value.parameter == name
    assert len(str(caught.value)) < 400


class Crafted(str):
    def __str__(self) -> str:
        return "__import__('os').system('true')"

    __repr__ = __str__


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", True),
        ("count", 1.0),
        ("count", 10**100),
        ("rate", float("nan")),
        ("rate", float("-inf")),
        ("rate", 10**400),
        ("label", Crafted("x")),
        ("label", b"x"),
        ("label", None),
        ("names", {"a": 1}),
        ("names", "a"),
        ("adults", 1),
    ],
)
def test_values_of_another_type_are_refused(name, value):
    with pytest.raises(ParameterError):
        bind(SPECS, {name: value}, from_text=False)


@pytest.mark.parametrize(
    "name",
    ["x=1; import os; os.system('id'); y", "unknown", "", "class", "__builtins__", "a b", "é", "x" * 65, "ſ"],
)
def test_a_name_that_was_not_declared_or_is_code_is_refused(name):
    with pytest.raises(ParameterError, match="There is no parameter"):
        bind(SPECS, {name: "1"}, from_text=True)
    if name != "unknown":
        with pytest.raises(ParameterError, match="Parameter name"):
            make_spec(name, {"type": "int"})
        with pytest.raises(ParameterError):  # even if somebody built the spec by hand
            bind({name: ParameterSpec(name, ParameterType.INT, 1)}, {}, from_text=True)


def test_a_parameter_without_a_default_must_be_given():
    specs = {"drug": make_spec("drug", {"type": "str"})}
    with pytest.raises(ParameterError, match=r"has no value\. Give one: -p drug VALUE"):
        bind(specs, {}, from_text=True)


def test_too_many_parameters_are_refused():
    with pytest.raises(ParameterError, match="up to 100"):
        bind(SPECS, {f"p{n}": "1" for n in range(101)}, from_text=True)


@settings(deadline=None, max_examples=examples(100))
@given(st.sampled_from(sorted(SPECS)), st.text())
def test_any_text_is_a_value_or_a_sentence(name, text):
    try:
        value = parse_text(SPECS[name], text)
    except LabError:
        return
    assert parse_value(SPECS[name], value) == value


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=examples(100))
@given(st.sampled_from(sorted(SPECS)), values)
def test_any_value_is_of_the_type_or_a_sentence(name, value):
    try:
        found = parse_value(SPECS[name], value)
    except LabError:
        return
    assert found == value


@settings(deadline=None, max_examples=examples(100))
@given(st.text(max_size=10), st.dictionaries(st.sampled_from(["type", "min", "max", "choices", "default"]), values))
def test_any_settings_make_a_spec_or_a_sentence(name, said):
    try:
        spec = make_spec(name, said)
    except LabError:
        return
    assert spec.name.isidentifier()
