"""`opensafely-lab submit`: each step and state is said once, a site that is away is waited for, an end has a code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import define, field

from opensafely_lab.desk import submitting
from opensafely_lab.desk.http import NotSignedIn, Unreachable
from opensafely_lab.desk.state import State
from opensafely_lab.desk.submit import Ask
from opensafely_lab.desk.submitting import EXITS, MOST_LOST_ANSWERS, Order, follow, submit
from opensafely_lab.errors import LabError, Refused, UsageError
from opensafely_lab.wire.base import ENDS, STATE_OF, JobCode
from opensafely_lab.wire.lab import Stage
from opensafely_lab.wire.sentences import SENTENCES
from opensafely_lab.wire.site import Job

WAY = (JobCode.CREATED, JobCode.WAITING, JobCode.PREPARING, JobCode.EXECUTING, JobCode.CHECKING)
BEGAN = datetime(2026, 2, 1, tzinfo=UTC)


def job(code: JobCode, step: int = 0, *, id: str = "j" * 16, backend: str = "demo") -> Job:
    return Job.model_validate(
        {
            "id": id,
            "project": "gi",
            "workspace": "main",
            "backend": backend,
            "commit": "c0ffee0" + "0" * 33,
            "action": "report",
            "parameters": {},
            "author": "alice",
            "state": STATE_OF[code],
            "code": code,
            "created_at": BEGAN,
            "updated_at": BEGAN + timedelta(seconds=step),
        }
    )


@define
class FakeClient:
    """Answers each question with the next of these."""

    answers: Iterator[Job | Exception]
    asked: list[datetime | None] = field(factory=list)

    def job(self, job: str, *, seen: datetime | None = None, wait: float = 0.0) -> Job:
        assert wait > 1
        self.asked.append(seen)
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitting, "AGAIN_AFTER_SECONDS", 0.0)


def away() -> Unreachable:
    return Unreachable("The jobs site does not answer.", next_step="Is `opensafely-lab up` running?")


# --- following


def test_each_state_is_said_once_and_the_end_with_its_next_step(said: list[str]) -> None:
    codes = [JobCode.CREATED, JobCode.CREATED, JobCode.PREPARING, JobCode.EXECUTING, JobCode.EXECUTING]
    client = FakeClient(iter([*(job(code) for code in codes), job(JobCode.SUCCEEDED)]))
    assert follow(client, job(JobCode.CREATED), said.append).code is JobCode.SUCCEEDED  # type: ignore[arg-type]
    order = (JobCode.CREATED, JobCode.PREPARING, JobCode.EXECUTING)
    end = SENTENCES[JobCode.SUCCEEDED]
    assert said == [*(SENTENCES[code].sentence for code in order), f"{end.sentence} {end.next_step}"]


def test_a_job_that_has_ended_is_not_asked_about(said: list[str]) -> None:
    client = FakeClient(iter([]))
    follow(client, job(JobCode.RUN_FAILED), said.append)  # type: ignore[arg-type]
    assert len(said) == 1


def test_news_are_asked_for_since_what_was_seen_last(said: list[str]) -> None:
    steps = [job(JobCode.WAITING, 3), job(JobCode.EXECUTING, 9), job(JobCode.SUCCEEDED, 12)]
    client = FakeClient(iter(steps))
    follow(client, job(JobCode.CREATED), said.append)  # type: ignore[arg-type]
    assert client.asked == [BEGAN, BEGAN + timedelta(seconds=3), BEGAN + timedelta(seconds=9)]


def test_a_site_that_is_away_for_a_while_is_waited_for(said: list[str]) -> None:
    lost = [away() for _ in range(MOST_LOST_ANSWERS)]
    client = FakeClient(iter([*lost, job(JobCode.WAITING), *lost, job(JobCode.SUCCEEDED)]))
    assert follow(client, job(JobCode.CREATED), said.append).code is JobCode.SUCCEEDED  # type: ignore[arg-type]
    assert len(said) == 3, "nothing is said of it"


def test_a_site_that_stays_away_is_told(said: list[str]) -> None:
    client = FakeClient(iter([away() for _ in range(MOST_LOST_ANSWERS + 1)]))
    with pytest.raises(Unreachable):
        follow(client, job(JobCode.CREATED), said.append)  # type: ignore[arg-type]


def test_a_refusal_is_told_at_once(said: list[str]) -> None:
    client = FakeClient(iter([NotSignedIn("The token is not known."), job(JobCode.SUCCEEDED)]))
    with pytest.raises(NotSignedIn):
        follow(client, job(JobCode.CREATED), said.append)  # type: ignore[arg-type]


# --- exit codes


def test_every_end_has_an_exit_code_and_only_success_is_zero() -> None:
    assert set(EXITS) == ENDS
    assert [code for code, number in EXITS.items() if number == 0] == [JobCode.SUCCEEDED]
    assert EXITS[JobCode.RUN_FAILED] == 1


# --- the whole command

Desk = Callable[..., int]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> Desk:
    """Submit with a desk that sends `jobs`, which end as `ends` says; `asks` are what it was asked to send."""

    def run(
        jobs: tuple[Job, ...] = (job(JobCode.CREATED),),
        ends: tuple[JobCode, ...] = (JobCode.SUCCEEDED,),
        refusal: LabError | None = None,
        asks: list[Ask] | None = None,
        **order: object,
    ) -> int:
        def send(ask: Ask, _ports: object, progress: Callable[[Stage, float], None]) -> object:
            if asks is not None:
                asks.append(ask)
            for stage in (Stage.QUEUED, Stage.DUMMY_RUN, Stage.DUMMY_RUN, Stage.SENDING, Stage.SENDING, Stage.WAITING):
                progress(stage, 0.5)
            if refusal is not None:
                raise refusal
            return type("Submission", (), {"jobs": jobs})()

        answers = iter([job(end) for end in ends])
        monkeypatch.setattr(submitting, "send_it", send)
        monkeypatch.setattr(submitting.send, "ports", lambda _state: None)
        monkeypatch.setattr(submitting, "read_run_file", lambda _state: type("RunFile", (), {"site": "http://x"})())
        monkeypatch.setattr(submitting, "read_token", lambda _state, _name: "t" * 16)
        monkeypatch.setattr(submitting, "Client", lambda _url, _token: FakeClient(answers))
        return submit(Order(tmp_path, **order), State(tmp_path), said.append)  # type: ignore[arg-type]

    return run


def test_the_steps_are_said_once_then_the_job_then_its_states(desk: Desk, said: list[str]) -> None:
    assert desk() == 0
    assert said[:3] == [
        "Running it on dummy data first.",
        "Sending the commit and the request.",
        f"Job {'j' * 16}: report at commit c0ffee0, on backend demo.",
    ]
    assert len(said) == 5


@pytest.mark.parametrize("end", sorted(ENDS))
def test_the_exit_code_is_that_of_the_end(desk: Desk, end: JobCode) -> None:
    assert desk(ends=(end,)) == EXITS[end]


def test_of_several_backends_the_worst_end_counts(desk: Desk, said: list[str]) -> None:
    jobs = (job(JobCode.CREATED), job(JobCode.CREATED, id="k" * 16, backend="other"))
    assert desk(jobs, (JobCode.RUN_FAILED, JobCode.SUCCEEDED)) == EXITS[JobCode.RUN_FAILED]
    assert sum(line.startswith("Job ") for line in said) == 2


def test_nobody_has_to_wait(desk: Desk, said: list[str]) -> None:
    assert desk(ends=(), wait=False) == 0
    assert said[-1] == "It goes on by itself; the panel in JupyterLab shows how."


def test_a_refusal_is_raised_as_it_is_and_nothing_is_followed(desk: Desk, said: list[str]) -> None:
    refusal = Refused("There are changes that are not committed.", next_step="Commit them.")
    with pytest.raises(Refused) as caught:
        desk(refusal=refusal)
    assert caught.value is refusal
    assert not any(line.startswith("Job ") for line in said)


def test_parameters_and_repairs_travel_as_typed(desk: Desk) -> None:
    asks: list[Ask] = []
    desk(asks=asks, action="report", parameters=[("n", "3")], fixes=("commit",))
    (ask,) = asks
    assert (ask.action, ask.parameters, ask.from_text, ask.fixes) == ("report", {"n": "3"}, True, ("commit",))


def test_a_parameter_given_twice_is_refused_before_anything_is_sent(desk: Desk) -> None:
    asks: list[Ask] = []
    with pytest.raises(UsageError):
        desk(asks=asks, parameters=[("n", "3"), ("n", "4")])
    assert asks == []
