"""The server extension over HTTP, in a real Jupyter server, with a fake desk behind it."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_desk
import pytest
from lab_harness import TOKEN, Lab, running_lab

pytestmark = pytest.mark.slow

START = {"path": "study/gi_bleeding.ipynb", "kind": "local", "parameters": {}, "fixes": []}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    root = folder / "root"
    (root / "study").mkdir(parents=True)
    (root / "study" / "gi_bleeding.ipynb").write_text(json.dumps(fake_desk.NOTEBOOK))
    with running_lab(folder, root, environment={"OSL_FAKE_EARLIER": "1", "OSL_FAKE_DIRTY": "1"}) as running:
        yield running


def test_status_says_who_and_what_is_reachable(lab: Lab) -> None:
    status, answer = lab.ask("status")
    assert status == 200
    assert answer["user"] == "analyst"
    assert answer["site_reachable"] is True


@pytest.mark.parametrize("path", ["status", "runs", "events", "notebook?path=a.ipynb", "results/abc"])
def test_nobody_is_answered_without_the_token(lab: Lab, path: str) -> None:
    status, answer = lab.ask(path, token=None)
    assert status == 403
    assert "user" not in answer


def test_a_run_cannot_be_started_without_the_token(lab: Lab) -> None:
    assert lab.ask("runs", body=START, token=None)[0] == 403


def test_nothing_is_cancelled_without_the_token(lab: Lab) -> None:
    assert lab.ask("runs/earlier000000001/cancel", body={}, token=None)[0] == 403


def test_a_cancel_is_answered_with_the_run_and_its_end_is_told_later(lab: Lab) -> None:
    status, answer = lab.ask("runs/earlier000000001/cancel", body={})
    assert (status, answer["id"], answer["stage"]) == (202, "earlier000000001", "executing")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        rows: list[dict[str, Any]] = lab.ask("runs")[1]["runs"]  # type: ignore[assignment]
        (row,) = [row for row in rows if row["id"] == "earlier000000001"]
        if row["stage"] == "cancelled":
            break
        time.sleep(0.1)
    assert row["problem"]["sentence"] == "The job was cancelled; nothing of it is kept."


@pytest.mark.parametrize(("run", "status"), [("earlier000000005", 409), ("0" * 16, 404), ("..%2Fx", 404), ("A", 404)])
def test_what_is_no_job_cannot_be_cancelled(lab: Lab, run: str, status: int) -> None:
    assert lab.ask(f"runs/{run}/cancel", body={})[0] == status


def test_a_cancel_is_never_a_get(lab: Lab) -> None:
    assert lab.ask("runs/earlier000000001/cancel")[0] == 405


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'"text"',
        json.dumps(START | {"more": 1}).encode(),
        json.dumps(START | {"kind": "other"}).encode(),
        json.dumps(START | {"path": 5}).encode(),
        json.dumps({k: v for k, v in START.items() if k != "path"}).encode(),
        json.dumps(START).replace("{}", '{"x": NaN}').encode(),
        json.dumps(START).replace("{}", '{"x": {"y": 1}}').encode(),
        json.dumps(START).replace("{}", '{"x": 1e999}').encode(),
        b"[" * 100_000,
        b'{"path": "' + b"a" * (300 * 1024) + b'"}',
    ],
)
def test_a_request_that_is_no_message_is_refused_with_a_sentence(lab: Lab, body: bytes) -> None:
    status, answer = lab.ask("runs", body=body)
    assert status == 400
    assert answer["sentence"]
    assert len(json.dumps(answer)) < 1000


@pytest.mark.parametrize(
    "path", ["../x.ipynb", "/etc/passwd", "a//b", "a/./b", "a\\b", "a\x00b", "a\nb", "", "x" * 5000]
)
def test_a_path_outside_the_served_folder_is_refused(lab: Lab, path: str) -> None:
    status, answer = lab.ask("runs", body=START | {"path": path})
    assert status == 400
    assert answer["sentence"]


def test_a_refusal_travels_with_its_next_step_and_its_fix(lab: Lab) -> None:
    status, answer = lab.ask("runs", body=START | {"kind": "submitted"})
    assert status == 409
    assert answer["fix"] == "commit"
    assert answer["next_step"]


def test_what_breaks_inside_is_told_in_our_words_and_logged_without_its_text(lab: Lab) -> None:
    status, answer = lab.ask("runs", body=START | {"parameters": {"minimum_age": 13}})
    assert status == 500
    assert answer["code"] == "platform"
    assert "secret-from-the-data" not in json.dumps(answer)
    assert "secret-from-the-data" not in lab.log.read_text()
    assert "ValueError" in lab.log.read_text()


@pytest.mark.parametrize("run", ["0000000000000000", "..%2F..%2Fetc", "ABC", "a%00b"])
def test_an_unknown_result_is_not_found(lab: Lab, run: str) -> None:
    assert lab.ask(f"results/{run}")[0] == 404


def test_a_result_is_answered_and_may_not_be_cached(lab: Lab) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", lab.port, timeout=10)
    connection.request("GET", "/opensafely/results/earlier000000002", headers={"Authorization": f"token {TOKEN}"})
    response = connection.getresponse()
    assert response.status == 200
    assert response.headers["Cache-Control"] == "no-store"
    assert json.loads(response.read())["level"] == "level4"


def test_events_tell_the_runs_at_once_and_again_after_each_change(lab: Lab) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", lab.port, timeout=10)
    connection.request("GET", "/opensafely/events", headers={"Authorization": f"token {TOKEN}"})
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/event-stream")
    before = _next_runs(response)
    _, started = lab.ask("runs", body=START)
    run = started["run"]["id"]  # type: ignore[index]
    assert run not in [row["id"] for row in before]
    stages = []
    deadline = time.monotonic() + 10
    while "done" not in stages and time.monotonic() < deadline:
        stages += [row["stage"] for row in _next_runs(response) if row["id"] == run]
    assert "dummy-run" in stages
    assert stages[-1] == "done"
    connection.close()


def _next_runs(response: http.client.HTTPResponse) -> list[dict[str, str]]:
    while True:
        line = response.readline().decode()
        if line.startswith("data: "):
            rows: list[dict[str, str]] = json.loads(line[6:])["runs"]
            return rows


def test_the_page_is_closed_to_other_hosts_by_its_policy(lab: Lab) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", lab.port, timeout=10)
    connection.request("GET", "/lab", headers={"Authorization": f"token {TOKEN}"})
    policy = connection.getresponse().headers["Content-Security-Policy"]
    for directive in ("default-src 'self'", "object-src 'none'", "form-action 'self'", "frame-ancestors 'self'"):
        assert directive in policy
    assert "http:" not in policy
    assert "*" not in policy


def test_a_study_is_made_once(lab: Lab) -> None:
    asked = {"template": "default", "folder": "my-study"}
    status, answer = lab.ask("studies", body=asked)
    assert (status, answer["folder"]) == (201, "my-study")
    assert (Path(lab.root) / str(answer["notebook"])).is_file()
    status, answer = lab.ask("studies", body=asked)
    assert status == 400
    assert answer["next_step"]
