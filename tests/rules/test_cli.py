"""The command line tells every error as a sentence and a next step, with an exit code, and never a value."""

from __future__ import annotations

import subprocess
import sys

import pytest

from opensafely_lab import cli
from opensafely_lab.errors import ErrorKind, LabError, PlatformError, Refused, UsageError


@pytest.fixture
def command_that(monkeypatch):
    """Register a command that does what the test says."""

    def register(body):
        monkeypatch.setitem(cli.COMMANDS, "try", (body, ()))
        return ["try"]

    return register


@pytest.mark.parametrize(("error", "code"), [(UsageError, 2), (Refused, 3), (PlatformError, 5)])
def test_an_error_of_ours_is_told_with_its_next_step_and_its_exit_code(command_that, capsys, error, code):
    def body(given):
        "Try."
        raise error("The tree is dirty.", next_step="Commit it.")

    assert cli.main(command_that(body)) == code
    assert capsys.readouterr().err == "opensafely-lab: The tree is dirty.\nCommit it.\n"


def test_every_kind_of_error_has_an_exit_code():
    class Odd(LabError):
        pass

    for kind in ErrorKind:
        Odd.kind = kind
        assert 1 <= Odd("x").exit_code <= 5


def test_an_error_that_nobody_foresaw_is_told_without_its_text(command_that, capsys):
    def body(given):
        "Try."
        raise ValueError("patient 4711 is 93 years old")

    assert cli.main(command_that(body)) == 5
    said = capsys.readouterr().err
    assert "ValueError" in said
    assert "4711" not in said


def test_a_full_disk_is_told_as_one(command_that, capsys):
    def body(given):
        "Try."
        raise OSError(28, "No space left on device", "/secret/path")

    assert cli.main(command_that(body)) == 5
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "/secret/path" not in said


def test_ctrl_c_ends_quietly(command_that, capsys):
    def body(given):
        "Try."
        raise KeyboardInterrupt

    assert cli.main(command_that(body)) == 130


def test_every_command_has_a_line_of_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    said = capsys.readouterr().out
    for name, (body, _) in cli.COMMANDS.items():
        assert name in said
        assert (body.__doc__ or "").strip()


def test_asking_for_the_version_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['opensafely-lab', '--version']\n"
        "from opensafely_lab import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "heavy = {'pandas', 'pydantic', 'duckdb', 'jupyter_server', 'IPython', 'fastapi'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("opensafely-lab 0.")
