"""How slowly, and how often, a run may tell about itself: what cannot be closed is capped here.

Pure rules over numbers; the backend's clock and its counters are arguments.
"""

from __future__ import annotations

import math

from opensafely_lab.disclosure.policy import Policy


def told_at(elapsed_seconds: float, policy: Policy) -> float:
    """How many seconds after its start an end of a run is told: the next slot, slots double.

    A run that lasted 5 seconds and one that lasted 8 are both told at 8, so a sleep that depends on
    a patient moves the answer between few slots and not over a clock. With a step of 0 (synthetic
    data) there are no slots.
    """
    step = policy.result_step_seconds
    if step == 0:
        return max(elapsed_seconds, 0.0)
    slot = step
    while slot < elapsed_seconds:
        slot *= 2
    return slot


def bits_of_a_run(longest_run_seconds: float, policy: Policy) -> float:
    """At most how many bits one real run can tell: success or not, in one of so many slots.

    Infinite with a step of 0, which is for synthetic data only.
    """
    if policy.result_step_seconds == 0:
        return math.inf
    slots = 1 + math.ceil(math.log2(max(longest_run_seconds / policy.result_step_seconds, 1)))
    return math.log2(2 * slots)


def may_tell_details(told_today: int, policy: Policy) -> bool:
    """May this failed run still tell its class and cell at level 4? Counted over a project's actions."""
    return told_today < policy.failure_details_per_day
