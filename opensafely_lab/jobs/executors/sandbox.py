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
import queue
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import attrs

from opensafely_lab.jobs.executors import bubblewrap, cgroup, seccomp, selftest
from opensafely_lab.jobs.executors.protocol import (
    CollectedFile,
    EndKind,
    ExecutorUnavailable,
    Limits,
    ProbeReport,
    RunEnd,
    RunResult,
    RunSpec,
    RunState,
    StateUnwritable,
    UnknownRun,
    check_run_id,
)
from opensafely_lab.jobs.root import JobRoot

# Host uids of running jobs, one for each: signals, keyrings and process limits are per host uid.
# Debian keeps 60000-64999 for such uses; nothing may own files or processes under them.
JOB_UIDS = range(64100, 64900)
ABANDONED_AFTER = 3600.0  # seconds
UID_LOCKS = Path("/run/opensafely-lab/uids")

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
        with _speaking_of_disks():
            self._prepare(spec, selftest.limiter(self.proven()))

    def prepare_unproven(self, spec: RunSpec) -> None:
        """For the self-test alone: `prepare` without asking for one."""
        self._prepare(spec, None)

    def _prepare(self, spec: RunSpec, limiter: str | None) -> None:
        folder = self._folder(spec.id)
        _make_private(self.state_folder / "runs")
        draft = folder.with_name(f".{spec.id}.{os.getpid()}.{threading.get_ident()}")
        draft.mkdir(mode=0o700)
        try:
            (draft / "files").mkdir(mode=0o755)
            for name, content in spec.files.items():
                _put_job_file(draft / "files", name, content)
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
        with _speaking_of_disks():
            self._execute(run)

    def _execute(self, run: str) -> None:
        if self.state(run) is RunState.ABSENT:
            raise UnknownRun(run)
        folder = self._folder(run)
        with _locked(folder / "alive") as alive:
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
                child = _spawner().spawn(
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
        _put(folder, "started.json", json.dumps({"pid": child.pid, "owner": self._own(), **started}).encode())
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
            uid, lock = _lock_uid()
            held.append(lock)
            os.chown(folder / "report", uid, uid)
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
            binds[name] = str(_readable(Path(host), folder / "copies" / str(number), uid))
            inside.append((name, target))
        return binds, inside

    def state(self, run: str, *, ignoring_lock: bool = False) -> RunState:
        folder = self._folder(run)
        if not (folder / "spec.json").exists():
            return RunState.ABSENT
        if (folder / "result.json").exists():
            return RunState.COLLECTED
        if not ignoring_lock and _is_locked(folder / "alive"):
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
            return _read_result(folder)
        if seen is not RunState.ENDED:
            raise ExecutorUnavailable("A run was to be collected before it had ended.", next_step="Wait for its end.")
        self._reap_child(run)
        cgroup.remove(self._prefix + run)
        _take_over(folder / "report")
        _put(folder, "result.json", json.dumps(self._end(run, folder)).encode())
        return _read_result(folder)

    def _end(self, run: str, folder: Path) -> dict[str, Any]:
        """The supervisor's word, or that it left none; and the layers that were in force."""
        started = _read_json(folder / "started.json") or {}
        end = _read_json(folder / "report" / "end.json") or {"kind": "lost", "exit_code": None}
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
                _remove_if_abandoned(folder)
                continue
            if not self._lives(_owner_of(folder)):
                self.discard(folder.name)
                left.append(folder.name)
        for owner in (self.state_folder / "owners").glob("[0-9]*"):
            if not self._lives(owner.name):
                owner.unlink(missing_ok=True)
        known = {folder.name for folder in runs.iterdir()}
        for found in cgroup.named(self._prefix):
            if found.name.removeprefix(self._prefix) not in known:
                cgroup.remove(found.name)
        return tuple(left)

    # -- owners: which process drives a run, known by a lock that dies with it

    def _own(self) -> str:
        if self._owner is None:
            folder = self.state_folder / "owners"
            _make_private(folder)
            name = f"{os.getpid()}-{time.time_ns():x}"
            opened = os.open(folder / f".{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(opened, fcntl.LOCK_EX)
            (folder / f".{name}").rename(folder / name)  # seen only once it is locked
            self._owner = name
        return self._owner

    def _lives(self, owner: str) -> bool:
        return owner == self._owner or _is_locked(self.state_folder / "owners" / PurePosixPath(owner).name)

    def _folder(self, run: str) -> Path:
        check_run_id(run)
        return self.state_folder / "runs" / run

    def _supervisor(self, run: str) -> int | None:
        started = _read_json(self._folder(run) / "started.json") or {}
        return started.get("pid")


@contextlib.contextmanager
def _speaking_of_disks() -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise StateUnwritable(
            f"The folder of runs cannot be written: {os.strerror(problem.errno)}.",
            next_step="Make room on the disk, or name another state folder.",
        ) from None


# -- small things of the disk ------------------------------------------------------------------


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _owner_of(folder: Path) -> str:
    """Who drives a run: the process that started it, or until then the one that prepared it."""
    for name in ("started.json", "spec.json"):
        found = _read_json(folder / name) or {}
        if "owner" in found:
            return str(found["owner"])
    return "nobody"


def _remove_if_abandoned(folder: Path) -> None:
    """A draft, or a folder half removed, of a process that was killed meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        if folder.stat().st_mtime < time.time() - ABANDONED_AFTER:
            shutil.rmtree(folder, ignore_errors=True)


def _put(folder: Path, name: str, content: bytes) -> None:
    part = folder / f".{name}.part"
    part.write_bytes(content)
    part.replace(folder / name)


def _put_job_file(folder: Path, name: str, content: bytes) -> None:
    """One small input. The folder above is ours alone; the file itself the run's uid must read."""
    if PurePosixPath(name).name != name or name in ("", ".", ".."):
        raise ValueError("a job file is named by one plain name")
    path = folder / name
    path.write_bytes(content)
    path.chmod(0o644)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(value, dict):
        raise TypeError(f"{path.name} is not what we wrote")
    return value


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """The lock of a run, or None if its supervisor holds it. Passed on, it lives with the last holder."""
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield opened
    finally:
        os.close(opened)


def _is_locked(path: Path) -> bool:
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(opened)
    return False


def _lock_uid() -> tuple[int, int]:
    """A host uid that no other run has, and the lock that keeps it; the supervisor inherits the lock."""
    UID_LOCKS.mkdir(mode=0o700, parents=True, exist_ok=True)
    busy = {entry.stat().st_uid for entry in os.scandir("/proc") if entry.name.isdigit() and _exists(entry)}
    for uid in JOB_UIDS:
        if uid in busy:
            continue
        opened = os.open(UID_LOCKS / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(opened)
            continue
        return uid, opened
    raise ExecutorUnavailable("Every user id for jobs is taken.", next_step="Wait for a run to end, then try again.")


def _exists(entry: os.DirEntry[str]) -> bool:
    try:
        entry.stat()
    except OSError:
        return False
    return True


def _readable(host: Path, copy: Path, uid: int | None) -> Path:
    """`host`, if the run's uid can read all of it where it is; else a copy in the run's own folder.

    The folders above do not matter (we bind by descriptor); a 0600 file or a 0700 folder in it does.
    """
    if uid is None or _world_readable(host):
        return host
    copy.parent.mkdir(mode=0o700, exist_ok=True)
    if host.is_dir():
        shutil.copytree(host, copy, symlinks=True)
    else:
        shutil.copyfile(host, copy)
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return copy


def _world_readable(path: Path) -> bool:
    mode = path.stat().st_mode
    if not path.is_dir():
        return bool(mode & 0o004)
    if mode & 0o005 != 0o005:
        return False
    for entry in os.scandir(path):
        if entry.is_symlink():
            continue
        if entry.is_dir():
            if not _world_readable(Path(entry.path)):
                return False
        elif not entry.stat().st_mode & 0o004:
            return False
    return True


def _take_over(report: Path) -> None:
    """As root: what the supervisor wrote under the run's uid becomes ours."""
    if os.geteuid() != 0 or not report.is_dir():
        return
    for folder, folders, files in os.walk(report):
        os.chown(folder, 0, 0, follow_symlinks=False)
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), 0, 0, follow_symlinks=False)


def _read_result(folder: Path) -> RunResult:
    found = _read_json(folder / "result.json") or {}
    log = folder / "report" / "log"
    text = log.read_bytes() if log.exists() else b""
    if "trouble" in found:
        text += f"[{found['trouble']}]".encode()
    return RunResult(
        end=RunEnd(EndKind(found["kind"]), found["exit_code"]),
        folder=folder / "report" / "collected",
        files=tuple(CollectedFile(PurePosixPath(path), size, digest) for path, size, digest in found.get("files", ())),
        refused=tuple((path, reason) for path, reason in found.get("refused", ())),
        log=text,
        layers=found["layers"],
        wall_seconds=found.get("wall_seconds", 0.0),
        memory_peak=found.get("memory_peak"),
    )


# -- the thread that starts supervisors ---------------------------------------------------------


class _Spawner:
    """Starts processes from one thread that lives as long as we do.

    The wish to die with one's parent follows the parent *thread*: a supervisor started from a
    worker thread would die with that thread, and its run with it.
    """

    def __init__(self) -> None:
        self.orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.pid = os.getpid()
        threading.Thread(target=self._serve, name="sandbox-spawner", daemon=True).start()

    def _serve(self) -> None:
        while True:
            words, options, answer = self.orders.get()
            try:
                answer.put(subprocess.Popen(words, **options))
            except OSError as problem:
                answer.put(problem)

    def spawn(self, words: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        answer: queue.SimpleQueue[subprocess.Popen[bytes] | OSError] = queue.SimpleQueue()
        self.orders.put((words, options, answer))
        made = answer.get()
        if isinstance(made, OSError):
            raise made
        return made


_the_spawner: _Spawner | None = None
_spawner_lock = threading.Lock()


def _spawner() -> _Spawner:
    global _the_spawner
    with _spawner_lock:
        if _the_spawner is None or _the_spawner.pid != os.getpid():
            _the_spawner = _Spawner()
        return _the_spawner
