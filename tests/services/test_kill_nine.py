"""kill -9 of agent or site in the middle of a job, at each step: after a restart the job ends properly, once."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from service_fakes import Everything, bundle_of, everything, sha256, submission, wait_until

from opensafely_lab.service.blobs import Blobs
from opensafely_lab.wire.base import ENDS, MOVES, JobCode

pytestmark = pytest.mark.slow

STEPS = [
    "received",
    "fetched",
    "begun",
    "unpacked",
    "working",
    "told",
    "checking",
    "worked",
    "stored",
    "ended",
    "offered",
    "sent",
    "noted",
    "tidied",
]
# An attempt that was begun and not ended when its agent was killed is lost, and there is a second one.
LOST_AT = {"begun", "unpacked", "working", "told", "checking", "worked", "stored"}
number = itertools.count()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    made = everything(tmp_path_factory.mktemp("place"))
    made.start_site()
    made.agent.start()
    made.start_level4()
    yield made
    made.stop()


def backend(place: Everything, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with sqlite3.connect(place.folder / "backend-state" / "backend.sqlite", timeout=20) as database:
        return list(database.execute(query, values))


def moves_at_site(place: Everything, job: str) -> list[JobCode]:
    with sqlite3.connect(place.folder / "site-state" / "site.sqlite", timeout=20) as database:
        rows = database.execute("select code from job_events where job = ? order by id", (job,))
        return [JobCode(code) for (code,) in rows]


def submit(place: Everything, mode: str = "succeed") -> str:
    return str(place.author.submit(idempotency_key=f"{next(number):016d}", parameters={"mode": mode})["id"])


def quiet(place: Everything) -> None:
    """Nothing is left to do or to tell."""
    unsent, untidy = "select 1 from notices where sent_at is null", "select 1 from jobs where not tidy"
    wait_until(lambda: not backend(place, unsent) and not backend(place, untidy), what="quiet")


def ended_properly_once(place: Everything, job: str) -> None:
    assert place.author.wait_for_end(job)["code"] == "succeeded"
    quiet(place)
    moves = moves_at_site(place, job)
    assert all(later in MOVES[earlier] for earlier, later in itertools.pairwise(moves))
    assert [code for code in moves if code in ENDS] == [JobCode.SUCCEEDED]
    assert backend(place, "select count(*) from results where job = ?", job) == [(1,)]
    assert backend(place, "select count(*) from attempts where job = ? and end = 'done'", job) == [(1,)]
    assert place.analyst("GET", f"/level4/jobs/{job}/result").status_code == 200
    assert list((place.folder / "backend-state" / "level3" / "scratch").iterdir()) == []


@pytest.mark.parametrize("step", STEPS)
def test_an_agent_that_is_killed_at_a_step_goes_on_after_it_starts_again(place: Everything, step: str) -> None:
    quiet(place)
    (place.folder / "die-at").write_text(step)
    job = submit(place)
    wait_until(lambda: place.agent.ended, what=f"the death at {step}")
    assert place.agent.process is not None
    assert place.agent.process.returncode == -9
    place.agent.start()
    ended_properly_once(place, job)
    ends = [end for (end,) in backend(place, "select end from attempts where job = ? order by began_at", job)]
    assert ends == (["lost", "done"] if step in LOST_AT else ["done"])


@pytest.mark.parametrize("step", STEPS)
def test_a_site_that_is_killed_while_the_agent_is_at_a_step_is_told_when_it_is_back(
    place: Everything, step: str
) -> None:
    quiet(place)
    (place.folder / "hold-at").write_text(step)
    job = submit(place)
    wait_until((place.folder / "holding").exists, what=f"the agent at {step}")
    place.site.kill()
    (place.folder / "holding").unlink()
    time.sleep(0.3)  # the agent finds nobody there
    place.site.start()
    ended_properly_once(place, job)
    assert backend(place, "select count(*) from attempts where job = ?", job) == [(1,)]


def test_a_job_whose_agent_is_killed_three_times_ends_as_ours(place: Everything) -> None:
    quiet(place)
    (place.folder / "die-at").write_text("working")
    job = submit(place)
    for attempt in range(3):
        wait_until(lambda: place.agent.ended)
        if attempt < 2:
            (place.folder / "die-at").write_text("working")
        place.agent.start()
    assert place.author.wait_for_end(job)["code"] == "platform-error"
    assert backend(place, "select end from attempts where job = ?", job) == [("lost",)] * 3
    quiet(place)


def test_a_cancel_while_the_agent_is_dead_is_heard_when_it_is_back(place: Everything) -> None:
    quiet(place)
    (place.folder / "die-at").write_text("working")
    job = submit(place)
    wait_until(lambda: place.agent.ended)
    place.author("POST", f"/api/v1/jobs/{job}/cancel")
    runs = len(place.runs)
    place.agent.start()
    assert place.author.wait_for_end(job)["code"] in {"cancelled", "succeeded"}
    assert len(place.runs) <= runs + 1
    quiet(place)


def test_a_request_that_is_sent_until_it_is_answered_is_one_job_however_often_the_site_dies(place: Everything) -> None:
    quiet(place)
    body = submission(idempotency_key="sent-until-answered")
    place.author.upload()
    jobs: set[str] = set()

    def persist() -> None:
        while True:
            try:
                answer = place.author("POST", "/api/v1/jobs", json=body)
            except requests.RequestException:
                time.sleep(0.02)
                continue
            assert answer.status_code in {200, 201}
            jobs.add(answer.json()["jobs"][0]["id"])
            if stop.is_set():
                return

    stop = threading.Event()
    threads = [threading.Thread(target=persist, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.3)
        place.site.kill()
        place.site.start()
    stop.set()
    for thread in threads:
        thread.join(20)
    assert len(jobs) == 1
    ended_properly_once(place, jobs.pop())


def test_a_site_that_dies_during_an_upload_keeps_nothing_of_it(place: Everything) -> None:
    data = bundle_of(padding=4 << 20)
    killed = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield data[: 2 << 20]
        killed.wait(60)
        yield data[2 << 20 :]

    def upload() -> None:
        with suppress(requests.RequestException):
            place.author("PUT", f"/api/v1/bundles/{sha256(data)}", data=slowly())

    thread = threading.Thread(target=upload, daemon=True)
    thread.start()
    bundles = Blobs(Path(place.site.settings["state"]) / "bundles")
    incoming = bundles.folder / "incoming"
    wait_until(lambda: any(path.stat().st_size for path in incoming.glob("*")), what="the first bytes")
    place.site.kill()
    killed.set()
    thread.join(10)
    assert list((bundles.folder / "incoming").iterdir()) != []
    place.site.start()
    assert list((bundles.folder / "incoming").iterdir()) == []
    assert place.author("HEAD", f"/api/v1/bundles/{sha256(data)}").status_code == 404
    assert place.author("PUT", f"/api/v1/bundles/{sha256(data)}", data=data).status_code == 201
    assert bundles.get(sha256(data)) == data


def test_all_stop_cleanly_and_at_once_when_they_are_asked_to(place: Everything) -> None:
    quiet(place)
    waiting = threading.Thread(
        target=lambda: place.author("GET", "/api/v1/jobs?wait=20&seen=2100-01-01T00:00:00Z"), daemon=True
    )
    waiting.start()
    time.sleep(0.3)
    for process in (place.agent, place.site, place.level4):
        began = time.monotonic()
        assert process.stop() == 0, process.log.read_text()[-2000:]
        assert time.monotonic() - began < 10, "somebody waits for an answer; nobody waits for him"
    waiting.join(5)


def test_no_log_of_a_whole_day_like_this_holds_a_token_or_a_runs_text(place: Everything) -> None:
    for process in (place.agent, place.site, place.level4):
        text = process.log.read_text()
        assert text
        assert "osl_" not in text
        assert "7be19c40d2" not in text
        assert "Traceback" not in text, text[-3000:]
        assert "seen=" not in text
