"""`opensafely-lab up`: everything starts, is looked after, and stops; and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opensafely_lab.desk.health import answers, backend_ready

pytestmark = [pytest.mark.slow, pytest.mark.sandbox]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
CHILDREN = {
    "site": "opensafely_lab.site",
    "level 4 service": "opensafely_lab.backend.level4",
    "agent": "opensafely_lab.backend.agent",
    "JupyterLab": "jupyterlab",
}


class Up:
    """One `up`, from the outside: a process, its output, its state folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.state = folder / "state"
        self.out = folder / "out.txt"
        words = [sys.executable, "-m", "opensafely_lab.cli", "up", "--headless", "--state", str(self.state), *options]
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, cwd=folder)

    def said(self) -> str:
        return self.out.read_text()

    def ready(self) -> dict[str, Any]:
        wait_for(lambda: self.process.poll() is not None or "Ctrl-C stops it." in self.said(), 120)
        assert self.process.poll() is None, self.said()
        run: dict[str, Any] = json.loads((self.state / "run.json").read_text())
        return run

    def pids(self) -> dict[str, int]:
        """Its children by name, from the process table."""
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                words = (stat.parent / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if parent == self.process.pid:
                found.update({name: int(stat.parent.name) for name, module in CHILDREN.items() if module in words})
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def wait_for(what: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def status(url: str) -> int:
    try:
        with DIRECT.open(url, timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Starts an `up` of the test's own."""
    started: list[Up] = []

    def start(*options: str) -> Up:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Up(folder, *options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One that stays up for the tests that leave it as it was."""
    one = Up(tmp_path_factory.mktemp("up"))
    one.ready()
    yield one
    assert one.stop() == 0


def test_up_prints_one_address_that_opens_lab(shared):
    run = shared.ready()
    assert set(shared.pids()) == set(CHILDREN)
    addresses = [word for word in shared.said().split() if word.startswith("http")]
    assert len(addresses) == 1
    assert addresses[0].startswith(run["lab"])
    assert "gi_bleeding.ipynb" in addresses[0]
    assert status(addresses[0]) == 200
    assert answers(f"{run['site']}/health")
    assert backend_ready(f"{run['level4']}/health")


def test_lab_wants_its_token_and_lets_nothing_out(shared):
    run = shared.ready()
    assert status(f"{run['lab']}/api/contents") == 403
    with DIRECT.open(f"{run['lab']}/lab?token={(shared.state / 'lab.token').read_text()}") as page:
        policy = page.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert f"ws://{run['lab'].removeprefix('http://')}" in policy
    assert "ws: " not in policy


def test_everything_listens_on_loopback_alone(shared):
    ours = set(shared.pids().values())
    sockets = {os.readlink(fd) for pid in ours for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                listening.append(words[1].split(":")[0])
    assert len(listening) >= 3
    assert set(listening) == {"0100007F"}


def test_secrets_are_in_private_files_and_in_no_command_line(shared):
    tokens = {path.name: path.read_text().strip() for path in shared.state.glob("*.token")}
    assert set(tokens) == {"site.token", "backend.token", "level4.token", "lab.token"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in shared.state.glob("*.token"))
    command_lines = b"\0".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in shared.pids().values()).decode()
    assert not any(token in command_lines for token in tokens.values())


def test_a_second_up_on_the_same_state_is_refused_with_the_address(shared):
    run = shared.ready()
    words = [sys.executable, "-m", "opensafely_lab.cli", "up", "--headless", "--state", str(shared.state)]
    second = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 3
    assert "already runs" in second.stderr
    assert run["lab"] in second.stderr
    assert answers(f"{run['site']}/health")


@pytest.mark.parametrize("name", CHILDREN)
def test_a_child_that_is_killed_comes_back_at_the_same_address(shared, name):
    run = shared.ready()
    first = shared.pids()[name]
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: shared.pids().get(name, first) != first, 30)
    for url in (f"{run['site']}/health", f"{run['level4']}/health", f"{run['lab']}/api"):
        wait_for(lambda url=url: answers(url), 60)
    wait_for(lambda: backend_ready(f"{run['level4']}/health"), 60)
    assert f"The {name} stopped; it starts again" in shared.said()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_stops_everything_and_says_what_it_leaves(up, number):
    one = up()
    run = one.ready()
    pids = one.pids()
    assert one.stop(number) == 0
    assert not any(alive(pid) for pid in pids.values())
    assert not (one.state / "run.json").exists()
    assert not answers(f"{run['site']}/health")
    assert str(one.state) in one.said().splitlines()[-1]


def test_when_up_is_killed_its_children_go_too_and_the_state_can_be_used_again(up):
    one = up("--no-lab")
    one.ready()
    pids = one.pids()
    one.process.kill()
    one.process.wait()
    wait_for(lambda: not any(alive(pid) for pid in pids.values()), 30)
    again = Up(one.state.parent, "--no-lab")
    again.ready()
    assert again.stop() == 0


def test_records_that_are_not_marked_synthetic_are_refused_before_anything_starts(tmp_path):
    (tmp_path / "records").mkdir()
    words = [sys.executable, "-m", "opensafely_lab.cli", "up", "--headless", "--state", str(tmp_path / "state")]
    done = subprocess.run(
        [*words, "--data", str(tmp_path / "records")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 3
    assert "does not say that its records are synthetic" in done.stderr
    assert not (tmp_path / "state").exists()
