"""The command line: each command is a few lines over desk or backend, and imports only what it uses.

A command is a function with `@command(...)`; its docstring is its help. It returns the exit code or
raises a `LabError`, whose sentence and next step go to stderr. Exit codes: 0 done (of `run` and
`submit`: shown), 1 run failed, 2 usage, 3 refused, 4 something held, 5 platform.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opensafely_lab.errors import EXIT_CODES, ErrorKind, LabError

if TYPE_CHECKING:
    from opensafely_lab.desk.state import State
    from opensafely_lab.pipeline.ports import Ports

Body = Callable[[argparse.Namespace], int]
Option = tuple[tuple[str, ...], dict[str, Any]]
COMMANDS: dict[str, tuple[Body, tuple[Option, ...]]] = {}


def option(*names: str, **settings: Any) -> Option:
    """What `add_argument` will be called with."""
    return names, settings


def command(name: str, *options: Option) -> Callable[[Body], Body]:
    """Register a function as `opensafely-lab NAME`."""

    def register(body: Body) -> Body:
        COMMANDS[name] = (body, options)
        return body

    return register


STATE = option("--state", type=Path, metavar="DIR", help="folder for everything that runs here (removable)")


@command("doctor", STATE, option("--json", action="store_true", help="as JSON, for programs"))
def doctor(given: argparse.Namespace) -> int:
    """Say what works on this computer, and what to do about what does not."""
    from opensafely_lab.desk.doctor import examine

    if not given.json:
        print("Looking (the first time takes half a minute: it builds what the sandbox runs in).", file=sys.stderr)
    report = examine(_state(given), _cache())
    plain = not (sys.stdout.encoding or "").lower().startswith("utf")
    print(report.json() if given.json else report.text(plain=plain))
    return 0 if report.ok else EXIT_CODES[ErrorKind.PLATFORM]


@command(
    "up",
    STATE,
    option("--data", type=Path, metavar="DIR", help="synthetic records, TABLE.parquet (default: the demo's)"),
    option("--study", type=Path, metavar="DIR", help="the study to open; made from the template if it is not there"),
    option("--no-lab", action="store_true", help="only site and backend"),
    option("--headless", action="store_true", help="open no browser"),
    option("--lab-option", action="append", default=[], metavar="OPTION", help="one more option for JupyterLab"),
)
def up(given: argparse.Namespace) -> int:
    """Start site, backend and JupyterLab on this computer; print one URL; stop all on Ctrl-C."""
    from opensafely_lab.desk.up import Options, can_show_browser
    from opensafely_lab.desk.up import up as run_up

    return run_up(
        Options(
            state=_state(given),
            cache=_cache(),
            study=given.study,
            data=given.data,
            lab=not given.no_lab,
            open_browser=not given.headless and not given.no_lab and can_show_browser(),
            lab_arguments=tuple(given.lab_option),
        )
    )


@command(
    "run",
    option("action", metavar="ACTION", help="a notebook:v1 action of project.yaml"),
    option("--project", type=Path, default=Path(), metavar="DIR", help="the study (default: this folder)"),
    option("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter"),
    option("--data", type=Path, metavar="DIR", help="a folder of tables: play the backend on them"),
    option("--extract", action="append", default=[], metavar="PATH=FILE", help="a ready extract in place of an output"),
    option("--out", type=Path, metavar="DIR", help="a new folder for exactly what is shown"),
    STATE,
)
def run(given: argparse.Namespace) -> int:
    """Run a notebook on dummy data here, or (--data) as a backend would, without servers."""
    from opensafely_lab.desk.local import Order, parse_extract
    from opensafely_lab.desk.local import run as run_local

    order = Order(
        action=given.action,
        project=given.project.absolute(),
        parameters=[(name, value) for name, value in given.parameter],
        data=given.data and given.data.absolute(),
        extracts=[parse_extract(text) for text in given.extract],
        out=given.out and given.out.absolute(),
    )
    return run_local(order, lambda: _ports(given), print)


@command(
    "submit",
    option("action", nargs="?", metavar="ACTION", help="a notebook:v1 action (default: the study's only one)"),
    option("--project", type=Path, default=Path(), metavar="DIR", help="the study (default: this folder)"),
    option("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter"),
    option("--commit", action="store_true", help="commit what has changed first"),
    option("--strip", action="store_true", help="take saved outputs out of the notebook and commit that"),
    option("--no-wait", action="store_true", help="do not wait for the end of the job"),
    STATE,
)
def submit(given: argparse.Namespace) -> int:
    """Send a notebook to the backend, after a run on dummy data here; wait for the end."""
    from opensafely_lab.desk.submitting import Order
    from opensafely_lab.desk.submitting import submit as submit_and_follow

    order = Order(
        project=given.project.absolute(),
        action=given.action,
        parameters=[(name, value) for name, value in given.parameter],
        fixes=tuple(name for name in ("commit", "strip") if getattr(given, name)),
        wait=not given.no_wait,
    )
    return submit_and_follow(order, _state(given), print)


@command(
    "export",
    option("result", type=Path, metavar="RESULT.ipynb", help="a result notebook, as `run --out` writes it"),
    option("--to", choices=["html"], default="html", help="what to make: one HTML page (the default)"),
    option("--out", type=Path, metavar="FILE", help="where to write it (default: beside the result)"),
)
def export(given: argparse.Namespace) -> int:
    """Write a result as one page for people without Jupyter: dummy data or released, never level 4."""
    from opensafely_lab.desk.export import export as write

    out, level = write(given.result, given.out)
    print(f"{level}: wrote {out}")
    return 0


@command(
    "init",
    option("folder", type=Path, nargs="?", default=Path(), metavar="DIR", help="a study, or a folder to make one in"),
    option("--template", metavar="NAME", help="make the study from this template (default: gi-bleeding)"),
)
def init(given: argparse.Namespace) -> int:
    """Make a study from a template, or have git keep outputs out of an existing study's commits."""
    from opensafely_lab.desk.new_study import make_study
    from opensafely_lab.desk.shipped import DEMO_TEMPLATE

    folder = given.folder.absolute()
    made = make_study(folder, given.template or DEMO_TEMPLATE)
    print(f"Made the study {folder}" if made else f"{folder} is a study; git now keeps outputs out of its commits.")
    return 0


@command("strip-outputs", option("notebook", type=Path, nargs="*", metavar="NOTEBOOK", help="files to strip in place"))
def strip_outputs(given: argparse.Namespace) -> int:
    """Remove outputs from notebooks: the named files, or standard input to standard output (git's filter)."""
    from opensafely_lab.desk import stripfilter
    from opensafely_lab.notebooks.source import strip

    if not given.notebook:
        return stripfilter.run(sys.stdin.buffer, sys.stdout.buffer, sys.stderr)
    for path in given.notebook:
        path.write_bytes(strip(path.read_bytes()))
    return 0


def parser() -> argparse.ArgumentParser:
    from opensafely_lab import __version__

    top = argparse.ArgumentParser(
        prog="opensafely-lab", description="Analyse health records in notebooks without seeing them."
    )
    top.add_argument("--version", action="version", version=f"opensafely-lab {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (body, options) in COMMANDS.items():
        text = (body.__doc__ or "").strip()
        one = commands.add_parser(name, help=text.splitlines()[0], description=text)
        for names, settings in options:
            one.add_argument(*names, **settings)
        one.set_defaults(body=body)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Never prints a traceback unless OPENSAFELY_LAB_DEBUG is set: it could quote data."""
    given = parser().parse_args(argv)
    try:
        return int(given.body(given))
    except LabError as error:
        if detail := getattr(error, "detail", None):
            print(detail, file=sys.stderr)  # of a dummy run, which may say everything; plain text
        print(f"opensafely-lab: {error.sentence}", file=sys.stderr)
        if error.next_step:
            print(error.next_step, file=sys.stderr)
        if error.fix is not None and getattr(given, error.fix, None) is False:
            print(f"`opensafely-lab {given.command}` with --{error.fix} does that for you.", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("opensafely-lab: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("OPENSAFELY_LAB_DEBUG"):
            raise
        print(f"opensafely-lab: {_in_our_words(error)}", file=sys.stderr)
        return EXIT_CODES[ErrorKind.PLATFORM]


def _in_our_words(error: Exception) -> str:
    """A sentence for an error that nobody foresaw: its type and our line, never its text."""
    if isinstance(error, OSError) and error.strerror:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "Free some space" if full else "Look at who may read and write the study, and the folder of --state"
        return f"The computer refused: {error.strerror}.\n{advice}; then try again."
    where = error.__traceback__
    place = ""
    while where is not None:
        name = where.tb_frame.f_globals.get("__name__", "")
        if name.startswith("opensafely_lab"):
            place = f" in {name}, line {where.tb_lineno}"
        where = where.tb_next
    return f"Something of ours broke ({type(error).__name__}{place}). Please report this line."


def _ports(given: argparse.Namespace) -> Ports:
    from opensafely_lab.desk.dummy import ports_here

    return ports_here(_state(given))


def _state(given: argparse.Namespace) -> State:
    from opensafely_lab.desk.state import State, default_state

    return State(given.state.resolve() if given.state else default_state(os.environ, root=os.geteuid() == 0))


def _cache() -> Path:
    from opensafely_lab.desk.state import default_cache

    return default_cache(os.environ, root=os.geteuid() == 0)


if __name__ == "__main__":
    sys.exit(main())
