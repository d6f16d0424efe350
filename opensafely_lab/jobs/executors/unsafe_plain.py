"""UNSAFE: carries out runs on dummy data as plain processes, where a computer allows no namespaces.

For a hosted Lab (Binder) only, chosen by name and never fallen back to: nothing keeps such a run from
reading files, using the network or signalling what its user may. It refuses a run on real data, and says
what it is in the log each time.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from opensafely_lab.jobs.executors.protocol import ExecutorUnavailable, Layer, ProbeReport, RunSpec
from opensafely_lab.jobs.executors.sandbox import PACKAGES, SandboxExecutor, supervisor_line
from opensafely_lab.jobs.root import JobRoot

DUMMY = "dummy"
MOST_PROCESSES = 4096  # counted over all of the user's, not over the run's


class UnsafePlainExecutor(SandboxExecutor):
    """The sandbox's bookkeeping without a sandbox. Dummy data only."""

    name = "unsafe-plain"
    confidential = False
    supervisor = supervisor_line("unsafe_plain_supervisor")

    def __init__(self, state: Path) -> None:
        super().__init__(state, JobRoot(Path("/"), "none"), use_cgroup=False)

    def probe(self) -> ProbeReport:
        return ProbeReport(self.name, (Layer("isolation", False, "none: for dummy data only"),))

    def prepare(self, spec: RunSpec) -> None:
        refuse_real_data(spec)
        logging.getLogger(__name__).warning("UNSAFE: a run on dummy data is carried out without any isolation")
        self.prepare_unproven(spec)

    def _orders(self, run: str, folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
        binds = {"job": str((folder / "files").absolute())}
        inside = [("job", "/job")]
        for number, (host, target) in enumerate(spec["mounts"]):
            binds[f"in/{number}"] = host
            inside.append((f"in/{number}", target))
        return {
            "report": str((folder / "report").absolute()),
            "parent": os.getpid(),
            "top": tempfile.mkdtemp(prefix="osl-"),  # short: a socket's path has 108 characters at most
            "binds": binds,
            "inside": inside,
            "argv": spec["argv"],
            "environment": spec["environment"],
            "import_from": os.pathsep.join([PACKAGES, *filter(None, sys.path)]),
            "limits": {**spec["limits"], "processes": MOST_PROCESSES},
            "limiter": "polling",
            "uid": None,
            "bubblewrap": "none",
            "cgroup_fds": [],
            "held_fds": [],
            "oom_files": [],
            "peak_files": [],
        }


def refuse_real_data(spec: RunSpec) -> None:
    """A run says what it is on in `/job/job.json`; one without is a definition's, which sees no data."""
    job = spec.files.get("job.json")
    if job is not None and json.loads(job).get("mode") != DUMMY:
        raise ExecutorUnavailable(
            "Without a sandbox nothing is run on real data.",
            next_step="Use a computer that allows user namespaces; `opensafely-lab doctor` says whether one does.",
        )
