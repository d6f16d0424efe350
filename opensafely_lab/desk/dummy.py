"""Dummy runs on this computer: its sandbox, and the `DummyRunner` that submitting needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from opensafely_lab.desk import submit
from opensafely_lab.desk.state import State, default_cache
from opensafely_lab.disclosure.policy import OPENSAFELY, policy_digest
from opensafely_lab.notebooks.result import Banner
from opensafely_lab.wire.site import Layout

if TYPE_CHECKING:
    from opensafely_lab.pipeline.ports import Ports


# Set by a hosted Lab that has no user namespaces (`binder/start`), and by nobody else.
UNSAFE_VARIABLE = "OPENSAFELY_LAB_UNSAFE_PLAIN_DUMMY_RUNS"


def plain_by_name() -> bool:
    """Whether somebody chose, by name, to run dummy data without a sandbox."""
    return os.environ.get(UNSAFE_VARIABLE) == "1"


def ports_here(state: State) -> Ports:
    """The chain's surroundings, as `opensafely-lab run` has them."""
    from opensafely_lab.pipeline.machine import machine_ports, unsafe_plain_ports

    state.make()
    if plain_by_name():
        return unsafe_plain_ports(state.folder / "local")
    return machine_ports(state.folder / "local", cache=_cache())


def _cache() -> Path:
    return default_cache(os.environ, root=os.geteuid() == 0)


class MachineDummyRunner:
    """A `submit.DummyRunner`: the chain on dummy data, in this machine's sandbox."""

    def __init__(self, state: State) -> None:
        self.state = state

    @property
    def fingerprint(self) -> str:
        from opensafely_lab.jobs.root import ensure_root

        return f"{ensure_root(_cache()).digest}:{policy_digest(OPENSAFELY)}"

    def __call__(self, job: submit.DummyJob, progress: Callable[[float], None]) -> submit.DummyResult:
        from opensafely_lab.pipeline.chain import dummy_run
        from opensafely_lab.pipeline.plan import load_plan
        from opensafely_lab.pipeline.ports import Phase

        parts = {Phase.PREPARING: 0.1, Phase.EXECUTING: 0.4, Phase.CHECKING: 0.9}
        plan = load_plan(job.study, job.action, job.parameters, from_text=False)
        banner = Banner("dummy", plan.action.name, str(plan.action.notebook), OPENSAFELY.name, commit=job.commit)
        done = dummy_run(plan, ports_here(self.state), banner, notify=lambda phase: progress(parts[phase]))
        fixed = done.authorised
        layout = Layout(outputs=list(fixed.layout.outputs), execution_counts=dict(fixed.layout.execution_counts))
        return submit.DummyResult(fixed.requests.text(), layout, fixed.definitions)
