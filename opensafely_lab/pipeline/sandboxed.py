"""One process in the sandbox, from the chain's side: run it, be able to end it, read what it left."""

from __future__ import annotations

from pathlib import Path

from opensafely_lab.errors import ErrorKind, LabError
from opensafely_lab.jobs.executors.protocol import EndKind, RunResult, RunSpec
from opensafely_lab.jobs.loop import run_to_end
from opensafely_lab.pipeline.ports import Ports

PYTHON = "/opt/venv/bin/python"


class RunCancelled(LabError):
    """The run was ended on request; nothing of it is kept."""

    code = "cancelled"
    kind = ErrorKind.REFUSED

    def __init__(self) -> None:
        super().__init__("The run was cancelled.", next_step="Submit it again if you want it after all.")


def run_sandboxed(spec: RunSpec, ports: Ports) -> RunResult:
    """The result of a run that has ended by itself or at a limit. Raises `RunCancelled`."""
    result = run_to_end(ports.executor, spec, cancelled=ports.cancelled)
    if result.end.kind is EndKind.TERMINATED:
        ports.executor.discard(spec.id)
        raise RunCancelled
    return result


def read_control(result: RunResult, name: str, largest: int) -> bytes:
    """The bytes of a control file, empty if there is none; one byte too many is kept, to be refused."""
    place: Path = result.folder / "control" / name
    if not place.is_file():
        return b""
    with place.open("rb") as file:
        return file.read(largest + 1)
