"""Definitions are somebody's Python: they are evaluated elsewhere, and what comes back is not believed."""

import json
import subprocess
import sys
from pathlib import PurePosixPath

import pytest
import studies
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from opensafely_lab.ehrql import loader, model_json
from opensafely_lab.ehrql.model import DatasetModel

DEFINITION = PurePosixPath("analysis/definition.py")
GOOD = """
from ehrql import create_dataset, get_parameter
from ehrql.tables.core import patients
dataset = create_dataset()
dataset.define_population(patients.exists_for_patient())
dataset.sex = patients.sex
"""


def evaluate(folder, source, *args, **files):
    (folder / "analysis").mkdir(exist_ok=True)
    (folder / "analysis" / "definition.py").write_text(source)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return loader.evaluate(DEFINITION, folder, studies.plain_process, args)


def test_a_definition_comes_back_as_a_value(tmp_path):
    model = evaluate(tmp_path, GOOD)
    assert isinstance(model, DatasetModel)
    assert [variable.name for variable in model.variables] == ["sex"]


def test_a_study_has_its_habits(tmp_path):
    """Modules from the root, prints, sys.argv, argparse, parameters: as published studies do."""
    (tmp_path / "codelists").mkdir()
    (tmp_path / "codelists" / "c.csv").write_text("\ufeffcode,group\n100000,a\n 200000 ,b\n,c\n100000,a\n")
    source = GOOD + (
        "import sys, argparse\nfrom shared import LIMIT\nprint('hello')\n"
        "from ehrql import codelist_from_csv, days, claim_permissions\n"
        "import ehrql.tables.core as core, opensafely_lab.ehrql.tables.core as same\n"
        "assert core is same and core.patients is patients\n"
        "assert sys.argv[1:] == ['--start', '2020-01-01', '--n', '3', '--n', '4']\n"
        "assert get_parameter('start') == '2020-01-01'\n"
        "assert get_parameter('n', type=int) == [3, 4]\n"
        "assert get_parameter('absent', default=5) == 5\n"
        "codes = codelist_from_csv('codelists/c.csv', column='code')\n"
        "assert codes == ['100000', '200000'], codes\n"
        "claim_permissions('appointments')\n"
        "dataset.old = patients.age_on(get_parameter('start')) > LIMIT\n"
    )
    model = evaluate(tmp_path, source, "--start", "2020-01-01", "--n", "3", "--n", "4", shared="LIMIT = 65\n")
    assert [variable.name for variable in model.variables] == ["sex", "old"]
    assert model.permissions == ("appointments",)


@pytest.mark.parametrize(
    ("source", "line", "told"),
    [
        ("x = 1\n", None, "defines no `dataset`"),
        ("dataset = 3\n", None, "not a dataset"),
        ("from ehrql import create_dataset\ndataset = create_dataset()\n", None, "no population"),
        ("x = (\n", 1, "not Python"),
        (GOOD + "dataset.sex = patients.sex\n", 7, "already a column"),
        (GOOD + "dataset.x = patients.sexx\n", 7, "Did you mean sex"),
        (GOOD + "dataset.x = nowhere\n", 7, "not defined"),
        ("from ehrql import create_measures\n", 1, "not part of this version"),
        ("import nonsense\n", 1, "nonsense"),
        ("raise ValueError('a' * 10_000)\n", 1, "ValueError: aaa"),
        ("import sys\nsys.exit(3)\n", 2, "ended the process"),
        ("import os\nos._exit(3)\n", None, "did not finish"),
        (GOOD + "get_parameter('month')\n", 7, "month was not given"),
        (GOOD + "x = patients.date_of_birth.year\nfor _ in range(3000): x = x + 1\ndataset.x = x\n", None, "nested"),
    ],
)
def test_a_mistake_is_a_sentence_with_its_line(tmp_path, source, line, told):
    with pytest.raises(loader.DefinitionError, match=told) as error:
        evaluate(tmp_path, source)
    assert error.value.line == line
    assert len(str(error.value)) < 1500
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"version":1}', b'{"error":{"sentence":3,"line":"x"}}',
        b'{"error":"\x00"}', b'{"error":{"sentence":"\\u202e\\ud800 \\n x"}}',
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_refused(answer):
    with pytest.raises(loader.DefinitionError) as error:
        loader.parse_answer(answer, DEFINITION)
    assert error.value.sentence.isprintable()


def valid():
    return json.loads(
        """{"version":1,"nodes":[{"table":"core.patients"},{"exists":0},{"column":"sex","of":0},
        {"table":"core.clinical_events"},{"column":"date","of":3},{"op":"gt","args":[4,{"date":"2020-01-01"}]},
        {"filter":3,"condition":5},{"sort":6,"by":4},{"pick":7,"position":"last"},{"column":"numeric_value","of":8}],
        "population":1,"variables":[["sex",2],["value",9]],"dummy_data":null,"permissions":[]}"""
    )


def test_the_example_is_valid():
    model = model_json.dataset_from_json(valid())
    assert model_json.dataset_from_json(json.loads(model_json.text(model))) == model


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("nodes", 0, "table"), "os.path"),
        (("nodes", 0, "table"), "core.Any"),
        (("nodes", 0, "table"), "core.patients.x"),
        (("nodes", 0), {"table": "core.patients", "columns": []}),
        (("nodes", 1, "exists"), 1),
        (("nodes", 1, "exists"), -1),
        (("nodes", 1, "exists"), True),
        (("nodes", 1, "exists"), 10**30),
        (("nodes", 1, "exists"), {"int": 1}),
        (("nodes", 2, "column"), "nonsense"),
        (("nodes", 2, "column"), ["sex"]),
        (("nodes", 5, "op"), "system"),
        (("nodes", 5, "op"), "__class__"),
        (("nodes", 5, "args"), [4, {"str": "2020-01-01"}]),
        (("nodes", 5, "args"), [4, {"date": "2020-13-01"}]),
        (("nodes", 5, "args"), [4, {"date": 5}]),
        (("nodes", 5, "args"), "ab"),
        (("nodes", 7, "by"), 2),
        (("nodes", 7, "position"), "middle"),
        (("nodes", 7, "pick"), 6),
        (("population",), 2),
        (("population",), {"bool": True}),
        (("variables",), [["sex", 2], ["sex", 2]]),
        (("variables",), [["patient_id", 2]]),
        (("variables",), [["x" * 10_000, 2]]),
        (("variables",), [["x", 4]]),
        (("variables",), [["x"]]),
        (("version",), 2),
        (("version",), True),
        (("permissions",), ["a\n"]),
        (("dummy_data",), {"population_size": 1}),
    ],
)
def test_what_is_not_a_meaningful_query_cannot_be_read(path, value):
    obj = valid()
    at = obj
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(TypeError):
        model_json.dataset_from_json(obj)


def test_queries_are_bounded():
    obj = valid()
    obj["nodes"] += [{"op": "not", "args": [1 if i == 0 else 9 + i]} for i in range(2_000)]
    with pytest.raises(TypeError, match="deeply"):
        model_json.dataset_from_json(obj)
    obj = valid()
    obj["nodes"] += [{"op": "or", "args": [1 if i == 0 else 9 + i] * 2} for i in range(60)]
    obj["population"] = 69
    with pytest.raises(TypeError, match="repeats"):
        model_json.dataset_from_json(obj)
    obj["nodes"] = [{"table": "core.patients"}] * 200_000
    with pytest.raises(TypeError, match="too many"):
        model_json.dataset_from_json(obj)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(0),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["table", "column", "of", "op", "args", "filter", "condition", "int", "date", "nodes"]), inner
    ),
)  # fmt: skip


@settings(max_examples=examples(30), deadline=None)
@given(nodes=st.lists(json_values, max_size=2), top=json_values)
def test_no_rubbish_gets_past_the_reader_in_another_way_than_refused(nodes, top):
    obj = valid() | {"nodes": valid()["nodes"] + nodes, "population": top}
    with pytest.raises(TypeError):
        model_json.dataset_from_json(obj)


def test_evaluating_a_definition_imports_no_database():
    """What runs in a job's sandbox finds only the extra `job` there."""
    code = (
        "import sys\n"
        "for name in ('duckdb', 'sqlglot', 'pydantic', 'fastapi', 'pyarrow', 'pandas'): sys.modules[name] = None\n"
        "import opensafely_lab.ehrql.evaluate_inside, opensafely_lab.ehrql.loader, opensafely_lab.expressions.static\n"
        "import opensafely_lab.ehrql.tables.core\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(studies.ROOT)})


def test_ehrql_is_our_package_wherever_no_other_is_installed(tmp_path):
    pth = (studies.ROOT / "opensafely_lab" / "ehrql" / "opensafely_lab_ehrql.pth").read_text()
    code = pth + (
        "import ehrql, pickle\n"
        "import opensafely_lab.ehrql as ours\n"
        "assert ehrql is ours and ours.__name__ == 'opensafely_lab.ehrql' == ours.__spec__.name\n"
        "from ehrql.tables.core import patients\n"
        "import ehrql.tables.core, opensafely_lab.ehrql.tables.core as core\n"
        "assert ehrql.tables.core is core and core.patients is patients\n"
        "assert pickle.loads(pickle.dumps(ehrql.Dataset)) is ours.Dataset\n"
        "try: import ehrql.nonsense\n"
        "except ModuleNotFoundError as e: assert 'nonsense' in str(e)\n"
        "else: raise SystemExit('found nonsense')\n"
    )
    (tmp_path / "ehrql").mkdir()  # a folder of that name is no package
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PYTHONPATH": str(studies.ROOT)})
    real = tmp_path / "site"
    real.mkdir()
    (real / "ehrql.py").write_text("real = True\n")
    yields = pth + "import ehrql\nassert ehrql.real\n"
    subprocess.run([sys.executable, "-c", yields], check=True, env={"PYTHONPATH": f"{studies.ROOT}:{real}"})
