"""The agent against a real site process: what a job goes through, and what the site is told of it."""

from __future__ import annotations

import pytest
from service_fakes import Everything


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
