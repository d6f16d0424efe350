"""What to do next with a run, from what is seen of it. No I/O."""

from __future__ import annotations

from enum import Enum
from typing import assert_never

from opensafely_lab.jobs.executors.protocol import RunState


class Step(Enum):
    PREPARE = "prepare"
    START = "start"
    WAIT = "wait"
    STOP = "stop"
    COLLECT = "collect"
    NONE = "none"


def next_step(seen: RunState, *, cancelled: bool = False) -> Step:
    """The one step that brings a run nearer to its result. A cancelled one is ended, then collected."""
    match seen:
        case RunState.ABSENT:
            return Step.PREPARE
        case RunState.READY:
            return Step.STOP if cancelled else Step.START
        case RunState.RUNNING:
            return Step.STOP if cancelled else Step.WAIT
        case RunState.ENDED:
            return Step.COLLECT
        case RunState.COLLECTED:
            return Step.NONE
        case _:
            assert_never(seen)
