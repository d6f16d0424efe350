"""The trusted work on records, in a capped child process of its own.

Extracts and gate read patient-level data; whatever happens there (a crash, a runaway query, a full
disk) must neither take the agent along nor leave a word behind. So each task is a fresh process
with a memory and a time limit; its stderr goes nowhere; and of a failure the parent learns only
that it failed. Messages are JSON, both ways.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from opensafely_lab.errors import PlatformError

GIB = 1 << 30


@frozen
class ChildLimits:
    """Address space in bytes (DuckDB reserves more than it uses), processor and wall time in seconds."""

    address_bytes: int = 16 * GIB
    cpu_seconds: int = 3600
    wall_seconds: float = 3600.0


class ChildFailed(PlatformError):
    """The trusted child did not answer. Its reasons stay inside it."""

    code = "trusted-step-failed"


def ask(task: str, message: Mapping[str, Any], *, scratch: Path, limits: ChildLimits | None = None) -> Any:
    """Do `task` in a child and return its JSON answer.

    Raises `ChildFailed` whatever went wrong there: an error text could hold a patient's value.
    """
    limits = limits or ChildLimits()
    command = [sys.executable, "-P", "-m", "opensafely_lab.pipeline.child", task]
    environment = {
        "PATH": os.environ.get("PATH", ""),
        # Only where this package is: our own sys.path may begin with a study, whose `numpy.py` has no business here.
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "MPLCONFIGDIR": str(scratch),
        "OSL_CHILD_LIMITS": f"{limits.address_bytes},{limits.cpu_seconds}",
    }
    try:
        done = subprocess.run(
            command,
            input=json.dumps(message).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=limits.wall_seconds,
            env=environment,
            cwd=scratch,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError):
        raise ChildFailed(
            "A trusted step on the records did not finish.", next_step="Tell the operator of the backend."
        ) from None
    try:
        if done.returncode == 0:
            return json.loads(done.stdout)
    except ValueError:
        pass  # raised from here, ours would carry the text that it could not read
    raise ChildFailed("A trusted step on the records failed.", next_step="Tell the operator of the backend.")


def _cap() -> None:
    address, cpu = (int(part) for part in os.environ["OSL_CHILD_LIMITS"].split(","))
    resource.setrlimit(resource.RLIMIT_AS, (address, address))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(argv: list[str]) -> int:
    """The child: one task from the command line, its message on stdin, its answer on stdout."""
    from opensafely_lab.pipeline import tasks

    _cap()
    answer = tasks.TASKS[argv[0]](json.load(sys.stdin))
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
