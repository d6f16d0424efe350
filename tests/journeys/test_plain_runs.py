"""Dummy runs where there are no namespaces (Binder): plain processes, by name, marked, and gone when killed."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import COMMAND, a_study, command, environment, processes, wait_for, with_cells

from opensafely_lab.desk.dummy import UNSAFE_VARIABLE

pytestmark = pytest.mark.slow


@pytest.fixture
def short() -> Iterator[str]:
    """A temporary folder with a short name: a kernel's socket has at most 108 characters of path."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="p") as folder:
        yield folder


def test_a_plain_run_says_so_and_refuses_records(tmp_path: Path, short: str) -> None:
    study = a_study(tmp_path / "study")
    with_cells(study, "print('hello')")
    more = {UNSAFE_VARIABLE: "1", "TMPDIR": short}
    said = command(tmp_path, "run", "bleeding", "--state", tmp_path / "state", cwd=study, more=more)
    assert said.code == 4
    assert "UNSAFE: run as a plain process, without a sandbox." in said.out
    refused = command(tmp_path, "run", "bleeding", "--data", study, "--state", tmp_path / "state", cwd=study, more=more)
    assert refused.code == 5
    assert "There is no sandbox here" in refused.err


def test_a_plain_run_that_is_killed_leaves_no_process(tmp_path: Path, short: str) -> None:
    study = a_study(tmp_path / "study")
    with_cells(study, "import time\ntime.sleep(600)")
    run = subprocess.Popen(
        [*COMMAND, "run", "bleeding", "--state", str(tmp_path / "state")],
        cwd=study,
        env=environment(tmp_path, {UNSAFE_VARIABLE: "1", "TMPDIR": short}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def left() -> list[str]:
        return [" ".join(words) for _, _, words in processes() if any(word.startswith(short) for word in words)]

    wait_for(lambda: any("batch_kernel" in words for words in left()))
    run.kill()
    run.wait()
    wait_for(lambda: not left(), seconds=30)
