"""The executor contract: probe, prepare, execute, finalise, terminate, reap.

Every call is idempotent and reads the truth from disk and the kernel, never from memory, so that
the process that drives it can be killed between any two calls and started again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, StrEnum
from pathlib import Path, PurePosixPath
from typing import Protocol

from attrs import field, frozen

from opensafely_lab.errors import ErrorKind, PlatformError

MB = 1 << 20
RUN_ID = re.compile(r"\A[a-z0-9][a-z0-9-]{0,63}\Z")


class ExecutorUnavailable(PlatformError):
    """A layer of isolation is missing here, so nothing was run. We never fall back."""

    code = "executor-unavailable"


class StateUnwritable(PlatformError):
    """The folder in which runs live is full, or not ours."""

    code = "state-unwritable"


class UnknownRun(PlatformError):
    """No run has this id, or no longer."""

    code = "unknown-run"
    kind = ErrorKind.NOT_FOUND

    def __init__(self, run: str) -> None:
        super().__init__(f"There is no run {run!r}.")


def check_run_id(run: str) -> None:
    """A run's id is a folder's name; anything else is a mistake of ours."""
    if not RUN_ID.match(run):
        raise ValueError("a run's id is made of a-z, 0-9 and -")


@frozen
class Limits:
    """What one run may use. Sizes in bytes, times in seconds."""

    memory_bytes: int = 2048 * MB
    processes: int = 256
    wall_seconds: float = 600.0
    cpus: float = 2.0
    output_bytes: int = 64 * MB
    output_files: int = 200
    file_bytes: int = 16 * MB
    scratch_bytes: int = 512 * MB
    log_bytes: int = 1 * MB


@frozen
class Mount:
    """A file or folder of the host, read-only at `inside` in the sandbox."""

    host: Path
    inside: PurePosixPath


def _words(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(given)


def _mounts(given: Iterable[Mount]) -> tuple[Mount, ...]:
    return tuple(given)


@frozen
class RunSpec:
    """One run: a list of words to execute, what it can read, and what it may use.

    `id` is random and means nothing: host paths made of it can be seen inside.
    `files` are small inputs, read-only at `/job/NAME`. `environment` is all it gets beside ours.
    """

    id: str
    argv: tuple[str, ...] = field(converter=_words)
    files: Mapping[str, bytes] = field(factory=dict)
    mounts: tuple[Mount, ...] = field(factory=tuple, converter=_mounts)
    limits: Limits = field(factory=Limits)
    environment: Mapping[str, str] = field(factory=dict)


class RunState(Enum):
    """Where a run is, as read from disk and the kernel."""

    ABSENT = "absent"
    READY = "ready"
    RUNNING = "running"
    ENDED = "ended"
    COLLECTED = "collected"


class EndKind(StrEnum):
    """How a run ended. Only EXITED with code 0 is a success."""

    EXITED = "exited"
    TIME = "time-limit"
    MEMORY = "memory-limit"
    TERMINATED = "terminated"  # by us, on request
    LOST = "lost"  # its supervisor died: the run says nothing


@frozen
class RunEnd:
    kind: EndKind
    exit_code: int | None

    @property
    def succeeded(self) -> bool:
        return self.kind is EndKind.EXITED and self.exit_code == 0


@frozen
class CollectedFile:
    """A plain file that we copied out; `path` is relative to `folder` of its `RunResult`."""

    path: PurePosixPath
    size: int
    sha256: str


@frozen
class RunResult:
    """What is left of a run: everything in `folder` is the attacker's, and confidential.

    `folder/control/` holds what the run left in `/outputs/.osl/` (fixed names only),
    `folder/outputs/` the other collected files. `log` is stdout and stderr, capped.
    """

    end: RunEnd
    folder: Path
    files: tuple[CollectedFile, ...]
    refused: tuple[tuple[str, str], ...]  # (ASCII-quoted name, reason): as confidential as the rest
    log: bytes
    layers: Mapping[str, str]  # isolation layer -> what was in force for this very run
    wall_seconds: float
    memory_peak: int | None


@frozen
class Layer:
    name: str
    ok: bool
    detail: str


@frozen
class ProbeReport:
    """What a self-test found. `ok` only if every layer that confidential data need is there."""

    executor: str
    layers: tuple[Layer, ...]

    @property
    def ok(self) -> bool:
        return all(layer.ok for layer in self.layers)


class Executor(Protocol):
    """Carries out runs. The contract suite is `tests/contracts/test_executors.py`."""

    name: str
    confidential: bool  # may it carry out runs on real data?

    def probe(self) -> ProbeReport:
        """Run a self-test; the report names each missing layer. Never falls back."""
        ...

    def prepare(self, spec: RunSpec) -> None:
        """Make the run READY. Raises `ExecutorUnavailable` where a layer is missing."""
        ...

    def execute(self, run: str) -> None:
        """Start it, if it is READY."""
        ...

    def state(self, run: str) -> RunState: ...

    def wait(self, run: str, timeout: float | None = None) -> RunState:
        """Block until it is no longer RUNNING, or `timeout` seconds have gone by."""
        ...

    def finalise(self, run: str) -> RunResult:
        """Collect an ENDED run and return its result; again and again the same one."""
        ...

    def terminate(self, run: str) -> None:
        """Kill every process of it. The run is then ENDED with `TERMINATED`."""
        ...

    def discard(self, run: str) -> None:
        """Remove everything that is left of it; then it is ABSENT."""
        ...

    def reap(self) -> Sequence[str]:
        """At start: end and discard what earlier processes left behind. Returns the run ids."""
        ...
