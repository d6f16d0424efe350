"""The agent's loop: ask the site for work, carry it out, tell a code.

Three kinds of threads share one database: one asks, one tells, `workers` work. Each looks at what is
written there, takes one step and looks again, so that the process can be killed anywhere.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import ClassVar, assert_never

from attrs import field, frozen
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from opensafely_lab.backend import jobs
from opensafely_lab.backend.attempt import Tools, Unpack, make_attempt
from opensafely_lab.backend.authorise import objection
from opensafely_lab.backend.site_link import NotAtSite, SiteLink, SiteUnreachable
from opensafely_lab.backend.steps import Step, next_step
from opensafely_lab.backend.store import Store, person, project
from opensafely_lab.backend.tables import Beat
from opensafely_lab.backend.work import Probe, Work
from opensafely_lab.disclosure.policy import Policy
from opensafely_lab.errors import LabError, PlatformError
from opensafely_lab.service.blobs import Damaged
from opensafely_lab.service.database import utc_now
from opensafely_lab.service.logs import describe, log
from opensafely_lab.service.tokens import new_identifier
from opensafely_lab.wire.base import JobCode
from opensafely_lab.wire.site import Assignment

BEAT_SECONDS = 5.0
PROBE_AGAIN_SECONDS = 60.0
LAST_WORK_SECONDS = 20.0  # to end what runs, when asked to stop
IDLE_SECONDS = 60.0


class AlreadyThere(PlatformError):
    code: ClassVar[str] = "agent-running"

    def __init__(self) -> None:
        super().__init__(
            "Another agent works on this state folder.",
            next_step="Stop it first, or give this one a folder of its own.",
        )


@frozen
class Frame:
    """Where the agent stands: who it is, what it asks, what it judges by. The functions are for tests."""

    backend: str
    store: Store
    new_link: Callable[[], SiteLink]
    work: Work
    unpack: Unpack
    policies: Mapping[str, Policy]
    workers: int = 1
    poll_seconds: float = 20.0
    pause_seconds: float = 5.0
    now: Callable[[], datetime] = utc_now
    new_id: Callable[[], str] = new_identifier
    at: Callable[[str], None] = field(default=lambda _step: None)


class _Bell:
    """Wakes those who wait, also when it rang between their look and their wait."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._rings = 0

    def heard(self) -> int:
        return self._rings

    def ring(self) -> None:
        with self._condition:
            self._rings += 1
            self._condition.notify_all()

    def wait(self, heard: int, seconds: float) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._rings != heard, seconds)


class Agent:
    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._store = frame.store
        self._stop = threading.Event()
        self._work_bell, self._tell_bell, self._ask_bell = _Bell(), _Bell(), _Bell()
        self._tools = Tools(frame.store, frame.work, frame.unpack, frame.now, self._tell_bell.ring, frame.at)
        self._probe = Probe("none", {}, ready=False)
        # Of this process alone; the truth is in the database.
        self._lock = threading.Lock()
        self._taken: set[str] = set()  # jobs that a worker has in hand
        self._active: set[str] = set()  # runs that are being carried out
        self._cancelled: set[str] = set()
        self._rest_until: dict[str, float] = {}
        self._seen = 0

    def stop(self) -> None:
        """What runs is ended and does not count as an attempt. Not for signal handlers: it takes locks."""
        self._stop.set()
        for bell in (self._work_bell, self._tell_bell, self._ask_bell):
            bell.ring()

    def run(self, folder: Path) -> None:
        """Work until `stop`, or until an exception comes in from outside (a signal). Raises `AlreadyThere`."""
        with _alone(folder):
            self._store.sweep()
            self._frame.work.reap()
            self._look_at_executor()
            asking = self._thread("ask", self._ask, self._ask_bell)
            telling = self._thread("tell", self._tell, self._tell_bell)
            workers = [self._thread(f"work-{n}", self._work, self._work_bell) for n in range(self._frame.workers)]
            for thread in (asking, telling, *workers):
                thread.start()
            try:
                self._beat_until_stopped()
            finally:
                self.stop()
                for thread in workers:
                    thread.join(LAST_WORK_SECONDS)

    def _thread(self, name: str, once: Callable[[SiteLink], float], bell: _Bell) -> threading.Thread:
        return threading.Thread(target=self._loop, args=(name, once, bell), name=name, daemon=True)

    def _loop(self, name: str, once: Callable[[SiteLink], float], bell: _Bell) -> None:
        """Look and take a step, until stopped. `once` says how long to rest then; a ring ends a rest."""
        link = self._frame.new_link()
        while not self._stop.is_set():
            heard = bell.heard()
            try:
                rest = once(link)
            except SiteUnreachable as error:
                log.warning("%s: %s", name, error.sentence)
                rest = self._frame.pause_seconds
            except Exception as error:  # noqa: BLE001  a full disk, a locked database: rest, look again; never die
                log.error("%s: %s", name, describe(error))
                rest = self._frame.pause_seconds
            if rest > 0:
                bell.wait(heard, rest)

    # --- alive

    def _look_at_executor(self) -> None:
        self._probe = self._frame.work.probe()
        if not self._probe.ready:
            log.error("the executor %s lacks a layer; no job begins", self._probe.executor)
        self._work_bell.ring()

    def _beat_until_stopped(self) -> None:
        since, probed = self._frame.now(), monotonic()
        while not self._stop.is_set():
            try:
                if not self._probe.ready and monotonic() - probed >= PROBE_AGAIN_SECONDS:
                    probed = monotonic()
                    self._look_at_executor()
                self._store.write(lambda session: self._beat(session, since))
            except (OSError, SQLAlchemyError, LabError) as error:
                log.error("heartbeat: %s", describe(error))
            self._stop.wait(BEAT_SECONDS)

    def _beat(self, session: Session, since: datetime) -> None:
        session.merge(
            Beat(
                id=1,
                executor=self._probe.executor,
                layers=json.dumps(dict(self._probe.layers)),
                ready=self._probe.ready,
                since=since,
                at=self._frame.now(),
            )
        )

    # --- asking

    def _ask(self, link: SiteLink) -> float:
        try:
            batch = link.assignments(self._seen, self._frame.poll_seconds)
        except SiteUnreachable:
            self._seen = 0  # another site may answer next time, or this one from its backup
            raise
        for assignment in batch.assignments:
            self._receive(assignment)
        self._seen = batch.revision
        return 0 if batch.assignments or self._frame.poll_seconds > 0 else self._frame.pause_seconds

    def _receive(self, assignment: Assignment) -> None:
        if self._store.write(lambda session: jobs.receive(session, assignment, self._frame.now())):
            self._frame.at("received")
        if assignment.cancelled:
            self._cancelled.add(assignment.job)
        self._work_bell.ring()
        self._tell_bell.ring()

    # --- telling

    def _tell(self, link: SiteLink) -> float:
        found = self._store.write(lambda session: jobs.next_notice(session, self._frame.now()))
        if found is None:
            return IDLE_SECONDS
        if isinstance(found, datetime):
            return max(0.001, min(IDLE_SECONDS, (found - self._frame.now()).total_seconds()))
        self._frame.at("offered")
        try:
            link.notify(found.notice)
        except NotAtSite:
            log.warning("job %s: the site does not know it any more", found.notice.job)
        self._frame.at("sent")
        self._store.write(lambda session: jobs.note_sent(session, found.id, self._frame.now()))
        self._frame.at("noted")
        return 0

    # --- working

    def _work(self, link: SiteLink) -> float:
        job, rest = self._take()
        if job is None:
            return rest
        try:
            took = self._take_step(job, link)
        except Exception:
            self._rest(job)
            raise
        finally:
            with self._lock:
                self._taken.discard(job)
        if took is Step.WAIT:
            self._rest(job)
        return 0

    def _take(self) -> tuple[str | None, float]:
        """A job for this worker, or how long none will be there."""
        waiting = IDLE_SECONDS
        with self._lock:
            for job in self._store.read(jobs.to_do):
                left = self._rest_until.get(job, 0.0) - monotonic()
                if left > 0:
                    waiting = min(waiting, left)
                elif job not in self._taken:
                    self._taken.add(job)
                    return job, 0
        return None, waiting

    def _rest(self, job: str) -> None:
        self._rest_until[job] = monotonic() + self._frame.pause_seconds

    def _take_step(self, job: str, link: SiteLink) -> Step:
        step = next_step(self._store.read(lambda session: jobs.look(session, job, self._active)))
        match step:
            case Step.FETCH:
                self._fetch(job, link)
            case Step.RUN:
                if not self._probe.ready:
                    return Step.WAIT
                self._run(job)
            case Step.CLOSE_LEFT:
                self._store.write(lambda session: jobs.close_left(session, job, self._active, self._frame.now()))
            case Step.END_CANCELLED:
                self._end(job, JobCode.CANCELLED)
            case Step.END_REFUSED:
                self._end(job, JobCode.REFUSED)
            case Step.END_PLATFORM:
                self._end(job, JobCode.PLATFORM)
            case Step.TIDY:
                self._tidy(job)
            case Step.WAIT | Step.NONE:
                pass
            case _:
                assert_never(step)
        return step

    def _end(self, job: str, code: JobCode) -> None:
        def write(session: Session) -> None:
            found = project(session, jobs.assignment_of(session, job).request.project)
            policy = None if found is None else self._frame.policies.get(found[1])
            jobs.end(session, job, code, self._frame.now(), policy)

        self._store.write(write)
        log.info("job %s ended: %s", job, code.value)
        self._frame.at("ended")
        self._tell_bell.ring()

    def _fetch(self, job: str, link: SiteLink) -> None:
        """The bundle, into the store if it is what was asked for."""
        wanted = self._store.read(lambda session: jobs.assignment_of(session, job)).request.bundle
        if not self._store.bundles.has(wanted):
            incoming = self._store.bundles.incoming()
            try:
                link.bundle(wanted, incoming)
                if incoming.sha256 != wanted:
                    raise NotAtSite
                self._store.bundles.keep(incoming)
            except NotAtSite:
                self._store.write(lambda session: jobs.note_failed_fetch(session, job))
                raise
            finally:
                incoming.drop()
        self._store.write(lambda session: jobs.note_fetched(session, job))
        self._frame.at("fetched")

    def _run(self, job: str) -> None:
        assignment = self._store.read(lambda session: jobs.assignment_of(session, job))
        policy = self._admit(assignment)
        if policy is None:
            self._end(job, JobCode.REFUSED)
            return
        try:
            bundle = self._store.bundles.get(assignment.request.bundle)
        except Damaged:
            self._store.bundles.remove(assignment.request.bundle)
            self._store.write(lambda session: jobs.fetch_again(session, job))
            return
        run = self._frame.new_id()
        self._active.add(run)
        try:
            self._store.write(lambda session: jobs.begin(session, job, run, self._frame.now()))
            self._tell_bell.ring()
            self._frame.at("begun")
            self._attempt(run, assignment, bundle, policy)
        finally:
            self._active.discard(run)  # if it could not be closed, it is now one that was left

    def _admit(self, assignment: Assignment) -> Policy | None:
        """The policy to judge by, if our own list of people allows this job now."""

        def ask(session: Session) -> tuple[str | None, str]:
            known = project(session, assignment.request.project)
            author = person(session, assignment.author)
            found, policy = (None, "") if known is None else known
            reason = objection(
                assignment, self._frame.backend, found, policy, author, self._frame.policies, self._frame.now()
            )
            return reason, policy

        reason, policy = self._store.read(ask)
        if reason is not None:
            log.warning("job %s is refused: %s", assignment.job, reason)
            return None
        return self._frame.policies[policy]

    def _attempt(self, run: str, assignment: Assignment, bundle: bytes, policy: Policy) -> None:
        job = assignment.job

        def asked_to_end() -> bool:
            return self._stop.is_set() or job in self._cancelled

        try:
            code = make_attempt(self._tools, run, assignment, bundle, policy, asked_to_end)
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever broke, its text stays where it was
            log.error("job %s, run %s: %s", job, run, describe(error))
            self._store.write(lambda session: jobs.close(session, run, jobs.BROKEN, self._frame.now()))
            self._rest(job)
            return
        if code is None:
            self._store.write(lambda session: jobs.close(session, run, jobs.STOPPED, self._frame.now()))
            return
        log.info("job %s, run %s ended: %s", job, run, code.value)
        self._frame.at("ended")
        self._tell_bell.ring()

    def _tidy(self, job: str) -> None:
        """Code and scratch go; what was kept on purpose, and level 4, stay."""
        runs, bundle = self._store.read(
            lambda session: (jobs.runs_of(session, job), jobs.assignment_of(session, job).request.bundle)
        )
        for run in runs:
            self._store.remove_scratch(run)
        if not self._store.read(lambda session: jobs.bundle_is_needed(session, bundle)):
            self._store.bundles.remove(bundle)
        self._store.write(lambda session: jobs.note_tidy(session, job))
        self._cancelled.discard(job)
        self._rest_until.pop(job, None)
        self._frame.at("tidied")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One agent to a folder. The lock ends with the process, however that ends."""
    descriptor = os.open(folder / "agent.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyThere from None
    try:
        yield
    finally:
        os.close(descriptor)
