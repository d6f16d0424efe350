"""`opensafely-lab submit`: send a notebook from a terminal, and follow its job to the end.

What is told here is what the site may know: states and our sentences. The numbers are level 4 and
appear in the panel alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import field, frozen

from opensafely_lab.desk import send
from opensafely_lab.desk.client import Client
from opensafely_lab.desk.local import parameters_of
from opensafely_lab.desk.settings import read_run_file, read_token
from opensafely_lab.desk.state import State
from opensafely_lab.desk.submit import Ask
from opensafely_lab.desk.submit import submit as send_it
from opensafely_lab.errors import EXIT_CODES, ErrorKind, LabError
from opensafely_lab.wire.base import JobCode, JobState
from opensafely_lab.wire.lab import Stage
from opensafely_lab.wire.sentences import SENTENCES
from opensafely_lab.wire.site import Job

Say = Callable[[str], None]
LONG_POLL_SECONDS = 20.0
AGAIN_AFTER_SECONDS = 1.0
MOST_LOST_ANSWERS = 60  # the site may be starting again; the job goes on by itself
TOLD = {
    Stage.DUMMY_RUN: "Running it on dummy data first.",
    Stage.SENDING: "Sending the commit and the request.",
}
EXITS = {
    JobCode.SUCCEEDED: 0,
    JobCode.RUN_FAILED: EXIT_CODES[ErrorKind.RUN_FAILED],
    JobCode.REFUSED: EXIT_CODES[ErrorKind.REFUSED],
    JobCode.CANCELLED: EXIT_CODES[ErrorKind.REFUSED],
    JobCode.PLATFORM: EXIT_CODES[ErrorKind.PLATFORM],
}


@frozen
class Order:
    """One `opensafely-lab submit`. `fixes` are the repairs that are allowed: "commit", "strip"."""

    project: Path
    action: str | None = None
    parameters: Sequence[tuple[str, str]] = field(factory=tuple)
    fixes: tuple[str, ...] = ()
    wait: bool = True


def submit(order: Order, state: State, say: Say) -> int:
    """Submit and, unless told not to, wait. Returns the exit code; raises the refusal as a `LabError`."""
    told: set[Stage] = set()

    def progress(stage: Stage, _part: float) -> None:
        if stage in TOLD and stage not in told:
            told.add(stage)
            say(TOLD[stage])

    ask = Ask(
        path=order.project,
        action=order.action,
        parameters=parameters_of(order.parameters),
        from_text=True,
        fixes=order.fixes,
    )
    done = send_it(ask, send.ports(state), progress)
    for job in done.jobs:
        say(f"Job {job.id}: {job.action} at commit {job.commit[:7]}, on backend {job.backend}.")
    if not order.wait:
        say("It goes on by itself; the panel in JupyterLab shows how.")
        return 0
    client = Client(read_run_file(state).site, read_token(state, "site"))
    return max(EXITS[follow(client, job, say).code] for job in done.jobs)


def follow(client: Client, job: Job, say: Say) -> Job:
    """The job at its end; each new state is said once. A site that is away for a while is waited for."""
    lost = 0
    code: JobCode | None = None
    while True:
        if job.code is not code:
            code = job.code
            said = SENTENCES[code]
            say(
                said.sentence
                if job.state in (JobState.PENDING, JobState.RUNNING)
                else f"{said.sentence} {said.next_step}"
            )
        if job.state in (JobState.SUCCEEDED, JobState.FAILED):
            return job
        try:
            job = client.job(job.id, seen=job.updated_at, wait=LONG_POLL_SECONDS)
            lost = 0
        except LabError as error:
            lost += 1
            if error.kind is not ErrorKind.PLATFORM or lost > MOST_LOST_ANSWERS:
                raise
            time.sleep(AGAIN_AFTER_SECONDS)
