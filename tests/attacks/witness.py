"""The product's own command, with somebody looking over the executor's shoulder.

`python -m attacks.witness KEEP -- run ACTION --project DIR ...` is `opensafely-lab run ...`: same code,
same sandbox, same streams and exit code. Only, before what a run left is removed, a copy of it goes to
`KEEP/dummy` or `KEEP/real`: level 3, for the proof that the leak was there to be held.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from opensafely_lab.jobs.executors.protocol import Executor, RunSpec, RunState


class Witness:
    """An executor that keeps a copy of what each run left, at the moment when it is removed."""

    def __init__(self, inner: Executor, keep: Path) -> None:
        self.inner = inner
        self.keep = keep
        self.modes: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def prepare(self, spec: RunSpec) -> None:
        if "job.json" in spec.files:
            self.modes[spec.id] = json.loads(spec.files["job.json"])["mode"]
        self.inner.prepare(spec)

    def discard(self, run: str) -> None:
        mode = self.modes.pop(run, None)
        if mode is not None and self.inner.state(run) in (RunState.ENDED, RunState.COLLECTED):
            left = self.inner.finalise(run)
            place = self.keep / mode
            shutil.copytree(left.folder, place) if left.folder.is_dir() else place.mkdir(parents=True)
            (place / "log").write_bytes(left.log)
            record = {"layers": dict(left.layers), "end": left.end.kind.value, "exit_code": left.end.exit_code}
            record |= {"refused": [name for name, _ in left.refused]}
            (place / "record.json").write_text(json.dumps(record))
        self.inner.discard(run)

    def not_removed(self) -> list[str]:
        """Runs that nobody removed: level 3 bytes left behind."""
        return sorted(self.modes)


def main(argv: list[str]) -> int:
    import attrs

    from opensafely_lab import cli
    from opensafely_lab.pipeline import machine

    keep, words = Path(argv[0]), argv[argv.index("--") + 1 :]
    keep.mkdir(parents=True, exist_ok=True)
    witnesses: list[Witness] = []
    ports_of_this_machine = machine.machine_ports

    def watched(*arguments: Any, **options: Any) -> Any:
        ports = ports_of_this_machine(*arguments, **options)
        witnesses.append(Witness(ports.executor, keep))
        return attrs.evolve(ports, executor=witnesses[-1])

    machine.machine_ports = watched
    code = cli.main(words)
    (keep / "not-removed").write_text("\n".join(run for witness in witnesses for run in witness.not_removed()))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
