"""What carries out a job, as the agent sees it: the pipeline, or a fake in a test that passes the same suite.

The suite is `tests/services/test_work_contract.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from attrs import field, frozen
from attrs.validators import in_

from opensafely_lab.disclosure.policy import Policy
from opensafely_lab.notebooks.control import FAILURE_CLASSES
from opensafely_lab.wire.base import JobCode
from opensafely_lab.wire.site import Assignment

# How an attempt may end by its own account. PLATFORM is not among them: raise, and the agent tries again.
RESULT_CODES = frozenset({JobCode.SUCCEEDED, JobCode.RUN_FAILED, JobCode.REFUSED, JobCode.CANCELLED})
PROGRESS_CODES = (JobCode.PREPARING, JobCode.EXECUTING, JobCode.CHECKING)

_FILE_NAME = re.compile(r"(tables|figures)/[0-9]{2}-[A-Za-z0-9._-]{1,100}")


@frozen
class Order:
    """One attempt at a job.

    `run` is random and new for each attempt. `checkout` is the tree of the commit, verified; `scratch`
    an empty folder (0700, level 3) that is removed when the job has ended. `cancelled()` is asked
    now and then, at least before each step and while waiting: when it is true, end what runs and
    return CANCELLED.
    """

    run: str
    assignment: Assignment
    policy: Policy
    checkout: Path
    scratch: Path
    cancelled: Callable[[], bool]


@frozen
class Document:
    """What level 4 sees of a job: made by the gate and by us, from the submitted source."""

    name: str
    notebook: bytes
    disclosure: bytes
    files: Mapping[str, bytes] = field(factory=dict)  # "tables/00-name.csv", "figures/01-name.png"

    @files.validator
    def _our_names(self, _attribute: object, files: Mapping[str, bytes]) -> None:
        if not all(_FILE_NAME.fullmatch(name) for name in files):
            raise ValueError("a file of a document is called tables/NN-name or figures/NN-name")


@frozen
class RunFailure:
    """A class from the fixed list and the cell, for level 4, if the day's budget has room."""

    failure_class: str = field(validator=in_(FAILURE_CLASSES))
    cell: int | None


@frozen
class WorkResult:
    """How an attempt ended. `kept`: level 3 files in `scratch` to keep as opaque bytes, by a name of ours."""

    code: JobCode = field(validator=in_(RESULT_CODES))
    executor: str
    layers: Mapping[str, str]
    document: Document | None = None
    failure: RunFailure | None = None
    kept: Mapping[str, Path] = field(factory=dict)


@frozen
class Probe:
    """What the executor found out about itself. Where it is not ready, no job begins."""

    executor: str
    layers: Mapping[str, str]
    ready: bool


class Work(Protocol):
    """Carries out jobs. Idempotent per run: a run that was left by a killed agent is never resumed."""

    def probe(self) -> Probe:
        """A self-test of the executor."""
        ...

    def reap(self) -> None:
        """At start: end and remove all that earlier processes left behind."""
        ...

    def run(self, order: Order, tell: Callable[[JobCode], None]) -> WorkResult:
        """Carry out one attempt: definitions, extract, run, gate.

        `tell` takes PREPARING, EXECUTING and CHECKING; whether and when anybody hears it is not decided here.
        Raises where something of ours broke; no text of what it raises is kept.
        """
        ...
