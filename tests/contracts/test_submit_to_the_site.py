"""The desk's submit against the real jobs site in a process of its own: one commit, one bundle, one job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

from opensafely_lab.desk import git
from opensafely_lab.desk.client import Client
from opensafely_lab.desk.http import NotSignedIn
from opensafely_lab.desk.settings import read_token
from opensafely_lab.desk.state import State
from opensafely_lab.desk.submit import Ask, DummyJob, DummyResult, Ports, Target, submit
from opensafely_lab.wire.base import JobCode
from opensafely_lab.wire.site import Layout

ROOT = Path(git.__file__).parents[2]


@frozen
class Running:
    url: str
    state: State


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    state = State(tmp_path_factory.mktemp("state"))
    seed = {
        "user": "analyst", "project": "demo", "workspace": "ws", "backend": "backend",
        "user_token_file": str(state.token("site")), "backend_token_file": str(state.token("backend")),
    }  # fmt: skip
    port_file = state.folder / "port"
    config = {"state": str(state.room("site")), "port_file": str(port_file), "seed": seed}
    (state.folder / "site.json").write_text(json.dumps(config))
    words = [sys.executable, "-m", "opensafely_lab.site", "--config", str(state.folder / "site.json")]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().strip()):
            assert process.poll() is None, "the site ended"
            assert time.monotonic() < until, "the site did not start"
            time.sleep(0.05)
        yield Running(f"http://127.0.0.1:{port_file.read_text().strip()}", state)
    finally:
        process.terminate()
        process.wait(20)


class DummyRun:
    fingerprint = "one"

    def __call__(self, job: DummyJob, progress: object) -> DummyResult:
        return DummyResult('{"requests":[],"version":1}', Layout(outputs=[], execution_counts={0: 1}), {})


def test_a_study_is_submitted_and_followed(running: Running, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    study = tmp_path / "study"
    study.mkdir()
    (study / "project.yaml").write_text("version: 5\nactions:\n  report:\n    run: notebook:v1 report.ipynb\n")
    cell = {"cell_type": "code", "source": "n = 1", "metadata": {"tags": ["parameters"]}, "outputs": []}
    (study / "report.ipynb").write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4}))
    git.create(study).commit_all("first")
    client = Client(running.url, read_token(running.state, "site"))
    ports = Ports(
        client, DummyRun(), tmp_path / "desk", Target("demo", "ws", ("backend",), "opensafely"), lambda: "k" * 20
    )
    sent = submit(Ask(study / "report.ipynb", parameters={"n": "7"}), ports, lambda *_: None)
    (job,) = sent.jobs
    assert (job.author, job.action, job.parameters, job.code) == ("analyst", "report", {"n": 7}, JobCode.CREATED)
    # The same key again: the same job, not a second one.
    assert submit(Ask(study / "report.ipynb", parameters={"n": "7"}), ports, lambda *_: None).jobs[0].id == job.id
    assert [j.id for j in client.jobs("ws")] == [job.id]
    began = time.monotonic()
    assert client.job(job.id, seen=job.updated_at, wait=0.3).id == job.id
    assert time.monotonic() - began >= 0.25
    assert client.cancel(job.id).id == job.id  # the backend says when it has stopped
    assert client.healthy()


def test_a_wrong_token_is_not_signed_in(running: Running) -> None:
    with pytest.raises(NotSignedIn):
        Client(running.url, "x" * 30).me()
