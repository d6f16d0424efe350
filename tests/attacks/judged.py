"""A case's run through `opensafely-lab run --extract`, and all that its author sees of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attacks import studies
from attacks.cases import PATIENTS, Run
from attacks.traces import Forbidden, Trace, in_files
from attrs import field, frozen

ROOT = Path(__file__).parents[2]
SECONDS = 240.0

# disclosure.md, decision 12: the case files' words for the gate's verdict and treatment.
WORDS = {
    ("verified", "hidden"): "suppressed",
    ("verified", "rounded"): "rounded",
    ("verified", "as is"): "as is",
    ("checked", "as is"): "needs-human",
}


@frozen
class Judged:
    """One run, as its author sees it (`out`, `stdout`, `stderr`, `exit_code`) and as it was (`left`)."""

    exit_code: int
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)
    out: Mapping[str, bytes] = field(repr=False)
    left: Path
    sources: tuple[str, ...] = field(repr=False)

    @property
    def seen(self) -> dict[str, bytes]:
        """Everything that leaves the trusted side for the author: names, bytes, streams, exit code, sizes."""
        sizes = "\n".join(f"{name} {len(data)}" for name, data in sorted(self.out.items()))
        return {
            **{f"out/{name}": data for name, data in self.out.items()},
            "stdout": self.stdout,
            "stderr": self.stderr,
            "exit code": str(self.exit_code).encode(),
            "sizes": sizes.encode(),
        }

    @property
    def record(self) -> Mapping[str, Any] | None:
        data = self.out.get("disclosure.json")
        return None if data is None else json.loads(data)

    @property
    def outputs(self) -> Sequence[Mapping[str, Any]]:
        return self.record["outputs"] if self.record else ()

    def verdict(self, name: str) -> str:
        """The verdict on one declared aggregate, in the case files' words."""
        output = next((o for o in self.outputs if o["name"] == name), None)
        if output is None or output["verdict"] == "held":
            return "withheld"
        return WORDS.get((output["verdict"], output["treatment"]), "shown")

    @property
    def verdicts(self) -> dict[str, str]:
        return {output["name"]: self.verdict(output["name"]) for output in self.outputs}

    @property
    def was_real(self) -> bool:
        """Did the notebook run on the real file at all?"""
        return (self.left / "real").is_dir()

    @property
    def layers(self) -> Mapping[str, str]:
        """The isolation that was in force for the real run."""
        record = self.left / "real" / "record.json"
        return json.loads(record.read_text())["layers"] if record.is_file() else {}

    @property
    def not_removed(self) -> str:
        return (self.left / "not-removed").read_text()

    def traces(self, forbidden: Forbidden) -> list[Trace]:
        return in_files(self.seen, forbidden)


def judge(run: Run, extract: Path, room: Path, state: Path, *, parameters: Sequence[str] = ()) -> Judged:
    """Run the study of `run` on the file `extract` in the new folder `room`."""
    study, out, left = room / "study", room / "out", room / "left"
    sources = studies.write(run, study)
    words = [sys.executable, "-m", "attacks.witness", str(left), "--"]
    words += ["run", studies.ACTION, "--project", str(study), "--extract", f"{PATIENTS}={extract}"]
    words += ["--state", str(state), "--out", str(out), *parameters]
    done = subprocess.run(words, env=environment(), capture_output=True, timeout=SECONDS, check=False)
    files = {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    return Judged(
        exit_code=done.returncode,
        stdout=done.stdout.replace(str(room).encode(), b"ROOM"),
        stderr=done.stderr.replace(str(room).encode(), b"ROOM"),
        out=files,
        left=left,
        sources=sources,
    )


def environment() -> dict[str, str]:
    paths = [str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENSAFELY_LAB_DEBUG")}
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
