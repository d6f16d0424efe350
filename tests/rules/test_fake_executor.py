"""The executor that tests of the chain use keeps the contract of the real ones, as far as it goes."""

from __future__ import annotations

from pathlib import Path

from executor_cases import keeps_its_states, python
from fake_executor import FAILED, FakeExecutor, Left

from opensafely_lab.jobs.executors.protocol import Executor
from opensafely_lab.jobs.loop import run_to_end


def test_it_keeps_the_states_of_a_run(tmp_path: Path) -> None:
    executor: Executor = FakeExecutor(tmp_path)
    keeps_its_states(executor, python("pass"), hangs=python("while True: pass"))
    assert executor.probe().ok
    assert executor.reap() == ()


def test_it_leaves_what_the_test_says(tmp_path: Path) -> None:
    executor = FakeExecutor(tmp_path, lambda spec: Left({"status.json": spec.argv[-1].encode()}, FAILED))
    spec = python("pass")
    result = run_to_end(executor, spec)
    assert result.end == FAILED
    assert (result.folder / "control" / "status.json").read_bytes() == b"pass"
    assert [str(file.path) for file in result.files] == ["control/status.json"]
    assert executor.reap() == (spec.id,)
