"""A cancel from the panel reaches the site as the run's job, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from opensafely_lab.desk.runs import RunRecord, RunStore
from opensafely_lab.desk.server.local_desk import Links, LocalDesk, NotSent
from opensafely_lab.desk.settings import NotRunning, RunFile
from opensafely_lab.desk.state import State
from opensafely_lab.wire.base import STATE_OF, JobCode
from opensafely_lab.wire.lab import RunKind, RunRow, Stage
from opensafely_lab.wire.site import Job, Me

NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)
JOB = "j" * 16


def job(name: str = JOB) -> Job:
    return Job(
        id=name,
        project="p",
        workspace="w",
        backend="b",
        commit="a" * 40,
        action="bleeding",
        parameters={},
        state=STATE_OF[JobCode.EXECUTING],
        code=JobCode.EXECUTING,
        created_at=NOW,
        updated_at=NOW,
        author="analyst",
    )


@define
class Site:
    """Says what it was asked for. It hears the wish; that the job has ended is the backend's word."""

    cancelled: list[str] = field(factory=list)

    def me(self) -> Me:
        return Me(user="analyst", workspaces=[])

    def jobs(self, workspace: str, *, seen: datetime | None = None, wait: float = 0.0) -> list[Job]:
        return []

    def cancel(self, name: str) -> Job:
        self.cancelled.append(name)
        return job(name)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    state = State(tmp_path / "state")
    state.make()
    state.room("runs")
    return RunStore(state)


@pytest.fixture
def desk(store: RunStore, tmp_path: Path) -> Iterator[Callable[..., LocalDesk]]:
    made: list[LocalDesk] = []

    def make(connect: Callable[[], Any]) -> LocalDesk:
        made.append(LocalDesk(tmp_path, store, connect, lambda: "ok"))
        return made[-1]

    yield make
    for each in made:
        each.close()


def links(site: Site) -> Links:
    run = RunFile("http://127.0.0.1:1", None, None, None, "p", "w", ("b",), None)
    return Links(run, site, None)


def keep(store: RunStore, run: str, kind: RunKind, sent_as: str | None, stage: Stage = Stage.EXECUTING) -> None:
    row = RunRow(
        id=run,
        kind=kind,
        action="bleeding",
        notebook="a.ipynb",
        backend=None,
        commit=None,
        parameters={},
        stage=stage,
        progress=0.5,
        started=NOW.isoformat(),
        problem=None,
        has_result=False,
        level="none",
    )
    (store.folder / run).mkdir()
    store.write(RunRecord(row=row, study="/study", fixes=[], job=sent_as))


def test_a_run_begun_here_is_cancelled_as_its_job_and_stays_as_it_is_until_news_comes(store, desk) -> None:
    keep(store, "a" * 16, RunKind.SUBMITTED, JOB)
    site = Site()
    row = desk(lambda: links(site)).cancel("a" * 16)
    assert site.cancelled == [JOB]
    assert (row.id, row.stage) == ("a" * 16, Stage.EXECUTING)


def test_a_job_that_was_begun_elsewhere_is_cancelled_by_its_own_id(store, desk) -> None:
    site = Site()
    assert desk(lambda: links(site)).cancel("k" * 16).id == "k" * 16
    assert site.cancelled == ["k" * 16]


@pytest.mark.parametrize(("kind", "stage"), [(RunKind.LOCAL, Stage.DONE), (RunKind.SUBMITTED, Stage.REFUSED)])
def test_a_run_that_was_never_sent_is_refused_and_the_site_hears_nothing(store, desk, kind, stage) -> None:
    keep(store, "a" * 16, kind, None, stage)
    site = Site()
    with pytest.raises(NotSent) as refused:
        desk(lambda: links(site)).cancel("a" * 16)
    assert refused.value.next_step
    assert site.cancelled == []


def test_without_a_site_the_refusal_says_how_to_start_one(store, desk) -> None:
    def connect() -> Links:
        raise NotRunning("There is no site.", next_step="Start it.")

    keep(store, "a" * 16, RunKind.SUBMITTED, JOB)
    with pytest.raises(NotRunning):
        desk(connect).cancel("a" * 16)
