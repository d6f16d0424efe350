"""A submitted notebook is read as text with limits; output is seen and can be stripped."""

from __future__ import annotations

import contextlib
import json
import time

import nbformat
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from opensafely_lab.errors import LabError
from opensafely_lab.notebooks.parameters import declared, merge
from opensafely_lab.notebooks.prepared import literals_beside, prepare, string_literals
from opensafely_lab.notebooks.source import NotebookError, SubmittedNotebook, strip, write
from opensafely_lab.study.parameters import ParameterError, ParameterType, bind, make_spec


def code(source: object, **more: object) -> dict[str, object]:
    return {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None, **more}


def tagged(source: str) -> dict[str, object]:
    return code(source, metadata={"tags": ["parameters"]})


def markdown(source: str, **more: object) -> dict[str, object]:
    return {"cell_type": "markdown", "source": source, "metadata": {}, **more}


def notebook(*cells: object, **metadata: object) -> bytes:
    return json.dumps({"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}).encode()


def parsed(*cells: object) -> SubmittedNotebook:
    return SubmittedNotebook.parse(notebook(*cells))


OUTPUT = {"output_type": "stream", "name": "stdout", "text": "patient 12345"}
USED = notebook(
    code(["a = 1\n", "a"], outputs=[OUTPUT], execution_count=3, id="x1", metadata={"execution": {}, "tags": ["k"]}),
    markdown("hello", attachments={"p.png": {"image/png": "aGk="}}),
    widgets={"application/vnd.jupyter.widget-state+json": {"state": {}}},
    kernelspec={"name": "python3"},
    language_info={"name": "python", "version": "3.11.7"},
    papermill={"x": 1},
)  # fmt: skip


def test_a_notebook_is_its_cells_and_whether_output_was_saved_in_it():
    read = SubmittedNotebook.parse(USED)
    assert [(c.kind, c.source, c.tags) for c in read.cells] == [("code", "a = 1\na", ("k",)), ("markdown", "hello", ())]
    assert read.has_outputs
    assert not parsed(code("1")).has_outputs
    assert SubmittedNotebook.parse(notebook(code("1"), widgets={"state": 1})).has_outputs


def test_stripping_removes_output_counts_widgets_and_timings_and_keeps_the_rest():
    stripped = strip(USED)
    assert b"12345" not in stripped
    assert not SubmittedNotebook.parse(stripped).has_outputs
    document = json.loads(stripped)
    assert document["metadata"] == {"kernelspec": {"name": "python3"}, "language_info": {"name": "python"}}
    first, second = document["cells"]
    assert (first["outputs"], first["execution_count"], first["metadata"]) == ([], None, {"tags": ["k"]})
    assert second["attachments"]
    assert strip(stripped) == stripped


def test_a_notebook_that_jupyter_saved_without_output_is_left_byte_for_byte():
    saved = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("é"), nbformat.v4.new_code_cell("a\nb")],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    data = (nbformat.writes(saved) + "\n").encode()
    assert strip(data) == data


def test_a_notebook_of_another_editor_without_output_is_left_byte_for_byte():
    saved = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("a")])
    data = json.dumps(saved).encode()
    assert strip(data) == data


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not JSON"),
        (b"print(1)", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b'{"cells": [NaN]}', "not JSON"),
        (b"[]", "no list of cells"),
        (b"{}", "no list of cells"),
        (b'{"worksheets": [], "nbformat": 3}', "old format"),
        (b'{"cells": [], "nbformat": 5}', "not in format 4"),
        (b'{"cells": [1], "nbformat": 4}', "Cell 1"),
        (b'{"cells": [{"cell_type": "evil"}], "nbformat": 4}', "Cell 1"),
        (notebook(code(3)), "source that is no text"),
        (notebook(code(["a", 3])), "source that is no text"),
        (notebook(code("a\ud800")), "broken character"),
        (b" " * 10_000_001, "the limit is 10 MB"),
        (notebook(*[code("1")] * 2001), "the limit is 2000"),
        (b'{"nbformat": 4, "cells": [], "metadata": ' + b"[" * 300 + b"]" * 300 + b"}", "nested"),
        (b'{"cells": [], "nbformat": ' + b"9" * 100_000 + b"}", "not JSON"),
    ],
)  # fmt: skip
def test_what_is_no_notebook_is_refused_quickly_with_a_sentence(data, told):
    began = time.thread_time()
    with pytest.raises(NotebookError, match=told) as caught:
        SubmittedNotebook.parse(data)
    assert caught.value.next_step
    assert time.thread_time() - began < 1


def test_parameters_are_the_simple_values_of_the_tagged_cell():
    specs = declared(
        parsed(
            code("x = 1"),
            tagged(
                '"""What can be changed."""\n# a comment\nindex_date = "2010-01-01"  # start of follow-up\n'
                'bands = [50, 60]\nrate: float = 1\nadults = True\nlow = -3\nnames = ("a", "b")\ndrug = "x"\n'
                'mixed = [1, 2.5]\nnone: list[int] = []\n'
            ),
        )
    )  # fmt: skip
    assert {name: spec.type.value for name, spec in specs.items()} == {
        "index_date": "date", "bands": "list[int]", "rate": "float", "adults": "bool", "low": "int",
        "names": "list[str]", "drug": "str", "mixed": "list[float]", "none": "list[int]",
    }  # fmt: skip
    assert specs["index_date"].description == "start of follow-up"
    assert specs["low"].default == -3
    assert specs["rate"].default == 1.0
    assert declared(parsed(code("x = 1"))) == {}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("x = f()", "Line 1 .* must be a number"),
        ("import os\nx = 1", "Line 1 .* no plain assignment"),
        ("x = 1\nx += 1", "Line 2 .* no plain assignment"),
        ("a, b = 1, 2", "no plain assignment"),
        ("a.b = 1", "no plain assignment"),
        ("x: int", "no plain assignment"),
        ("x = None", "must be a number"),
        ("x = [1, 'a']", "must be a number"),
        ("x = [[1]]", "must be a number"),
        ("x = {}", "must be a number"),
        ("x = b'1'", "must be a number"),
        ("x = f'{y}'", "must be a number"),
        ("é = 1", "plain Python name"),
        ("x = 1e999", "finite"),
        ("x = " + "9" * 5000, "cannot read"),
        ("x = 99999999999999999999", "must be between"),
        ("x = '\\ud800'", "cannot be shown"),
        ("x = [", "cannot read line 1"),
        ("%time x = 1", "cannot read line 1"),
        ("x = " + "(" * 3000 + ")" * 3000, "cannot read"),
        ("x = " + "-" * 30_000 + "1", "."),
        ("x = '" + "a" * 60_000 + "'", "longer than"),
        ("\n".join(f"x{n} = 1" for n in range(101)), "up to 100"),
    ],
)
def test_a_parameters_cell_with_anything_else_is_refused(source, told):
    with pytest.raises(LabError, match=told):
        declared(parsed(tagged(source)))


def test_two_parameters_cells_are_refused():
    with pytest.raises(NotebookError, match=r"2 cells are tagged `parameters` \(cells 1, 2\)"):
        declared(parsed(tagged("x = 1"), tagged("y = 1")))


def test_project_yaml_adds_bounds_to_what_the_notebook_declares():
    specs = merge(
        declared(parsed(tagged('d = "2010-01-01"\nn = 3\nother = "x"'))),
        {"d": make_spec("d", {"type": "date", "min": "2000-01-01"}), "n": make_spec("n", {"type": "float", "max": 5})},
    )
    assert bind(specs, {}, from_text=True) == {"d": "2010-01-01", "n": 3.0, "other": "x"}
    with pytest.raises(ParameterError, match="at most 5"):
        bind(specs, {"n": "6"}, from_text=True)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"zz": {"type": "int"}}, "that the notebook does not declare"),
        ({"n": {"type": "str"}}, "is str in project.yaml, and the notebook's value is a int"),
        ({"n": {"type": "int", "max": 2}}, "own value does not fit"),
    ],
)
def test_a_notebook_and_project_yaml_that_disagree_are_refused(said, told):
    with pytest.raises(ParameterError, match=told):
        merge(declared(parsed(tagged("n = 3"))), {name: make_spec(name, text) for name, text in said.items()})


def test_an_empty_list_takes_its_type_from_project_yaml():
    specs = merge(declared(parsed(tagged("n = []"))), {"n": make_spec("n", {"type": "list[int]"})})
    assert specs["n"].type is ParameterType.LIST_INT


def test_a_prepared_notebook_has_our_kernel_and_nothing_of_the_authors_metadata():
    hostile = SubmittedNotebook.parse(
        notebook(
            markdown("hi", attachments={"a": {"text/plain": "12345"}}, metadata={"x": "12345"}),
            tagged("n = 1"),
            code("", id="blank"),
            code("n", metadata={"tags": ["injected-parameters", "raises-exception"], "x": "12345"}),
            code("never", metadata={"tags": ["skip-execution"]}),
            code("n + 1", outputs=[OUTPUT]),
            kernelspec={"name": "evil", "language": "bash"},
            language_info={"name": "bash"},
        )
    )
    prepared = prepare(hostile)
    assert b"12345" not in prepared.notebook
    assert b"evil" not in prepared.notebook
    assert b"injected" not in prepared.notebook
    assert prepared.ordinals == (1, None, 3, 5)
    assert prepare(hostile, injects=False).ordinals == (1, 3, 5)
    assert prepare(parsed(code("1"))).ordinals == (None, 0)
    nbformat.validate(nbformat.reads(prepared.notebook.decode(), as_version=4))


def test_string_literals_are_the_texts_of_the_code():
    found = string_literals(
        parsed(code("%matplotlib inline\nx = 'a' + f'b{x}c'"), code("!ls 'no'"), code("x = ["), markdown("'m'"))
    )
    assert found == {"a", "b", "c"}  # fmt: skip


def test_literals_beside_a_column_are_those_of_its_own_comparison_or_call():
    found = literals_beside(
        parsed(
            code("df[df.sex == 'F'].to_csv('out.csv')"),
            code("ax.bar(['F', 'M'], df.sex.value_counts())"),
            code("df[df['region'].isin(['East', 'London'])]"),
            code("LEVELS = {'imd': ['1', '2'], 'other': 'x'}"),
            code("safe.table(data, by=[data.died], name='t1')"),
            code("df.died ="),
        ),
        ["sex", "region", "died", "imd"],
    )
    assert found == {"sex": {"F", "M"}, "region": {"East", "London"}, "imd": {"1", "2"}}  # fmt: skip


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
json_values = st.recursive(
    leaves,
    lambda v: st.lists(v, max_size=3)
    | st.dictionaries(
        st.sampled_from(["cells", "cell_type", "source", "metadata", "tags", "nbformat"]) | st.text(max_size=3),
        v,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
cells = st.fixed_dictionaries(
    {"cell_type": st.sampled_from(["code", "markdown", "raw"]) | json_values, "source": st.text() | json_values},
    optional={"metadata": st.just({"tags": ["parameters"]}) | json_values, "outputs": json_values},
)


@settings(deadline=None, max_examples=examples(200))
@given(
    st.binary()
    | json_values.map(lambda v: json.dumps(v).encode())
    | st.builds(lambda c, m: json.dumps({"cells": c, "metadata": m, "nbformat": 4}).encode(), st.lists(cells), leaves)
)  # fmt: skip
def test_rubbish_gives_a_sentence_and_never_another_error(data):
    with contextlib.suppress(LabError):
        read = SubmittedNotebook.parse(data)
        declared(read)
        prepare(read)
        string_literals(read)
        literals_beside(read, ["sex"])
    with contextlib.suppress(LabError):
        assert strip(strip(data)) == strip(data)


@settings(deadline=None, max_examples=examples(200))
@given(st.text(alphabet="x=1[](){}'\"\\\n#:, -_aé.%!\x00fb"))
def test_any_parameters_cell_gives_specs_or_a_sentence(source):
    data = write({"cells": [tagged(source)], "metadata": {}, "nbformat": 4})
    with contextlib.suppress(LabError):
        specs = declared(SubmittedNotebook.parse(data))
        assert list(bind(specs, {}, from_text=True)) == list(specs)
