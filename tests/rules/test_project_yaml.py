"""project.yaml: what published studies write is read, and every mistake is a sentence with its line."""

from __future__ import annotations

import time
from pathlib import PurePosixPath

import pytest
import yaml
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from opensafely_lab.errors import LabError
from opensafely_lab.study.patterns import matches
from opensafely_lab.study.project import ProjectError, UnknownAction, parse_project, read_project

STUDY = """\
version: "5.0"
actions:
  generate_dataset:
    run: >
      ehrql:v1 generate-dataset analysis/dataset_definition.py
      --output output/dataset.arrow --dummy-tables dummy_tables
      -- --start 2020-01-01
    outputs:
      highly_sensitive:
        dataset: output/dataset.arrow
  bleeding:
    run: notebook:v1 analysis/gi_bleeding.ipynb
    needs: [generate_dataset]
    config:
      parameters:
        index_date: {type: date, default: 2010-01-01, min: 2000-01-01}
        age_bands: {type: "list[int]", default: [50, 60], min: 0, max: 120}
        drug: {type: str, choices: [diclofenac, naproxen]}
  table:
    run: python:v2 python analysis/table.py --in output/dataset.arrow
    needs:
      - generate_dataset
      - bleeding
    outputs:
      moderately_sensitive:
        table: output/tables/*.csv
"""


def action(body: str, version: str = "5", rest: str = "") -> str:
    return f"version: {version}\nactions:\n  a: {{{body}}}\n{rest}"


def mistakes(text: str) -> list[str]:
    with pytest.raises(ProjectError) as caught:
        parse_project(text)
    assert caught.value.next_step
    return [str(mistake) for mistake in caught.value.mistakes]


def refusal(text: str) -> LabError | None:
    try:
        parse_project(text)
    except LabError as error:
        return error
    return None


def test_a_study_is_read_into_actions_needs_outputs_and_parameters():
    project = parse_project(STUDY)
    assert list(project.actions) == ["generate_dataset", "bleeding", "table"]
    bleeding = project.action("bleeding")
    assert bleeding.notebook == PurePosixPath("analysis/gi_bleeding.ipynb")
    assert bleeding.outputs == ()
    assert bleeding.parameters["index_date"].default == "2010-01-01"
    assert bleeding.parameters["age_bands"].default == [50, 60]
    assert [a.name for a in project.order("table")] == ["generate_dataset", "bleeding", "table"]
    assert project.warnings == ()


def test_the_inputs_of_an_action_are_the_datasets_that_it_needs():
    (extract,) = parse_project(STUDY).inputs("bleeding")
    assert extract.output == PurePosixPath("output/dataset.arrow")
    assert extract.definition == PurePosixPath("analysis/dataset_definition.py")
    assert extract.dummy_tables == PurePosixPath("dummy_tables")
    assert extract.user_args == ("--start", "2020-01-01")


def test_a_notebook_finds_its_action_or_is_told_how_to_get_one():
    project = parse_project(STUDY)
    assert project.action_of(PurePosixPath("analysis/gi_bleeding.ipynb")).name == "bleeding"
    with pytest.raises(UnknownAction, match=r"run by no action.*notebook:v1 analysis/new\.ipynb"):
        project.action_of(PurePosixPath("analysis/new.ipynb"))
    with pytest.raises(UnknownAction, match="Its actions are: generate_dataset, bleeding, table"):
        project.action("bleding")


def test_one_notebook_may_be_run_by_two_actions_that_differ_in_parameters():
    text = """
version: 5
actions:
  a: {run: "notebook:v1 n.ipynb", config: {parameters: {drug: {type: str, default: x}}}}
  b: {run: "notebook:v1 n.ipynb", config: {parameters: {drug: {type: str, default: y}}}}
"""
    project = parse_project(text)
    with pytest.raises(UnknownAction, match="run by 2 actions: a, b"):
        project.action_of(PurePosixPath("n.ipynb"))


@pytest.mark.parametrize("version", ["1", "'1.0'", "2.0", "4", '"5.0"', "5"])
def test_published_versions_are_read_and_old_ones_warned_about(version):
    project = parse_project(action("run: 'python:v2 x', outputs: {highly_sensitive: {o: x.csv}}", version))
    assert bool(project.warnings) == ("5" not in version)


def test_version_three_needs_expectations_and_four_refuses_them():
    body = "run: 'cohortextractor:latest generate_cohort', outputs: {highly_sensitive: {cohort: output/input.csv}}"
    assert parse_project(action(body, "'3.0'", "expectations: {population_size: 1000}")).version == 3
    assert "expectations" in mistakes(action(body, "3"))[0]
    found = mistakes(action(body, "4", "expectations: {population_size: 1000}"))
    assert any("no longer used" in m for m in found)
    assert any("cohortextractor" in m for m in found)


OUTPUT = "outputs: {highly_sensitive: {o: x.csv}}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it is empty"),
        ("# only a comment\n", "it is empty"),
        ("~", "it is empty"),
        ("- version: 5\n", "line 1: it is a list"),
        ("version", "line 1: it is a single text"),
        ("version: 5", "it has no `actions`"),
        ("version: 5\nactions: []", "line 2: `actions` must be a mapping"),
        ("version: 5\nactions: {}", "line 2: `actions` has no action in it"),
        ("version: 6\nactions: {a: {run: 'python:v2 x', " + OUTPUT + "}}", "line 1: version 6 does not exist"),
        ("version: true\nactions: {a: {run: 'python:v2 x', " + OUTPUT + "}}", "line 1: `version` must be a number"),
        ("actions: {a: {run: 'python:v2 x', " + OUTPUT + "}}", "it has no `version`"),
        ("version: 5\nactions:\n\ta: 1", "line 3: it is indented with a tab"),
        ("version: 5\nversion: 5\nactions: {a: {run: 'python:v2 x', " + OUTPUT + "}}", "already used on line 1"),
        ("version: 5\n---\nactions: 1", "line 2: a second YAML document"),
        ("version: 5\nactions: !!python/object:os.system x", "line 2: it uses a YAML tag"),
        ("a: *b", "line 1: `*b` refers to nothing"),
        ("a: &b [*b]", "refers to nothing"),
        ("a: 'x", "line 1: a quote is opened here"),
        ("a: b: c", "line 1: there is a second `: ` here"),
        ("a: \x07", "character that YAML does not allow"),
        ("? [a]\n: b", "a key must be a word"),
        (action("run: 'python:v2 x', " + OUTPUT, rest="stages: 1"), "line 4: there is the unexpected key `stages`"),
        (action("run: 'python:v2 x', need: [b], " + OUTPUT), "did you mean `needs`"),
        (action(OUTPUT), "line 3: action `a` has no `run`"),
        (action("run: [x], " + OUTPUT), "has a `run` that is no text"),
        (action("run: '', " + OUTPUT), "has an empty `run`"),
        (action("run: 'python x', " + OUTPUT), "uses `python` without a version"),
        (action("run: '$(rm) x', " + OUTPUT), "has a `run` that begins with `$(rm)`"),
        (action("run: \"python:v2 'x\", " + OUTPUT), "a quote that is never closed"),
        (action("run: 'python:latest x', " + OUTPUT), "uses `python:latest`, which is not supported"),
        (action("run: 'python:v2 x'"), "has no `outputs`"),
        (action("run: 'python:v2 x', outputs: [x]"), "no mapping from levels"),
        (action("run: 'python:v2 x', outputs: {high: {o: x.csv}}"), "unknown level `high`"),
        (action("run: 'python:v2 x', outputs: {highly_sensitive: x.csv}"), "a name and a path under"),
        (action("run: 'python:v2 x', outputs: {highly_sensitive: {o: [x]}}"), "whose path is no text"),
        (action("run: 'python:v2 x', needs: b, " + OUTPUT), "write `needs: [b]`"),
        (action("run: 'python:v2 x', needs: [1], " + OUTPUT), "unknown action in its `needs` list: 1"),
        (action("run: 'python:v2 x', needs: [[b]], " + OUTPUT), "that is no name of an action"),
        (action("run: 'python:v2 x', needs: [b c], " + OUTPUT), "separate the names of actions with commas"),
        (action("run: 'python:v2 x', needs: [zz], " + OUTPUT), "unknown action in its `needs` list: zz"),
        (action("run: 'python:v2 x', needs: [a], " + OUTPUT), "action `a` needs itself"),
        (action("run: 'python:v2 x', config: 3, " + OUTPUT), "`config` that is no mapping"),
        (action("run: 'notebook:v1'"), "names no notebook"),
        (action("run: 'notebook:v2 x.ipynb'"), "there is only `notebook:v1`"),
        (action("run: 'notebook:v1 x.py'"), "its name must end in `.ipynb`"),
        (action("run: 'notebook:v1 ../x.ipynb'"), "must not leave the study's folder"),
        (action("run: 'notebook:v1 x.ipynb -p a 1'"), "parameters go under"),
        (action("run: 'notebook:v1 x.ipynb', config: {params: {}}"), "unexpected key `params` in its `config`"),
        (action("run: 'notebook:v1 x.ipynb', config: {parameters: {'x=1;os': {type: int}}}"), "plain Python name"),
        (action("run: 'notebook:v1 x.ipynb', config: {parameters: {n: 3}}"), "say of parameter `n` what it may be"),
        (action("run: 'notebook:v1 x.ipynb', config: {parameters: {n: {type: number}}}"), "needs a `type`"),
        (action("run: 'notebook:v1 x.ipynb', config: {parameters: {n: {type: int, min: 3, max: 1}}}"), "above its"),
        (action("run: 'notebook:v1 x.ipynb', config: {parameters: {n: {type: int, default: 9, max: 1}}}"), "at most 1"),
        (
            action("run: 'ehrql:v1 generate-dataset d.py --output y.arrow', " + OUTPUT),
            "do not match the `--output` argument of its `run`: got `y.arrow`, declared is `x.csv`",
        ),
        (action("run: 'ehrql:v1 generate-dataset d.py', " + OUTPUT), "has no `--output`"),
        (
            action("run: 'ehrql:v1 generate-dataset d.py --output x.csv', outputs: {moderately_sensitive: {o: x.csv}}"),
            "must be highly_sensitive",
        ),
        ("version: 5\nactions: {run_all: {run: 'python:v2 x', " + OUTPUT + "}}", "reserved name"),
        ("version: 5\nactions: {'../a': {run: 'python:v2 x', " + OUTPUT + "}}", "must be named with letters"),
    ],
)  # fmt: skip
def test_each_mistake_is_told_with_what_to_do(text, told):
    assert any(told in mistake for mistake in mistakes(text)), mistakes(text)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/x.csv", "relative"),
        ("C:/x.csv", "relative"),
        ("a\\x.csv", "forward slashes"),
        ("a/../x.csv", "`..`"),
        ("./x.csv", "write `x.csv`"),
        ("a//x.csv", "write `a/x.csv`"),
        ("a/**/x.csv", "`**`"),
        ("x?.csv", "no wildcard but"),
        ("x[1].csv", "no wildcard but"),
        ("x", "file type extension"),
        ("x.*", "does not end in `*`"),
        ("metadata/x.csv", "metadata"),
        ("x.CSV", "not an allowed file type"),
        ("x.ipynb", "not an allowed file type"),
        ("", "is empty"),
    ],
)
def test_output_paths_follow_the_published_rules(path, told):
    text = action(f"run: 'python:v2 x', outputs: {{moderately_sensitive: {{o: '{path}'}}}}")
    (mistake,) = mistakes(text)
    assert told in mistake


def test_all_mistakes_of_a_file_are_told_at_once_in_order():
    found = mistakes(
        "version: 5\nactions:\n"
        "  a:\n    run: python x\n    needs: [zz]\n    outputs: {highly_sensitive: {o: /x.csv}}\n"
        "  b: 3\n"
    )
    assert [m.split(":")[0] for m in found] == ["line 3", "line 4", "line 6", "line 7"]


def test_actions_that_need_each_other_are_told_as_a_circle():
    text = "version: 5\nactions:\n" + "".join(
        f"  {name}: {{run: 'python:v2 {name}', needs: [{need}], outputs: {{highly_sensitive: {{o: {name}.csv}}}}}}\n"
        for name, need in [("a", "b"), ("b", "c"), ("c", "a")]
    )
    assert mistakes(text) == ["line 3: actions need each other in a circle: a → b → c → a"]


def test_a_chain_of_thousands_of_actions_is_read_and_ordered():
    text = "version: 5\nactions:\n  a0: {run: 'python:v2 0', outputs: {highly_sensitive: {o: x0.csv}}}\n" + "".join(
        f"  a{n}: {{run: 'python:v2 {n}', needs: [a{n - 1}], outputs: {{highly_sensitive: {{o: x{n}.csv}}}}}}\n"
        for n in range(1, 3000)
    )
    project = parse_project(text)
    assert [a.name for a in project.order("a2999")][:2] == ["a0", "a1"]


def test_two_actions_may_not_declare_one_path_from_version_two():
    body = (
        "  a: {run: 'python:v2 x', outputs: {highly_sensitive: {o: x.csv}}}\n"
        "  b: {run: 'python:v2 y', outputs: {highly_sensitive: {o: x.csv}}}\n"
    )
    assert parse_project("version: 1\nactions:\n" + body).version == 1
    assert "`x.csv` is not unique" in mistakes("version: 2\nactions:\n" + body)[0]


def test_a_pattern_that_covers_another_actions_file_is_warned_about():
    project = parse_project(
        "version: 5\nactions:\n"
        "  a: {run: 'python:v2 x', outputs: {highly_sensitive: {o: output/*.csv}}}\n"
        "  b: {run: 'python:v2 y', outputs: {highly_sensitive: {o: output/b.csv}}}\n"
    )
    assert "output/b.csv is declared by action b and also matches" in project.warnings[0]


def test_words_that_yaml_once_took_for_truth_values_can_name_actions():
    project = parse_project("version: 5\nactions:\n  on: {run: 'python:v2 x', " + OUTPUT + "}\n")
    assert list(project.actions) == ["on"]


def test_anchors_and_merge_keys_are_read():
    project = parse_project(
        "version: 5\nactions:\n"
        "  a: &base\n    run: python:v2 x\n    outputs: &o {highly_sensitive: {o: x.csv}}\n"
        "  b:\n    <<: *base\n    run: python:v2 y\n    outputs: {highly_sensitive: {o: y.csv}}\n    needs: [a]\n"
    )
    assert project.action("b").run.args == ("y",)


def test_the_file_may_begin_with_a_byte_order_mark_and_must_be_utf8():
    assert read_project(b"\xef\xbb\xbf" + STUDY.encode()).version == 5
    with pytest.raises(ProjectError, match="line 2: it is not UTF-8 text"):
        read_project(b"version: 5\n# caf\xe9\n")


@pytest.mark.parametrize(
    "bomb",
    [
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(12)),
        "x" * 3_000_000,
        "version: " + "9" * 1_000_000,
        "version: 5\nactions: {a: {run: 'python:v2 " + "x " * 100_000 + "'}}",
        "version: 5\nactions: {a: {run: 'notebook:v1 x.ipynb', config: {parameters: {n: {type: int, default: "
        + "9" * 1_000_000
        + "}}}}}",
    ],
)
def test_bombs_are_refused_quickly(bomb):
    began = time.thread_time()
    with pytest.raises(ProjectError) as caught:
        parse_project(bomb)
    assert time.thread_time() - began < 3
    assert len(str(caught.value)) < 2_000


@settings(deadline=None, max_examples=examples(300))
@given(st.text() | st.text(alphabet="version: 5\nactions{}[]-&*!|>'\"#%@`\t,?~<"))
def test_rubbish_gives_a_sentence_and_never_another_error(text):
    error = refusal(text)
    assert error is None or (error.sentence and error.next_step)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
words = st.sampled_from(
    ["version", "actions", "run", "needs", "outputs", "config", "parameters", "type", "min", "choices", "default",
     "highly_sensitive", "int", "list[date]", "notebook:v1 a.ipynb", "ehrql:v1 generate-dataset d.py --output o.csv"]
)  # fmt: skip
trees = st.recursive(
    leaves | words, lambda t: st.lists(t, max_size=4) | st.dictionaries(words | st.text(max_size=5), t, max_size=5)
)


@settings(deadline=None, max_examples=examples(300))
@given(trees)
def test_any_tree_in_place_of_actions_gives_a_sentence_and_never_another_error(tree):
    for text in (
        yaml.safe_dump({"version": 5, "actions": tree}, allow_unicode=True),
        yaml.safe_dump({"version": 5, "actions": {"a": tree}}, allow_unicode=True),
        yaml.safe_dump(
            {"version": 5, "actions": {"a": {"run": "notebook:v1 a.ipynb", "config": {"parameters": {"n": tree}}}}},
            allow_unicode=True,
        ),
    ):
        error = refusal(text)
        assert error is None or error.sentence


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("output/*.csv", "output/a.csv", True),
        ("output/*.csv", "output/b/a.csv", False),
        ("output/*a*.csv", "output/bar.csv", True),
        ("*/x.csv", "a/x.csv", True),
        ("a.csv", "a.csv", True),
        ("a*.csv", "b.csv", False),
    ],
)
def test_a_star_stands_for_part_of_one_name(pattern, path, expected):
    assert matches(pattern, path) is expected


def test_matching_a_pattern_of_many_stars_takes_no_time():
    began = time.thread_time()
    assert not matches("*a" * 200 + "b.csv", "a" * 400)
    assert time.thread_time() - began < 0.5
