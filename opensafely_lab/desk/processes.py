"""Child processes that are kept alive: started in order, restarted with a pause, stopped in reverse.

What a child prints goes to its own log file and nowhere else: the backend's log is confidential, so it
is never read here, not even to explain a failure.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import define, field, frozen

from opensafely_lab.errors import PlatformError

START_SECONDS = 90.0  # JupyterLab on a cold, busy machine takes 20
STOP_SECONDS = 10.0
STEADY_SECONDS = 60.0  # a child that lived this long starts again without a pause
LONGEST_PAUSE = 30.0
LARGEST_LOG = 4 << 20
PR_SET_PDEATHSIG = 1


class ChildNotStarted(PlatformError):
    code = "child-not-started"


@frozen
class ChildSpec:
    """One process: what to execute, and how to tell that it is ready."""

    name: str
    argv: tuple[str, ...]
    log: Path
    folder: Path
    environment: Mapping[str, str] = field(repr=False)
    healthy: Callable[[], bool] = field(repr=False)
    after: tuple[str, ...] = ()  # names of those that must be ready before it is started


@define
class Child:
    """A running child, and how often it died young."""

    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    start_again: float | None = None  # when, if it is down


def pause_before_restart(failures: int) -> float:
    """Seconds to wait before the next start: none at first, then doubling from a half up to 30."""
    return 0.0 if failures == 0 else min(0.5 * 2 ** (failures - 1), LONGEST_PAUSE)


class Supervisor:
    """Starts children in order and keeps them alive until it is told to stop."""

    def __init__(self, specs: Sequence[ChildSpec], *, say: Callable[[str], None], stopping: threading.Event) -> None:
        self._children = [Child(spec) for spec in specs]
        self._say = say
        self._stopping = stopping

    def start(self) -> None:
        """Start each child as soon as those it comes after are ready, and wait until all are.

        Raises `ChildNotStarted`; to `stop` then is the caller's.
        """
        deadline = time.monotonic() + START_SECONDS
        ready: set[str] = set()
        while len(ready) < len(self._children) and not self._stopping.is_set():
            for child in self._children:
                if child.process is None and ready.issuperset(child.spec.after):
                    _launch(child)
                elif child.process is not None and child.spec.name not in ready and _is_ready(child):
                    ready.add(child.spec.name)
            if time.monotonic() > deadline:
                late = next(child.spec for child in self._children if child.spec.name not in ready)
                raise ChildNotStarted(
                    f"The {late.name} was not ready after {START_SECONDS:.0f} seconds.",
                    next_step=f"Read {late.log}, then try again.",
                )
            self._stopping.wait(0.05)

    def watch(self) -> None:
        """Restart what dies, until `stopping` is set."""
        while not self._stopping.wait(0.3):
            for child in self._children:
                self._look_after(child)

    def stop(self) -> None:
        """End every child, the last one first: asked, and killed if it has not gone in ten seconds."""
        for child in reversed(self._children):
            _end(child)

    def pids(self) -> dict[str, int]:
        return {c.spec.name: c.process.pid for c in self._children if c.process is not None}

    def _look_after(self, child: Child) -> None:
        now = time.monotonic()
        if child.start_again is not None:
            if now >= child.start_again:
                _launch(child)
            return
        if child.process is None or child.process.poll() is None:
            return
        child.failures = 0 if now - child.started > STEADY_SECONDS else child.failures + 1
        pause = pause_before_restart(child.failures)
        child.start_again = now + pause
        self._say(f"The {child.spec.name} stopped; it starts again in {pause:g} s. Its log: {child.spec.log}")


def _is_ready(child: Child) -> bool:
    ended = child.process.poll() if child.process is not None else None
    if ended is not None:
        raise ChildNotStarted(
            f"The {child.spec.name} ended with code {ended} before it was ready.",
            next_step=f"Read {child.spec.log}, then try again.",
        )
    return child.spec.healthy()


def _launch(child: Child) -> None:
    spec = child.spec
    spec.log.parent.mkdir(parents=True, exist_ok=True)
    if spec.log.exists() and spec.log.stat().st_size > LARGEST_LOG:
        spec.log.replace(spec.log.with_suffix(".log.1"))
    descriptor = os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child.process = subprocess.Popen(
            spec.argv,
            cwd=spec.folder,
            env=dict(spec.environment),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is for us; we then ask them to stop
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    finally:
        os.close(descriptor)
    child.started = time.monotonic()
    child.start_again = None


def _die_with_parent() -> None:
    """In the new child: be asked to stop if `up` itself is killed. Safe here: `up` has one thread."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _end(child: Child) -> None:
    process = child.process
    if process is None:
        return
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            process.wait()
    _kill_group(process.pid)  # what it left behind in its own session


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
