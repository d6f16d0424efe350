"""The attacks of `tests/attacks/probes`, through every executor. A baseline proves that they measure.

Expected: everything is stopped but what `HARMLESS` names, with the reason why it may be reached.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest
from executor_cases import PROBES, PYTHON, a_spec, python

from opensafely_lab.jobs.executors.protocol import MB, EndKind, Executor, Mount, RunResult
from opensafely_lab.jobs.loop import run_to_end

pytestmark = pytest.mark.sandbox

HARMLESS = {
    # Where a mount comes from cannot be hidden from the one who has it mounted: names of ours mean nothing.
    "mountinfo_host_paths": "host paths of mounts, made of random ids",
    # With --as-pid-1 the first process is the run's own program: there is nobody else's memory to open.
    "proc_pid_mem_pid1": "its own first process",
    # Which process the kernel would kill first, among those of the run's own memory group.
    "oom_score_lower": "decided inside the run's own group",
    # noexec is no boundary for an interpreter: whoever runs Python needs no second binary.
    "memfd_exec": "execution of what it could run anyway",
    "exec_from_tmp": "execution of what it could run anyway",
    # Tells about the machine, not about data: memory, load, boot id.
    "proc_info_files": "tells about the machine, not about data",
    # Its own pid namespace, its own pty.
    "kill_everything": "only its own processes",
    "tiocsti_on_pty": "a terminal that it made itself",
}


class Canaries(NamedTuple):
    """Things of the host that answer whoever reaches them."""

    environment: dict[str, str]
    data: Path


def bind_when_free(listener: socket.socket, name: str) -> None:
    """The probe knows the canary by one name on the whole computer: other tests may hold it for a while."""
    deadline = time.monotonic() + 300
    while True:
        try:
            return listener.bind(name)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.fixture
def canaries(tmp_path: Path) -> Iterator[Canaries]:
    open_folder = Path("/tmp") / f"osl-canary-{os.getpid()}"
    open_folder.mkdir(mode=0o755, exist_ok=True)
    secret = open_folder / "secret.txt"
    secret.write_text("secret")
    data = open_folder / "data"
    data.mkdir(exist_ok=True)
    (data / "patients.csv").write_text("patient_id\n1\n")
    path_socket = open_folder / "sock"
    path_socket.unlink(missing_ok=True)
    listening = [socket.socket(), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening[0].bind(("127.0.0.1", 0))
    port = listening[0].getsockname()[1]
    datagrams.bind(("127.0.0.1", port))
    bind_when_free(listening[1], "\0osl-canary")
    listening[2].bind(str(path_socket))
    path_socket.chmod(0o777)
    for one in listening:
        one.listen()
        threading.Thread(target=_answer_stream, args=(one,), daemon=True).start()
    threading.Thread(target=_answer_datagrams, args=(datagrams,), daemon=True).start()
    sleeper = subprocess.Popen(["sleep", "300"], env={"SECRET_TOKEN": "hunter2"})
    try:
        yield Canaries(
            {
                "CANARY_PORT": str(port),
                "CANARY_PID": str(sleeper.pid),
                "CANARY_SECRET": str(secret),
                "CANARY_SOCK": str(path_socket),
            },
            data,
        )
    finally:
        sleeper.kill()
        sleeper.wait()
        for one in (*listening, datagrams):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for path in (secret, data / "patients.csv", path_socket):
            path.unlink(missing_ok=True)
        data.rmdir()
        open_folder.rmdir()


def _answer_stream(listening: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            one, _ = listening.accept()
            with one:
                one.send(b"canary")


def _answer_datagrams(bound: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            _, who = bound.recvfrom(100)
            if who is None:
                return  # shut down
            bound.sendto(b"canary", who)


def verdicts(log: str) -> dict[str, tuple[str, str]]:
    lines = (line.split("\t") for line in log.splitlines() if line.count("\t") >= 2)
    return {name: (verdict, detail) for name, verdict, detail, *_ in lines}


def probe_run(executor: Executor, canaries: Canaries) -> RunResult:
    spec = a_spec(
        *PYTHON,
        "/job/probe.py",
        files={"probe.py": (PROBES / "probe.py").read_bytes()},
        mounts=(Mount(canaries.data, PurePosixPath("/data")),),
        environment=canaries.environment,
        wall_seconds=120.0,
    )
    return run_to_end(executor, spec)


def test_on_a_bare_machine_the_canaries_answer(canaries):
    """As an ordinary uid where we are root: what follows would prove nothing otherwise."""
    names = [
        "tcp_host_loopback_canary", "udp_host_loopback_canary", "abstract_unix_canary", "path_unix_sockets_docker",
        "other_job_data", "see_host_processes",
    ]  # fmt: skip
    ordinary = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(
        ["/usr/bin/python3" if ordinary else sys.executable, "-", *names],
        input=(PROBES / "probe.py").read_bytes(),
        env=canaries.environment,
        cwd="/",
        capture_output=True,
        check=False,
        **ordinary,  # type: ignore[call-overload]
    )
    seen = verdicts(done.stdout.decode())
    assert {name: verdict for name, (verdict, _) in seen.items()} == dict.fromkeys(names, "REACHED")


def test_every_way_out_is_blocked_but_the_harmless_ones(executor, canaries):
    result = probe_run(executor, canaries)
    seen = verdicts(result.log.decode())
    reached = {name: detail for name, (verdict, detail) in seen.items() if verdict != "blocked"}
    assert len(seen) == 86
    assert set(reached) <= set(HARMLESS), reached


# -- exhaustion ------------------------------------------------------------------------------------


class Bomb(NamedTuple):
    """How a run of one mode of `bombs.py` must end, and what its log or its outputs must say."""

    kinds: tuple[EndKind, ...]
    check: Callable[[RunResult], bool] = lambda result: True
    wall_seconds: float = 12.0


def numbers(result: RunResult, before: str) -> list[int]:
    return [int(found) for found in re.findall(re.escape(before) + r" (\d+)", result.log.decode("utf-8", "replace"))]


EXITED, TIME, MEMORY = EndKind.EXITED, EndKind.TIME, EndKind.MEMORY
BOMBS = {
    "memory": Bomb((MEMORY,)),
    "memory_children": Bomb((MEMORY,)),
    "memfd_and_shm": Bomb((MEMORY, EXITED)),
    "forkbomb": Bomb((EXITED,), lambda result: numbers(result, "fork stopped after")[0] <= 64),
    "threads": Bomb((EXITED,), lambda result: numbers(result, "threads")[0] <= 64),
    "spin": Bomb((TIME,), wall_seconds=1.0),
    "background": Bomb((EXITED,), lambda result: result.wall_seconds < 15),
    "hold_stdout": Bomb((EXITED,), lambda result: result.wall_seconds < 15),
    "logflood": Bomb((EXITED, TIME), lambda result: len(result.log) <= 1 * MB, wall_seconds=6.0),
    "hugefile": Bomb((EXITED, MEMORY), lambda result: sum(file.size for file in result.files) <= 64 * MB),
    "sparse": Bomb((EXITED,), lambda result: all(file.size <= 16 * MB for file in result.files)),
    "tiny": Bomb((EXITED,), lambda result: numbers(result, "tiny files")[0] < 5000 and len(result.files) == 200),
    "deep": Bomb((EXITED,), lambda result: result.files == ()),
    "names": Bomb(
        (EXITED,),
        lambda result: {file.path.name for file in result.files} <= {"ok.csv", "OK.csv", "CON.csv", "space .csv"},
    ),
    "links": Bomb((EXITED,), lambda result: {file.path.name for file in result.files} <= {"suid.csv", "noread.csv"}),
    "fds": Bomb((EXITED,)),
}
QUICK = {"memory", "forkbomb", "spin", "background", "names", "links"}


def bomb_run(executor: Executor, mode: str, wall_seconds: float) -> RunResult:
    spec = a_spec(
        *PYTHON,
        "/job/bombs.py",
        mode,
        files={"bombs.py": (PROBES / "bombs.py").read_bytes()},
        wall_seconds=wall_seconds,
    )
    return run_to_end(executor, spec)


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=() if mode in QUICK else pytest.mark.slow) for mode in BOMBS]
)
def test_a_bomb_hurts_nobody_but_itself(executor, mode):
    expected = BOMBS[mode]
    result = bomb_run(executor, mode, expected.wall_seconds)
    assert result.end.kind in expected.kinds, result.log[-500:]
    assert expected.check(result), (result.log[-500:], result.files[:20], result.refused[:20])
    assert result.memory_peak is None or result.memory_peak < 700 * MB
    for path in result.folder.rglob("*"):
        assert not path.is_symlink()
        assert path.stat().st_mode & 0o7077 == 0
    assert run_to_end(executor, python("print('still up')")).log == b"still up\n"


STOPPER = """
import os, signal, time
if os.fork() == 0:
    time.sleep(60)
os.kill(-1, signal.SIGSTOP)
time.sleep(60)
"""


def test_a_stopped_run_is_still_ended(executor):
    """SIGSTOP to everything that it may signal stops no clock of ours."""
    result = run_to_end(executor, python(STOPPER, wall_seconds=1.0))
    assert result.end.kind is EndKind.TIME


def test_signals_from_inside_reach_nobody_outside(executor):
    caught: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: caught.append(number))
    try:
        run_to_end(
            executor,
            python(f"import os\nfor pid in (-1, {os.getpid()}):\n  try: os.kill(pid, 10)\n  except OSError: pass"),
        )
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert caught == []
