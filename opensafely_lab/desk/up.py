"""Site, backend and Lab on one computer, as separate processes that talk over HTTP with tokens.

1. Refuse what cannot work: a second `up` on the same state, records that are not synthetic, no sandbox.
2. Make the tokens and each process's configuration (`one_machine`); every secret is in a 0600 file.
3. Start site, level 4 service and JupyterLab, then the agent; restart what dies.
4. Write `run.json`, print one URL, wait for Ctrl-C or SIGTERM, stop all, remove `run.json`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from attrs import frozen

from opensafely_lab.desk.doctor import sandbox
from opensafely_lab.desk.new_study import first_notebook, make_study
from opensafely_lab.desk.one_machine import Machine, plan
from opensafely_lab.desk.processes import Supervisor
from opensafely_lab.desk.shipped import demo_records, require_synthetic
from opensafely_lab.desk.state import State, write_private
from opensafely_lab.errors import LabError, PlatformError


class NoSandbox(PlatformError):
    code = "no-sandbox"


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - `up` is a command; this is its voice


@frozen
class Options:
    """What was asked of `up`."""

    state: State
    cache: Path  # of the sandbox's root
    study: Path | None = None  # None: made from the template, inside the state folder
    data: Path | None = None  # None: the demo's records
    lab: bool = True
    open_browser: bool = False
    lab_arguments: tuple[str, ...] = ()
    say: Callable[[str], None] = _print


def up(options: Options) -> int:
    """Run until Ctrl-C or SIGTERM. Returns 0 when everything was stopped cleanly."""
    with running(options) as everything:
        options.say(banner(everything))
        if options.open_browser:
            webbrowser.open(everything.machine.url)
        everything.supervisor.watch()
        options.say("Stopping.")
    options.say(f"Stopped. State is kept in {options.state.folder}; it can be removed.")
    return 0


@frozen
class Running:
    """What `running` yields: where things are, and what keeps them alive."""

    state: State
    machine: Machine
    supervisor: Supervisor
    stopping: threading.Event


@contextmanager
def running(options: Options) -> Iterator[Running]:
    """Everything is up inside the block, and down after it, however the block ends.

    Inside, SIGINT and SIGTERM set `stopping` and raise nothing: nothing is left half made. The demo
    and the tests use this; whoever wants dead children restarted calls `supervisor.watch()`.
    """
    state = options.state
    data = (options.data or demo_records()).resolve()
    require_synthetic(data)
    state.make()
    lock = state.lock()
    stopping = threading.Event()
    try:
        with _signals_set(stopping):
            require_sandbox(options)
            study = options.study or state.folder / "study"
            if make_study(study):
                options.say(f"Made a study from the template: {study}")
            make_dummy_data(study.resolve(), options)
            machine = plan(
                state,
                cache=options.cache,
                data=data,
                study=study.resolve(),
                notebook=first_notebook(study),
                lab=options.lab,
                lab_arguments=options.lab_arguments,
            )
            supervisor = Supervisor(machine.children, say=options.say, stopping=stopping)
            try:
                supervisor.start()
                write_private(state.run_json, json.dumps(machine.run_json(os.getpid()), indent=2))
                yield Running(state, machine, supervisor, stopping)
            finally:
                supervisor.stop()
                state.run_json.unlink(missing_ok=True)
    finally:
        os.close(lock)


def make_dummy_data(study: Path, options: Options) -> None:
    """The study's dummy datasets, so that its notebooks can be worked on at once. A study's own
    mistakes are told and stop nothing: Lab is where they are mended."""
    from opensafely_lab.desk.local import make_dummy_datasets
    from opensafely_lab.pipeline.machine import machine_ports

    try:
        made = make_dummy_datasets(study, machine_ports(options.state.folder / "local", cache=options.cache))
    except LabError as error:
        options.say(f"The study's dummy data could not be made. {error}")
    else:
        for path in made:
            options.say(f"Made dummy data: {path}")


def require_sandbox(options: Options) -> None:
    """Build what the sandbox runs in, and try it: with a sentence here rather than a dead agent."""
    if not options.cache.exists():
        options.say("Building what the sandbox runs in (half a minute, once).")
    found = sandbox(options.state, options.cache)
    if not found.ok:
        raise NoSandbox(
            f"The backend needs a sandbox, which this computer does not give it ({found.detail}).",
            next_step=found.next_step,
        )


def banner(everything: Running) -> str:
    """What `up` says when everything is ready: one URL, and where things are."""
    machine = everything.machine
    return "\n".join(
        [
            f"OpenSAFELY Lab: {machine.url}",
            f"  study    {machine.study}",
            f"  records  {machine.data} (synthetic)",
            f"  state    {everything.state.folder}",
            "Ctrl-C stops it.",
        ]
    )


@contextmanager
def _signals_set(event: threading.Event) -> Iterator[None]:
    def note(number: int, frame: FrameType | None) -> None:
        event.set()

    if threading.current_thread() is not threading.main_thread():  # only the main thread may change handlers
        yield
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def can_show_browser() -> bool:
    """Whether somebody sits in front of this: a terminal, and a screen."""
    screen = sys.platform == "darwin" or any(os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY"))
    return bool(screen) and sys.stdout.isatty()
