"""Submit from this computer: `desk.submit` with this machine's sandbox, site and tokens around it."""

from __future__ import annotations

import secrets
from pathlib import Path

from opensafely_lab.desk import submit
from opensafely_lab.desk.client import Client
from opensafely_lab.desk.dummy import MachineDummyRunner
from opensafely_lab.desk.runs import RunRecord, RunStore
from opensafely_lab.desk.settings import read_run_file, read_token
from opensafely_lab.desk.state import State
from opensafely_lab.disclosure.policy import OPENSAFELY
from opensafely_lab.wire.lab import Stage

# How far the bar is at the end of a stage that tells its parts.
SHARES = {Stage.DUMMY_RUN: (0.05, 0.35), Stage.SENDING: (0.35, 0.42)}


def ports(state: State) -> submit.Ports:
    """The surroundings as `up` left word of them. Raises `NotRunning`, `StateError`."""
    run = read_run_file(state)
    return submit.Ports(
        site=Client(run.site, read_token(state, "site")),
        dummy_run=MachineDummyRunner(state),
        state=state.room("desk"),
        target=submit.Target(run.project, run.workspace, run.backends, OPENSAFELY.name),
        new_key=lambda: secrets.token_urlsafe(24),
    )


def check(state: State, ask: submit.Ask) -> None:
    """Every precondition now, with the repairs that are allowed, so that a dialog can offer them."""
    submit.prepare_submission(ask, ports(state))


def send(store: RunStore, record: RunRecord) -> RunRecord:
    """The whole of it: the record ends with the site's job in it. Raises a `LabError`."""

    def tell(stage: Stage, part: float) -> None:
        nonlocal record
        low, high = SHARES.get(stage, (0.0, 0.0))
        record = store.change(record, stage=stage, **({"progress": low + part * (high - low)} if high else {}))

    ask = submit.Ask(
        path=Path(record.study),
        action=record.row.action,
        parameters=record.row.parameters,
        from_text=False,
        fixes=record.fixes,
    )
    done = submit.submit(ask, ports(store.state), tell)
    job = done.jobs[0]
    record = store.change(record, stage=Stage.WAITING, backend=job.backend, commit=job.commit)
    record = record.model_copy(update={"job": job.id})
    store.write(record)
    return record
