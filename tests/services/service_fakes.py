"""What the tests of site and backend share: a site in a process or a thread, a fake work, a fake bundle."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import requests
import uvicorn
from attrs import define, field, frozen
from fastapi import FastAPI

from opensafely_lab.backend.work import Document, Order, Probe, RunFailure, WorkResult
from opensafely_lab.errors import Refused
from opensafely_lab.service.database import Database
from opensafely_lab.service.tokens import new_token, write_token
from opensafely_lab.wire.base import JobCode

HERE = Path(__file__).parent
COMMIT = "c0ffee" + "0" * 34
OTHER_COMMIT = "d" * 40
# What a run on real records might say; it must not be found outside the backend's own stores.
PATIENT = "pt_7be19c40d2 Isles of Scilly 271.7"


class DoesNotHold(Refused):
    code = "commit-missing"


def bundle_of(commit: str = COMMIT, padding: int = 0) -> bytes:
    """As much of a git bundle as the site and the fake `unpack` look at."""
    return b"# v2 git bundle\n" + commit.encode() + b" HEAD\n" + bytes(padding)


def fake_unpack(data: bytes, commit: str, into: Path) -> None:
    if commit.encode() not in data:
        raise DoesNotHold("The bundle does not hold this commit.")
    (into / "COMMIT").write_text(commit)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def submission(**changes: Any) -> dict[str, Any]:
    return {
        "idempotency_key": "0123456789abcdef",
        "project": "gi-bleeding",
        "workspace": "main",
        "backends": ["demo"],
        "commit": COMMIT,
        "bundle": sha256(bundle_of()),
        "action": "bleeding",
        "parameters": {"index_date": "2010-01-01", "age_bands": [50, 60], "share": 0.5, "strict": True},
        "requests": '{"version":1,"requests":[]}',
        "layout": {"outputs": [1, 4], "execution_counts": {"1": 1, "4": 2}},
        "definitions": {"generate_dataset": "e" * 64},
        "policy": "opensafely",
    } | changes


@frozen
class Http:
    """A person or backend with a token, at an address."""

    url: str
    token: str | None = None

    def __call__(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = dict(options.pop("headers", {}))
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, self.url + path, headers=headers, timeout=40, **options)

    def upload(self, data: bytes | None = None) -> None:
        data = bundle_of() if data is None else data
        assert self("PUT", f"/api/v1/bundles/{sha256(data)}", data=data).status_code in {200, 201}

    def submit(self, **changes: Any) -> dict[str, Any]:
        self.upload()
        answer = self("POST", "/api/v1/jobs", json=submission(**changes))
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()["jobs"][0]
        return job

    def job(self, job: str) -> dict[str, Any]:
        answer = self("GET", f"/api/v1/jobs/{job}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait_for(self, job: str, is_it: Callable[[dict[str, Any]], bool], seconds: float = 90) -> dict[str, Any]:
        """Follow a job as a desk does."""
        deadline = time.monotonic() + seconds
        found = self.job(job)
        while not is_it(found):
            assert time.monotonic() < deadline, f"after {seconds} s the job is still {found['code']}"
            try:
                found = self("GET", f"/api/v1/jobs/{job}", params={"seen": found["updated_at"], "wait": 1}).json()
            except requests.RequestException:
                time.sleep(0.1)
        return found

    def wait_for_end(self, job: str, seconds: float = 90) -> dict[str, Any]:
        return self.wait_for(job, lambda found: found["state"] in {"succeeded", "failed"}, seconds)


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The application behind a real server, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)


def python(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE)])}
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, *arguments], env=environment, stdout=file, stderr=file)


_made: dict[Path, bytes] = {}


def put_database(path: Path, migrations: Path) -> None:
    """A new database, copied from one that the migrations made once: a hundred tests need one each."""
    if migrations not in _made:
        with TemporaryDirectory() as folder:
            database = Database(Path(folder) / "x.sqlite")
            database.migrate(migrations)
            database.close()
            _made[migrations] = (Path(folder) / "x.sqlite").read_bytes()
    path.touch(mode=0o600)
    path.write_bytes(_made[migrations])


def wait_until(is_it: Callable[[], object], seconds: float = 90, what: str = "it") -> None:
    deadline = time.monotonic() + seconds
    while not is_it():
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.02)


@define
class Process:
    """One of ours, as a real process with a settings file; `start` again after `kill`."""

    arguments: tuple[str, ...]
    settings: dict[str, Any]
    folder: Path
    name: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        config = self.folder / f"{self.name}.json"
        config.write_text(json.dumps(self.settings))
        if port_file := self.settings.get("port_file"):
            Path(port_file).unlink(missing_ok=True)
        self.process = python(*self.arguments, "--config", str(config), log=self.log)
        if port_file:
            wait_until(lambda: Path(port_file).exists() or self.ended, what=f"the start of {self.name}")
            assert not self.ended, self.log.read_text()
            self.settings["port"] = int(Path(port_file).read_text())  # the same one when it starts again

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings['port']}"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@define
class Everything:
    """Site, agent and level 4 service of one test, each in its own folder, and their people."""

    folder: Path
    site: Process
    agent: Process
    level4: Process
    author: Http = field(init=False)
    analyst: Http = field(init=False)

    def start_site(self) -> None:
        self.site.start()
        self.author = Http(self.site.url, (self.folder / "site.token").read_text().strip())
        self.agent.settings["site"] = self.site.url

    def start_level4(self) -> None:
        self.level4.start()
        self.analyst = Http(self.level4.url, (self.folder / "level4.token").read_text().strip())

    def stop(self) -> None:
        for process in (self.agent, self.level4, self.site):
            if not process.ended:
                process.kill()

    @property
    def runs(self) -> list[str]:
        file = self.folder / "runs.txt"
        return file.read_text().split() if file.exists() else []


def everything(folder: Path, **agent_changes: Any) -> Everything:
    for room in ("site-state", "backend-state", "records"):
        (folder / room).mkdir(mode=0o700)
    (folder / "records" / "manifest.json").write_text('{"synthetic": true}')
    write_token(folder / "backend.token", new_token())
    site = {
        "state": str(folder / "site-state"),
        "port_file": str(folder / "site.port"),
        "seed": {
            "user": "alice",
            "project": "gi-bleeding",
            "workspace": "main",
            "backend": "demo",
            "user_token_file": str(folder / "site.token"),
            "backend_token_file": str(folder / "backend.token"),
        },
    }
    state = {"backend": "demo", "state": str(folder / "backend-state")}
    seed = {"project": "gi-bleeding", "user": "alice", "token_file": str(folder / "level4.token")}
    agent = state | {
        "site": "",
        "token_file": str(folder / "backend.token"),
        "data": str(folder / "records"),
        "seed": seed,
        "poll_seconds": 2,
        "pause_seconds": 0.2,
    }
    return Everything(
        folder=folder,
        site=Process(("-m", "opensafely_lab.site"), site, folder, "site"),
        agent=Process((str(HERE / "agent_process.py"), str(folder)), agent | agent_changes, folder, "agent"),
        level4=Process(
            ("-m", "opensafely_lab.backend.level4"),
            state | {"port_file": str(folder / "level4.port"), "seed": seed},
            folder,
            "level4",
        ),
    )


@define(slots=False)
class FakeWork:
    """Carries out a job by writing down that it did. The parameter `mode` says how it goes."""

    runs: Path
    ready: bool = True
    at: Callable[[str], None] = field(default=lambda _step: None)
    reaped: int = 0

    def probe(self) -> Probe:
        return Probe("fake", {"isolation": "none, it is a test"}, ready=self.ready)

    def reap(self) -> None:
        self.reaped += 1

    def run(self, order: Order, tell: Callable[[JobCode], None]) -> WorkResult:
        with self.runs.open("a") as file:
            file.write(order.run + "\n")
        mode = order.assignment.request.parameters.get("mode", "succeed")
        assert (order.checkout / "COMMIT").read_text() == order.assignment.request.commit
        extract = order.scratch / "extract.arrow"
        extract.write_text(PATIENT)
        tell(JobCode.EXECUTING)
        self.at("working")
        if mode == "raise":
            raise ValueError(f"could not convert string to float: {PATIENT!r}")
        if mode == "exit":
            raise SystemExit(PATIENT)
        if mode == "wait":
            while not order.cancelled():
                time.sleep(0.01)
            return self._result(JobCode.CANCELLED)
        if mode == "fail":
            return self._result(JobCode.RUN_FAILED, failure=RunFailure("memory-limit", 4))
        tell(JobCode.CHECKING)
        self.at("checking")
        return self._result(
            JobCode.SUCCEEDED,
            document=Document(
                name="gi_bleeding.ipynb",
                notebook=b'{"nbformat":4}',
                disclosure=b'{"outputs":[]}',
                files={"tables/00-by_age.csv": b"age,count\n50-59,10\n"},
            ),
            kept={"executed.ipynb": extract},
        )

    def _result(self, code: JobCode, **more: Any) -> WorkResult:
        return WorkResult(code=code, executor="fake", layers={"isolation": "none, it is a test"}, **more)
