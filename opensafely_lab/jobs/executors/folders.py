"""The small things of the disk that `sandbox` stands on: locks, private folders, whole files, readable inputs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from opensafely_lab.jobs.executors.protocol import (
    CollectedFile,
    EndKind,
    ExecutorUnavailable,
    RunEnd,
    RunResult,
    StateUnwritable,
)

# Host uids of running jobs, one for each: signals, keyrings and process limits are per host uid.
# Debian keeps 60000-64999 for such uses; nothing may own files or processes under them.
JOB_UIDS = range(64100, 64900)
ABANDONED_AFTER = 3600.0  # seconds
UID_LOCKS = Path("/run/opensafely-lab/uids")


@contextlib.contextmanager
def speaking_of_disks() -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise StateUnwritable(
            f"The folder of runs cannot be written: {os.strerror(problem.errno)}.",
            next_step="Make room on the disk, or name another state folder.",
        ) from None


def make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def owner_of(folder: Path) -> str:
    """Who drives a run: the process that started it, or until then the one that prepared it."""
    for name in ("started.json", "spec.json"):
        found = read_json(folder / name) or {}
        if "owner" in found:
            return str(found["owner"])
    return "nobody"


def remove_if_abandoned(folder: Path) -> None:
    """A draft, or a folder half removed, of a process that was killed meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        if folder.stat().st_mtime < time.time() - ABANDONED_AFTER:
            shutil.rmtree(folder, ignore_errors=True)


def put(folder: Path, name: str, content: bytes) -> None:
    part = folder / f".{name}.part"
    part.write_bytes(content)
    part.replace(folder / name)


def put_job_file(folder: Path, name: str, content: bytes) -> None:
    """One small input. The folder above is ours alone; the file itself the run's uid must read."""
    if PurePosixPath(name).name != name or name in ("", ".", ".."):
        raise ValueError("a job file is named by one plain name")
    path = folder / name
    path.write_bytes(content)
    path.chmod(0o644)


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(value, dict):
        raise TypeError(f"{path.name} is not what we wrote")
    return value


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int | None]:
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


def is_locked(path: Path) -> bool:
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


def lock_uid() -> tuple[int, int]:
    """A host uid that no other run has, and the lock that keeps it; the supervisor inherits the lock."""
    UID_LOCKS.mkdir(mode=0o700, parents=True, exist_ok=True)
    busy = {entry.stat().st_uid for entry in os.scandir("/proc") if entry.name.isdigit() and exists(entry)}
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


def exists(entry: os.DirEntry[str]) -> bool:
    try:
        entry.stat()
    except OSError:
        return False
    return True


def readable(host: Path, copy: Path, uid: int | None) -> Path:
    """`host`, if the run's uid can read all of it where it is; else a copy in the run's own folder.

    The folders above do not matter (we bind by descriptor); a 0600 file or a 0700 folder in it does.
    """
    if uid is None or world_readable(host):
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


def world_readable(path: Path) -> bool:
    mode = path.stat().st_mode
    if not path.is_dir():
        return bool(mode & 0o004)
    if mode & 0o005 != 0o005:
        return False
    for entry in os.scandir(path):
        if entry.is_symlink():
            continue
        if entry.is_dir():
            if not world_readable(Path(entry.path)):
                return False
        elif not entry.stat().st_mode & 0o004:
            return False
    return True


def take_over(report: Path) -> None:
    """As root: what the supervisor wrote under the run's uid becomes ours."""
    if os.geteuid() != 0 or not report.is_dir():
        return
    for folder, folders, files in os.walk(report):
        os.chown(folder, 0, 0, follow_symlinks=False)
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), 0, 0, follow_symlinks=False)


def read_result(folder: Path) -> RunResult:
    found = read_json(folder / "result.json") or {}
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
