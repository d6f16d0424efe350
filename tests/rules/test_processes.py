"""Children are started in order, restarted with a pause, and stopped whatever they think of it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from opensafely_lab.desk.processes import ChildNotStarted, ChildSpec, Supervisor, pause_before_restart

READY = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(__import__('os').getpid()))"


def child(tmp_path: Path, name: str, code: str) -> tuple[ChildSpec, Path]:
    mark = tmp_path / f"{name}.pid"
    spec = ChildSpec(
        name=name,
        argv=(sys.executable, "-c", code, str(mark)),
        log=tmp_path / f"{name}.log",
        folder=tmp_path,
        environment=dict(os.environ),
        healthy=lambda: mark.exists() and mark.read_text() != "",
    )
    return spec, mark


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def wait_for(what: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0.0), (1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (50, 30.0)]
)
def test_a_child_that_keeps_dying_waits_longer_each_time_but_never_more_than_half_a_minute(failures, seconds):
    assert pause_before_restart(failures) == seconds


def test_a_dead_child_is_restarted_and_what_it_says_stays_in_its_log(tmp_path):
    spec, mark = child(tmp_path, "site", READY + "; print('a secret of the backend'); time.sleep(60)")
    said: list[str] = []
    stopping = threading.Event()
    supervisor = Supervisor([spec], say=said.append, stopping=stopping)
    supervisor.start()
    first = int(mark.read_text())
    watcher = threading.Thread(target=supervisor.watch)
    watcher.start()
    try:
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: mark.read_text() not in ("", str(first)))
        second = int(mark.read_text())
    finally:
        stopping.set()
        watcher.join()
        supervisor.stop()
    assert not alive(second)
    assert len(said) == 1
    assert said[0].startswith("The site stopped; it starts again in 0.5 s.")
    assert "secret" not in "".join(said)
    assert (tmp_path / "site.log").stat().st_mode & 0o777 == 0o600


def test_a_child_that_ends_before_it_is_ready_is_told_with_its_log(tmp_path):
    spec, _ = child(tmp_path, "agent", "import sys; sys.exit(3)")
    supervisor = Supervisor([spec], say=lambda text: None, stopping=threading.Event())
    with pytest.raises(ChildNotStarted, match=r"The agent ended with code 3 before it was ready") as refused:
        supervisor.start()
    assert str(tmp_path / "agent.log") in refused.value.next_step
    supervisor.stop()


def test_a_child_that_ignores_the_request_to_stop_is_killed_with_what_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr("opensafely_lab.desk.processes.STOP_SECONDS", 0.5)
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "open(sys.argv[1], 'w').write(str(p.pid)); time.sleep(60)"
    )
    spec, mark = child(tmp_path, "lab", stubborn)
    supervisor = Supervisor([spec], say=lambda text: None, stopping=threading.Event())
    supervisor.start()
    grandchild = int(mark.read_text())
    supervisor.stop()
    wait_for(lambda: not alive(grandchild))
    assert all(not alive(pid) for pid in supervisor.pids().values())


def test_children_stop_in_the_opposite_order(tmp_path):
    note = (
        "import pathlib, signal, sys, time\n"
        "def bye(*_):\n"
        "    mark = pathlib.Path(sys.argv[1])\n"
        "    with open(mark.parent / 'order', 'a') as out: out.write(mark.stem + ' ')\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, bye)\n"
        "pathlib.Path(sys.argv[1]).write_text('1')\n"
        "time.sleep(60)"
    )
    specs = [child(tmp_path, name, note)[0] for name in ("first", "second")]
    supervisor = Supervisor(specs, say=lambda text: None, stopping=threading.Event())
    supervisor.start()
    supervisor.stop()
    assert (tmp_path / "order").read_text() == "second first "
