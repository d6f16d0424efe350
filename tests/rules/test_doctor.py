"""The doctor names each thing with what to do, whatever else is broken."""

from __future__ import annotations

import json

import pytest

from opensafely_lab.desk import doctor
from opensafely_lab.desk.doctor import Check, Report
from opensafely_lab.desk.health import answers
from opensafely_lab.desk.state import State

WORKS = {"Python": True, "Jupyter": True, "sandbox": True}


def report(**changes: bool) -> Report:
    return Report(tuple(Check(name, ok, "seen", "do this") for name, ok in {**WORKS, **changes}.items()))


def test_a_line_says_what_to_do_only_where_something_is_wrong():
    assert Check("git", True, "2.39", "install git").line(plain=False) == "✓ git: 2.39"
    assert Check("git", False, "not found", "install git").line(plain=False) == "✗ git: not found\n    install git"
    assert Check("git", False, "not found").line(plain=True) == "NO  git: not found"


def test_only_what_is_needed_decides():
    assert report().ok
    assert not report(sandbox=False).ok
    assert Report((Check("site", False, "none is running", needed=False),)).ok


def test_without_a_sandbox_it_says_what_works_and_what_does_not():
    said = report(sandbox=False).summary()
    assert "Works here: notebooks on dummy data" in said
    assert "Does not work here: the demo's backend" in said


def test_the_json_says_the_same():
    said = json.loads(report(sandbox=False).json())
    assert said["ok"] is False
    assert [(c["name"], c["ok"]) for c in said["checks"]] == [("Python", True), ("Jupyter", True), ("sandbox", False)]


def test_an_old_python_is_named():
    assert doctor.python((3, 10, 4)).ok is False
    assert doctor.python((3, 11, 0)).ok is True


def test_a_look_that_breaks_is_a_line_of_its_own():
    def broken() -> Check:
        raise RuntimeError("oh")

    check = doctor._guarded("kernel", broken)
    assert (check.ok, check.name, check.detail) == (False, "kernel", "RuntimeError: oh")


def test_git_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "Install git" in doctor.git().line(plain=False)


def test_little_disk_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("U", (), {"free": 1 << 20})())
    assert doctor.disk(tmp_path / "not" / "there" / "yet").ok is False


@pytest.mark.parametrize("written", [None, "broken", '{"site": 4}'])
def test_no_site_is_no_failure(tmp_path, written):
    if written is not None:
        (tmp_path / "run.json").write_text(written)
    check = doctor.running(State(tmp_path), "site", "site", answers)
    assert (check.ok, check.needed) == (False, False)
    assert "opensafely-lab up" in check.next_step


def test_a_site_that_does_not_answer_is_named(tmp_path):
    (tmp_path / "run.json").write_text('{"site": "http://127.0.0.1:9"}')
    assert "does not answer" in doctor.running(State(tmp_path), "site", "site", answers).detail
