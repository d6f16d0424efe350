"""`%opensafely submit | run | status` in a notebook: the same client as the button and the command line.

The notebook is found by JPY_SESSION_NAME, as its file: what is run is what was saved. In the kernel
of an unattended run (OSL_RUN is set) all of it does nothing. An error is one sentence, no traceback.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from opensafely_lab.errors import LabError, Refused, UsageError

if TYPE_CHECKING:
    from opensafely_lab.desk.runs import RunRecord, RunStore
    from opensafely_lab.wire.lab import RunRow

USAGE = "%opensafely submit|run [-p NAME VALUE]... [--commit] [--strip], or %opensafely status"


class NotSaved(Refused):
    code = "not-saved"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError("That is not how %opensafely is used.", next_step=f"Write: {USAGE}")


def register(shell: object) -> None:
    """Add the magic to an IPython shell."""
    from IPython.core.interactiveshell import InteractiveShell

    def magic(line: str) -> None:
        opensafely(line, shell=shell, environ=os.environ)

    if isinstance(shell, InteractiveShell):
        shell.register_magic_function(magic, "line", "opensafely")  # type: ignore[arg-type]


def opensafely(line: str, *, shell: object, environ: Mapping[str, str]) -> None:
    """Run the notebook on dummy data, submit it, or list the runs."""
    if environ.get("OSL_RUN"):
        return
    try:
        _opensafely(line, shell, environ)
    except LabError as error:
        print(error, file=sys.stderr)  # noqa: T201 - this is the magic's voice
        if error.fix:
            print(f"In one go: %opensafely submit --{error.fix}", file=sys.stderr)  # noqa: T201


def _opensafely(line: str, shell: object, environ: Mapping[str, str]) -> None:
    from opensafely_lab.desk.begin import begin
    from opensafely_lab.desk.runs import RunStore
    from opensafely_lab.desk.state import State, default_state
    from opensafely_lab.wire.lab import RunKind

    given = parse(line)
    store = RunStore(State(default_state(environ, root=os.geteuid() == 0)))
    if given.what == "status":
        print(status(store))  # noqa: T201
        return
    notebook = running_notebook(environ, running_cell(shell))
    kind = RunKind.SUBMITTED if given.what == "submit" else RunKind.LOCAL
    fixes = [name for name in ("commit", "strip") if getattr(given, name)]
    record = begin(store, notebook, kind, dict(given.parameter), from_text=True, fixes=fixes)
    _show(store, record)


def parse(line: str) -> argparse.Namespace:
    """What was asked. Raises `UsageError`."""
    parser = _Parser(prog="%opensafely", add_help=False)
    parser.add_argument("what", choices=["submit", "run", "status"])
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--commit", action="store_true")
    parser.add_argument("--strip", action="store_true")
    try:
        words = shlex.split(line)
    except ValueError:
        raise UsageError("A quotation mark is not closed.", next_step=f"Write: {USAGE}") from None
    given = parser.parse_args(words)
    names = [name for name, _ in given.parameter]
    if len(set(names)) != len(names):
        raise UsageError("A parameter is given twice.", next_step="Give each parameter once.")
    return given


def running_cell(shell: object) -> str:
    """The source of the cell that is being executed, as it was typed; "" if the shell does not know."""
    history = getattr(getattr(shell, "history_manager", None), "input_hist_raw", [])
    return str(history[-1]) if history else ""


def running_notebook(environ: Mapping[str, str], cell: str) -> Path:
    """The file of the notebook that this kernel belongs to. Raises `NotSaved` if it lacks `cell`."""
    from opensafely_lab.notebooks.source import MAX_BYTES, NotebookError, SubmittedNotebook

    name = environ.get("JPY_SESSION_NAME", "")
    file = Path(name)
    if not name.endswith(".ipynb") or not file.is_file():
        raise UsageError(
            "This kernel does not know which notebook it belongs to.",
            next_step="Use the button in the notebook's toolbar, or `opensafely-lab submit` in a terminal.",
        )
    try:
        saved = SubmittedNotebook.parse(file.read_bytes()[: MAX_BYTES + 1])
    except NotebookError as error:
        raise NotSaved(error.sentence, next_step="Save the notebook, and run this cell again.") from None
    if cell.strip() and cell.strip() not in {known.source.strip() for known in saved.cells}:
        raise NotSaved(
            "The saved notebook does not hold this cell yet.",
            next_step="Save it (Ctrl+S), and run this cell again: what runs is what is saved.",
        )
    return file


def status(store: RunStore) -> str:
    """The runs begun at this desk, a line each."""
    from opensafely_lab.desk.widgets.progress import WORDS

    records = store.records()
    if not records:
        return "No runs yet."
    rows = [_latest(store, record) for record in records[:10]]
    return "\n".join(f"{row.started[:16]}  {row.action}  {row.kind.value}  {WORDS[row.stage]}" for row in rows)


def _show(store: RunStore, record: RunRecord) -> None:
    from IPython.display import display

    from opensafely_lab.desk.widgets.progress import follow

    run = record.row.id
    follow(record.row, lambda: _latest(store, store.read(run)), display)


def _latest(store: RunStore, record: RunRecord) -> RunRow:
    """The run's row; once the site has the job, as the site tells it. Level 4 has no part in it."""
    from opensafely_lab.desk.server.rows import rows
    from opensafely_lab.desk.settings import read_run_file, read_token

    if record.job is None:
        current: Sequence[RunRecord] = [found for found in store.records() if found.row.id == record.row.id]
        return (current or [record])[0].row
    from opensafely_lab.desk.client import Client

    state = store.state
    client = Client(read_run_file(state).site, read_token(state, "site"))
    try:
        return rows([record], [client.job(record.job)], {}, {})[0]
    finally:
        client.close()
