"""What the chain needs from its surroundings, as arguments."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path

from attrs import field, frozen

from opensafely_lab.disclosure.policy import Policy
from opensafely_lab.jobs.executors.protocol import Executor, Limits
from opensafely_lab.jobs.loop import never
from opensafely_lab.pipeline.child import ChildLimits


class Phase(Enum):
    """Where the chain is; all that is told while it works."""

    PREPARING = "preparing"
    EXECUTING = "executing"
    CHECKING = "checking"


Notify = Callable[[Phase], None]


def silent(_: Phase) -> None:
    """For callers that do not show progress."""


@frozen
class Ports:
    """An executor, a private folder on the trusted side, the policy, and what runs may use.

    `new_id` gives 16 random characters: host paths made of it are visible inside the sandbox.
    `cancelled` is asked while a run goes on; once it is true the run is ended.
    """

    executor: Executor
    scratch: Path
    policy: Policy
    new_id: Callable[[], str]
    limits: Limits = field(factory=Limits)
    child_limits: ChildLimits = field(factory=ChildLimits)
    cancelled: Callable[[], bool] = never
