"""Drives one run to its end: look at what is, take one step, look again.

It can be killed anywhere and started again with the same spec.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from opensafely_lab.jobs.executors.protocol import Executor, RunResult, RunSpec, RunState
from opensafely_lab.jobs.lifecycle import Step, next_step

LOOK_AGAIN = 1.0  # seconds between two questions whether the run has been cancelled


def never() -> bool:
    return False


def run_to_end(
    executor: Executor,
    spec: RunSpec,
    *,
    cancelled: Callable[[], bool] = never,
    seen: Callable[[RunState], None] | None = None,
) -> RunResult:
    """The result of the run, prepared and started if need be. `seen` is told each state it passes."""
    told: RunState | None = None
    while True:
        state = executor.state(spec.id)
        if seen is not None and state is not told:
            seen(state)
            told = state
        step = next_step(state, cancelled=cancelled())
        match step:
            case Step.PREPARE:
                executor.prepare(spec)
            case Step.START:
                executor.execute(spec.id)
            case Step.WAIT:
                executor.wait(spec.id, None if cancelled is never else LOOK_AGAIN)
            case Step.STOP:
                executor.terminate(spec.id)
            case Step.COLLECT | Step.NONE:
                return executor.finalise(spec.id)
            case _:
                assert_never(step)
