"""The executor of this machine: bubblewrap, our own seccomp filters, and limits. No daemon, no root needed.

A run is a folder of the state:

    runs/ID/spec.json       orders; the run is READY
    runs/ID/files/          its small inputs, at /job inside
    runs/ID/started.json    its supervisor has been told to start
    runs/ID/alive           a lock that the supervisor holds: RUNNING while it is held
    runs/ID/terminated      we were asked to end it
    runs/ID/report/         written by the supervisor: collected/, log, end.json; then it is ENDED
    runs/ID/result.json     what `finalise` made of that; COLLECTED

What is true is read from these and from the locks, never from memory. `supervisor` does the work inside.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import attrs

from opensafely_lab.jobs.executors import bubblewrap, cgroup, folders, seccomp, selftest, spawner
from opensafely_lab.jobs.executors.protocol import (
    ExecutorUnavailable,
    Limits,
    ProbeReport,
    RunResult,
    RunSpec,
    RunState,
    UnknownRun,
    check_run_id,
)
from opensafely_lab.jobs.root import JobRoot

ENVIRONMENT = {
    "HOME": "/work",
    "PATH": "/opt/venv/bin",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "IPYTHONDIR": "/work/.ipython",
    "JUPYTER_RUNTIME_DIR": "/tmp/runtime",  # noqa: S108 - inside the sandbox
    "MPLCONFIGDIR": "/work/.matplotlib",
    "PYTHONDONTWRITEBYTECODE": "1",
}
PACKAGES = str(Path(__file__).parents[3])  # where our own package is imported from


def supervisor_line(module: str) -> str:
    """What a supervisor's interpreter executes: found by path, since it starts without site-packages."""
    return f"import sys; sys.path.append(sys.argv[1]); from {__package__}.{module} import main; main()"


class SandboxExecutor:
    """Carries out runs with bubblewrap on this machine. See `protocol.Executor`."""

    name = "sandbox"
    confidential = True
    supervisor = supervisor_line("supervisor")

    def __init__(self, state: Path, root: JobRoot, *, use_cgroup: bool = True) -> None:
        self.state_folder = state
        self.root = root
        self.use_cgroup = use_cgroup
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._owner: str | None = None
        self._prefix = "osl-" + hashlib.sha256(os.fsencode(state.absolute())).hexdigest()[:8] + "-"

    # -- probe

    def probe(self) -> ProbeReport:
        made = selftest.report(self)
        if made.ok:
            selftest.remember(self, made)
        return made

    def proven(self) -> ProbeReport:
        """The report of the last self-test that is still true. Raises `ExecutorUnavailable` if a layer is missing."""
        report = selftest.remembered(self)
        missing = [f"{layer.name}: {layer.detail}" for layer in report.layers if not layer.ok]
        if missing:
            raise ExecutorUnavailable(
                f"The sandbox cannot be used on this computer ({'; '.join(missing)}).",
                next_step="`opensafely-lab doctor` says what to do about it.",
            )
        return report

    # -- the life of a run

    def prepare(self, spec: RunSpec) -> None:
        check_run_id(spec.id)
        if self.state(spec.id) is not RunState.ABSENT:
            return
        with folders.speaking_of_disks():
            self._prepare(spec, selftest.limiter(self.proven()))

    def prepare_unproven(self, spec: RunSpec) -> None:
        """For the self-test alone: `prepare` without asking for one."""
        self._prepare(spec, None)

    def _prepare(self, spec: RunSpec, limiter: str | None) -> None:
        folder = self._folder(spec.id)
        folders.make_private(self.state_folder / "runs")
        draft = folder.with_name(f".{spec.id}.{os.getpid()}.{threading.get_ident()}")
        draft.mkdir(mode=0o700)
        try:
            (draft / "files").mkdir(mode=0o755)
            for name, content in spec.files.items():
                folders.put_job_file(draft / "files", name, content)
            orders = {
                "id": spec.id,
                "owner": self._own(),
                "argv": spec.argv,
                "environment": {**ENVIRONMENT, **spec.environment},
                "mounts": [[str(mount.host.absolute()), str(mount.inside)] for mount in spec.mounts],
                "limits": attrs.asdict(spec.limits),
                "limiter": limiter,
            }
            (draft / "spec.json").write_text(json.dumps(orders))
            try:
                draft.rename(folder)
            except OSError:
                if self.state(spec.id) is RunState.ABSENT:
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def execute(self, run: str) -> None:
        with folders.speaking_of_disks():
            self._execute(run)

    def _execute(self, run: str) -> None:
        if self.state(run) is RunState.ABSENT:
            raise UnknownRun(run)
        folder = self._folder(run)
        with folders.locked(folder / "alive") as alive:
            if alive is None or self.state(run, ignoring_lock=True) is not RunState.READY:
                return
            spec = json.loads((folder / "spec.json").read_text())
            (folder / "started.json").write_text("{}")
            self._start(run, folder, spec, alive)

    def _start(self, run: str, folder: Path, spec: dict[str, Any], alive: int) -> None:
        (folder / "report").mkdir(mode=0o700)
        orders = self._orders(run, folder, spec)
        try:
            orders["held_fds"].append(alive)
            with (folder / "supervisor.log").open("wb") as log:
                child = spawner.the_spawner().spawn(
                    [sys.executable, "-I", "-S", "-c", self.supervisor, PACKAGES],
                    env={},
                    cwd="/",
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=[*orders["cgroup_fds"], *orders["held_fds"]],
                    start_new_session=True,  # Ctrl-C at a terminal is for us, who then end the run in order
                )
        finally:
            for opened in {*orders["cgroup_fds"], *orders["held_fds"]} - {alive}:
                os.close(opened)
        started = {key: orders[key] for key in ("limiter", "uid", "bubblewrap")}
        folders.put(folder, "started.json", json.dumps({"pid": child.pid, "owner": self._own(), **started}).encode())
        if child.stdin is not None:
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(json.dumps(orders).encode())
        self._children[run] = child

    def _orders(self, run: str, folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
        """All that the supervisor is told, and the descriptors that it inherits."""
        found = bubblewrap.find()
        self._use_root()
        group = cgroup.make(self._prefix + run, Limits(**spec["limits"])) if self.use_cgroup else None
        limiter = group.kind if group else "polling"
        if spec["limiter"] not in (None, limiter):
            raise ExecutorUnavailable(
                "The memory of a run can no longer be limited as it was when the sandbox was tested.",
                next_step="`opensafely-lab doctor` tests it again.",
            )
        uid, held = None, []
        if os.geteuid() == 0:
            uid, lock = folders.lock_uid()
            held.append(lock)
            _give(folder / "report", uid)
        binds, inside = self._binds(folder, spec, found, uid)
        return {
            "report": str((folder / "report").absolute()),
            "uid": uid,
            "parent": os.getpid(),
            "binds": binds,
            "inside": inside,
            "bwrap": found.inside_room,
            "bubblewrap": found.version_words(),
            "root_entries": self.root.entries(),
            "argv": spec["argv"],
            "environment": spec["environment"],
            "limits": spec["limits"],
            "filters": [
                str(seccomp.filter_path("standard" if group else "polled")),
                str(seccomp.filter_path("denials")),
            ],
            "limiter": limiter,
            "cgroup_fds": group.open_procs() if group else [],
            "held_fds": held,
            "oom_files": [str(path) for path in group.oom_files()] if group else [],
            "peak_files": [str(path) for path in group.peak_files()] if group else [],
        }

    def _use_root(self) -> None:
        """Say that the root is in use: one that nobody uses is removed after a while."""
        try:
            os.utime(self.root.path.parent)
        except FileNotFoundError:
            raise ExecutorUnavailable(
                "The file system for jobs is gone.", next_step="Start again: it is then built anew."
            ) from None

    def _binds(
        self, folder: Path, spec: dict[str, Any], found: bubblewrap.Bubblewrap, uid: int | None
    ) -> tuple[dict[str, str], list[tuple[str, str]]]:
        """What of the host is bound into the supervisor's room, and where bubblewrap shows it."""
        binds = {"root": str(self.root.path.absolute()), "job": str((folder / "files").absolute()), **found.binds()}
        inside = [("job", "/job")]
        for number, (host, target) in enumerate(spec["mounts"]):
            name = f"in/{number}"
            binds[name] = str(folders.readable(Path(host), folder / "copies" / str(number), uid))
            inside.append((name, target))
        return binds, inside

    def state(self, run: str, *, ignoring_lock: bool = False) -> RunState:
        folder = self._folder(run)
        if not (folder / "spec.json").exists():
            return RunState.ABSENT
        if (folder / "result.json").exists():
            return RunState.COLLECTED
        if not ignoring_lock and folders.is_locked(folder / "alive"):
            return RunState.RUNNING
        if (folder / "started.json").exists() or (folder / "terminated").exists():
            return RunState.ENDED
        return RunState.READY

    def wait(self, run: str, timeout: float | None = None) -> RunState:
        end = None if timeout is None else time.monotonic() + timeout
        while (seen := self.state(run)) is RunState.RUNNING:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            self._wait_for_supervisor(run, left)
        return seen

    def _wait_for_supervisor(self, run: str, seconds: float | None) -> None:
        pid = self._supervisor(run)
        if pid is None:
            time.sleep(0.005)
            return
        try:
            opened = os.pidfd_open(pid)
        except ProcessLookupError:
            time.sleep(0.001)
            return
        try:
            if self.state(run) is RunState.RUNNING:  # still the same process: it holds the lock
                select.select([opened], [], [], seconds)
        finally:
            os.close(opened)
        self._reap_child(run)

    def _reap_child(self, run: str) -> None:
        child = self._children.get(run)
        if child is not None and child.poll() is not None:
            del self._children[run]

    def finalise(self, run: str) -> RunResult:
        seen = self.state(run)
        folder = self._folder(run)
        if seen is RunState.ABSENT:
            raise UnknownRun(run)
        if seen is RunState.COLLECTED:
            return folders.read_result(folder)
        if seen is not RunState.ENDED:
            raise ExecutorUnavailable("A run was to be collected before it had ended.", next_step="Wait for its end.")
        self._reap_child(run)
        cgroup.remove(self._prefix + run)
        folders.take_over(folder / "report")
        folders.put(folder, "result.json", json.dumps(self._end(run, folder)).encode())
        return folders.read_result(folder)

    def _end(self, run: str, folder: Path) -> dict[str, Any]:
        """The supervisor's word, or that it left none; and the layers that were in force."""
        started = folders.read_json(folder / "started.json") or {}
        end = folders.read_json(folder / "report" / "end.json") or {"kind": "lost", "exit_code": None}
        if (folder / "terminated").exists() and end["kind"] != "exited":
            end = {**end, "kind": "terminated", "exit_code": None}
        layers = {
            "executor": self.name,
            "bubblewrap": started.get("bubblewrap", ""),
            "memory": started.get("limiter", ""),
            "root": self.root.digest,
            **end.get("seen", {}),
        }
        return {**end, "layers": layers}

    def terminate(self, run: str) -> None:
        if self.state(run) in (RunState.ABSENT, RunState.ENDED, RunState.COLLECTED):
            return
        folder = self._folder(run)
        (folder / "terminated").touch()
        while self.state(run) is RunState.RUNNING:
            pid = self._supervisor(run)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    opened = os.pidfd_open(pid)
                    try:
                        if self.state(run) is RunState.RUNNING:
                            signal.pidfd_send_signal(opened, signal.SIGKILL)
                            select.select([opened], [], [], 5)
                    finally:
                        os.close(opened)
            time.sleep(0.002)
            self._reap_child(run)
        cgroup.remove(self._prefix + run)

    def discard(self, run: str) -> None:
        self.terminate(run)
        self._reap_child(run)
        cgroup.remove(self._prefix + run)
        folder = self._folder(run)
        if folder.exists():
            going = folder.with_name(f".{run}.{time.time_ns():x}.going")
            with contextlib.suppress(FileNotFoundError):
                folder.rename(going)
            shutil.rmtree(going, ignore_errors=True)

    def reap(self) -> Sequence[str]:
        runs = self.state_folder / "runs"
        if not runs.is_dir():
            return ()
        left = []
        for folder in sorted(runs.iterdir()):
            if folder.name.startswith("."):
                folders.remove_if_abandoned(folder)
                continue
            if not self._lives(folders.owner_of(folder)):
                self.discard(folder.name)
                left.append(folder.name)
        for owner in (self.state_folder / "owners").glob("[0-9]*"):
            if not self._lives(owner.name):
                owner.unlink(missing_ok=True)
        groups = cgroup.named(self._prefix)  # before `known`: another process may be starting a run
        known = {folder.name for folder in runs.iterdir()}
        for found in groups:
            if found.name.removeprefix(self._prefix) not in known:
                cgroup.remove(found.name)
        return tuple(left)

    # -- owners: which process drives a run, known by a lock that dies with it

    def _own(self) -> str:
        if self._owner is None:
            folder = self.state_folder / "owners"
            folders.make_private(folder)
            name = f"{os.getpid()}-{time.time_ns():x}"
            opened = os.open(folder / f".{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(opened, fcntl.LOCK_EX)
            (folder / f".{name}").rename(folder / name)  # seen only once it is locked
            self._owner = name
        return self._owner

    def _lives(self, owner: str) -> bool:
        return owner == self._owner or folders.is_locked(self.state_folder / "owners" / PurePosixPath(owner).name)

    def _folder(self, run: str) -> Path:
        check_run_id(run)
        return self.state_folder / "runs" / run

    def _supervisor(self, run: str) -> int | None:
        started = folders.read_json(self._folder(run) / "started.json") or {}
        return started.get("pid")


def _give(folder: Path, uid: int) -> None:
    """Hand a folder to a run's uid. Raises `ExecutorUnavailable` where root has no other uids to give."""
    try:
        os.chown(folder, uid, uid)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise
        raise ExecutorUnavailable(
            f"root of this container has no user id {uid} to run a job as",
            next_step="Run as a plain user, or give the container 65,536 user ids.",
        ) from None
