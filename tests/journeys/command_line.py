"""`opensafely-lab` as somebody at a terminal has it: a process of its own, its exit code and what it says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen
from studies import ROOT, TEMPLATE

from opensafely_lab.desk.client import Client
from opensafely_lab.desk.level4 import Level4Client
from opensafely_lab.desk.settings import read_run_file, read_token
from opensafely_lab.desk.state import State

COMMAND = (sys.executable, "-m", "opensafely_lab.cli")


@frozen
class Said:
    """How one command ended."""

    code: int
    out: str = field(repr=False)
    err: str

    @property
    def refusal(self) -> str:
        """What it said on stderr, proved to be a refusal that a person can read and act on."""
        assert self.code not in (0, 4), self.out
        assert "Traceback" not in self.err
        assert "Something of ours broke" not in self.err, self.err
        lines = self.err.rstrip("\n").split("\n")
        assert lines[0].startswith("opensafely-lab: "), self.err
        assert len(lines) >= 2, f"no next step: {self.err}"
        assert len(self.err) < 700, self.err
        assert self.err.replace("\n", "").isprintable()
        return self.err


def environment(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, without this person's git configuration, with this checkout's package."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        **(more or {}),
    }


def command(
    folder: Path, *words: object, cwd: Path | None = None, seconds: float = 300.0, more: Mapping[str, str] | None = None
) -> Said:
    """Run one command to its end. `folder` is private to the test."""
    done = subprocess.run(
        [*COMMAND, *(str(word) for word in words)],
        cwd=cwd or folder,
        env=environment(folder, more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    return Said(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def git(study: Path, *words: str) -> str:
    identity = ("-c", "user.name=ada", "-c", "user.email=ada@localhost", "-c", "init.defaultBranch=main")
    variables = environment(study.parent)
    done = subprocess.run(["git", *identity, *words], cwd=study, env=variables, capture_output=True, check=True)
    return done.stdout.decode()


def a_study(folder: Path, *, committed: bool = False) -> Path:
    """The template's study as a folder, or as a repository with one commit."""
    shutil.copytree(TEMPLATE, folder)
    if committed:
        git(folder, "init", "--quiet")
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", "first")
    return folder


def notebook_of(study: Path) -> Path:
    return study / "analysis" / "gi_bleeding.ipynb"


def with_cells(study: Path, *sources: str) -> None:
    """Add code cells at the end of the study's notebook."""
    document = json.loads(notebook_of(study).read_text())
    document["cells"] += [
        {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
        for source in sources
    ]
    notebook_of(study).write_text(json.dumps(document))


class Up:
    """One `opensafely-lab up` without a Lab: a process, its output, its state folder, its children."""

    MODULES = {"site": "opensafely_lab.site", "agent": "opensafely_lab.backend.agent"}  # noqa: RUF012

    def __init__(self, folder: Path, *options: object) -> None:
        folder.chmod(0o755)
        self.folder, self.state = folder, State(folder / "state")
        self.told = folder / "up.txt"
        words = [*COMMAND, "up", "--no-lab", "--headless", "--state", str(self.state.folder), *map(str, options)]
        with self.told.open("wb") as out:
            self.process = subprocess.Popen(
                words, stdout=out, stderr=subprocess.STDOUT, cwd=folder, env=environment(folder)
            )

    def ready(self) -> Up:
        wait_for(lambda: self.process.poll() is not None or "Ctrl-C stops it." in self.told.read_text(), 300)
        assert self.process.poll() is None, self.told.read_text()
        return self

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    @property
    def study(self) -> Path:
        return self.state.folder / "study"

    @property
    def client(self) -> Client:
        return Client(read_run_file(self.state).site, read_token(self.state, "site"))

    @property
    def level4(self) -> Level4Client:
        return Level4Client(str(read_run_file(self.state).level4), read_token(self.state, "level4"))

    def submit(self, *words: object, **more: Any) -> Said:
        return command(self.folder, "submit", "--project", self.study, "--state", self.state.folder, *words, **more)

    def pid(self, name: str) -> int | None:
        """The child of that name."""
        for pid, parent, words in processes():
            if parent == self.process.pid and self.MODULES[name] in words:
                return pid
        return None

    def inside(self, word: str) -> list[int]:
        """The processes below the agent in whose command line `word` is."""
        known = {pid: (parent, words) for pid, parent, words in processes()}
        agent = self.pid("agent")

        def below(pid: int) -> bool:
            while pid in known:
                pid = known[pid][0]
                if pid == agent:
                    return True
            return False

        return [pid for pid, (_, words) in known.items() if any(word in w for w in words) and below(pid)]


def processes() -> list[tuple[int, int, list[str]]]:
    """(pid, parent, command line) of every process that is not dead."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            words = (stat.parent / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if fields[0] != "Z":
            found.append((int(stat.parent.name), int(fields[1]), words))
    return found


def wait_for(what: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
