"""Where a dataset definition is evaluated: the same sandbox as a notebook's, with no data in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from attrs import evolve, frozen

from opensafely_lab.ehrql.model_json import MAX_BYTES
from opensafely_lab.jobs.executors.protocol import Mount, RunSpec
from opensafely_lab.pipeline.ports import Ports
from opensafely_lab.pipeline.sandboxed import PYTHON, read_control, run_sandboxed

WALL_SECONDS = 120.0  # a definition reads codelists and builds a query; more than this is a loop


@frozen
class SandboxIsolation:
    """`ehrql.loader.Isolation` by an executor."""

    ports: Ports

    def __call__(
        self,
        argv: Sequence[str],
        *,
        mounts: Mapping[PurePosixPath, Path],
        files: Mapping[str, bytes],
        answer: PurePosixPath,
    ) -> bytes:
        spec = RunSpec(
            id=self.ports.new_id(),
            argv=(PYTHON, *argv),
            files=files,
            mounts=tuple(Mount(host, inside) for inside, host in mounts.items()),
            limits=evolve(self.ports.limits, wall_seconds=min(WALL_SECONDS, self.ports.limits.wall_seconds)),
        )
        result = run_sandboxed(spec, self.ports)
        try:
            return read_control(result, answer.name, MAX_BYTES)
        finally:
            self.ports.executor.discard(spec.id)
