"""The agent against a real site process: what a job goes through, and what the site is told of it."""

from __future__ import annotations

import pytest
from service_fakes import Everything, wait_until


@pytest.fixture
def running(place: Everything) -> Everything:
    place.start_site()
    place.agent.start()
    place.start_level4()
    return place


@pytest.mark.slow
def test_a_submitted_job_runs_once_and_its_result_is_at_level_4(running: Everything) -> None:
    job = running.author.submit()
    ended = running.author.wait_for_end(job["id"])
    assert (ended["state"], ended["code"]) == ("succeeded", "succeeded")
    assert len(running.runs) == 1
    document = running.analyst("GET", f"/level4/jobs/{job['id']}/result").json()
    assert (document["name"], document["notebook"]) == ("gi_bleeding.ipynb", '{"nbformat":4}')


@pytest.mark.slow
def test_what_the_agent_is_doing_is_told_while_it_does_it(running: Everything) -> None:
    (running.folder / "hold-at").write_text("told")
    job = running.author.submit()["id"]
    wait_until((running.folder / "holding").exists, what="the agent at work")
    wait_until(lambda: running.author("GET", f"/api/v1/jobs/{job}").json()["code"] == "executing", seconds=10)
    assert (running.folder / "holding").exists()
    (running.folder / "holding").unlink()
    assert running.author.wait_for_end(job)["code"] == "succeeded"
