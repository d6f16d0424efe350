"""What to do next with a job: look at what is, take one step, look again. No I/O."""

from __future__ import annotations

from enum import Enum
from typing import assert_never

from attrs import frozen

MOST_ATTEMPTS = 3  # decisions.md, 19: agent or site killed is a new run of the same job, at most 3
MOST_FETCHES = 3  # downloads that were whole and were not what was asked for


class Running(Enum):
    """Is there a run of this job that has not ended, and whose is it?"""

    NO = "no"
    OURS = "ours"
    LEFT = "left"  # its agent was killed


@frozen
class Seen:
    """What is known of a job, read from the database."""

    fetched: bool
    failed_fetches: int
    attempts: int
    running: Running
    cancelled: bool
    ended: bool
    tidy: bool


class Step(Enum):
    FETCH = "fetch"  # the bundle
    RUN = "run"  # authorise, unpack, do the work, keep what is shown: one attempt
    WAIT = "wait"
    CLOSE_LEFT = "close-left"  # write down that this attempt is lost
    END_CANCELLED = "end-cancelled"
    END_REFUSED = "end-refused"
    END_PLATFORM = "end-platform"
    TIDY = "tidy"  # remove code and scratch
    NONE = "none"


def next_step(seen: Seen) -> Step:
    if seen.ended:
        return Step.NONE if seen.tidy else Step.TIDY
    match seen.running:
        case Running.OURS:
            return Step.WAIT
        case Running.LEFT:
            return Step.CLOSE_LEFT
        case Running.NO:
            pass
        case _:
            assert_never(seen.running)
    if seen.cancelled:
        return Step.END_CANCELLED
    if seen.attempts >= MOST_ATTEMPTS:
        return Step.END_PLATFORM
    if seen.failed_fetches >= MOST_FETCHES:
        return Step.END_REFUSED
    return Step.RUN if seen.fetched else Step.FETCH
