"""Copies what a run left behind, without trusting one byte of the tree. Standard library only.

1. Everything is reached from one directory descriptor by openat2 with RESOLVE_BENEATH, NO_SYMLINKS,
   NO_MAGICLINKS and NO_XDEV: no link (also one swapped in while we look), no "..", no mount point leads out.
   Without openat2, name by name with O_NOFOLLOW, which gives the same but for mount points.
2. A file is judged by fstat of the very descriptor that is copied: regular, one link, owner, size.
3. Bytes are counted and hashed while they are copied into new files of ours; nothing of the mode,
   owner, times or attributes travels.
4. Names are plain ASCII; files, entries looked at, depth, and bytes per file and in all are capped.

Left to the caller: that every process of the run is dead, and that nobody else writes to `target`.
Files named in `CONTROL` are taken from `.osl/` to `control/`, all others go to `outputs/`.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import stat
import struct
from typing import NamedTuple

MB = 1 << 20

# What the inside half of our own code leaves in /outputs/.osl/, and how large each may be.
CONTROL = {
    "status.json": 64 << 10,
    "cells.json": 1 * MB,
    "error.json": 1 * MB,
    "requests.json": 1 * MB,
    "definition.json": 8 * MB,
    "executed.ipynb": 16 * MB,
}
CONTROL_FOLDER = ".osl"
SUFFIXES = (
    ".csv",
    ".csv.gz",
    ".txt",
    ".json",
    ".png",
    ".jpg",
    ".jpeg",
    ".svg",
    ".html",
    ".ipynb",
    ".md",
    ".log",
    ".arrow",
    ".parquet",
)
PLAIN_NAME = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9 ._+=,@()-]{0,127}\Z")
MOST_REFUSALS = 100  # reported; the rest is only not copied

NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH = 1, 2, 4, 8
SYS_OPENAT2 = 437  # the same number on every architecture


class Caps(NamedTuple):
    files: int = 200
    entries: int = 2000
    depth: int = 4
    file_bytes: int = 16 * MB
    total_bytes: int = 64 * MB


class Kept(NamedTuple):
    path: str  # below `target`, "control/..." or "outputs/..."
    size: int
    sha256: str


class Refusal(NamedTuple):
    path: str  # ASCII-quoted: names are the run's, and as confidential as its data
    reason: str


class Collected(NamedTuple):
    kept: list[Kept]
    refused: list[Refusal]
    cut_short: bool  # there was more to look at than we ever look at


class NotTaken(Exception):
    """One entry is not copied; the argument says why, in our words."""


_libc = ctypes.CDLL(None, use_errno=True)


def _openat2(folder: int, name: str, flags: int) -> int:
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV)
    descriptor: int = _libc.syscall(SYS_OPENAT2, folder, os.fsencode(name), how, len(how))
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return descriptor


def _open_by_name(folder: int, name: str, flags: int) -> int:
    return os.open(name, flags | os.O_CLOEXEC, dir_fd=folder)


def open_beneath(folder: int, name: str, *, openat2: bool = True) -> int:
    """A descriptor of one entry of `folder`, whatever stands there; links and mount points are refused."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    if openat2:
        try:
            return _openat2(folder, name, flags)
        except OSError as problem:
            if problem.errno not in (errno.ENOSYS, errno.EPERM):
                raise
    return _open_by_name(folder, name, flags)


REASONS = {errno.ELOOP: "link", errno.EXDEV: "other filesystem", errno.ENXIO: "socket", errno.EACCES: "not readable"}


class Collector:
    """One pass over one tree. Make a new one for each run."""

    def __init__(self, target: int, caps: Caps, owner: int | None, openat2: bool = True) -> None:
        self.target = target
        self.caps = caps
        self.owner = owner
        self.openat2 = openat2
        self.entries = 0
        self.total = 0
        self.folded: set[str] = set()
        self.result = Collected([], [], False)
        self.cut_short = False

    def refuse(self, path: str, reason: str) -> None:
        if len(self.result.refused) < MOST_REFUSALS:
            self.result.refused.append(Refusal(ascii(path)[:200], reason))

    def take_control(self, source: int) -> None:
        """The fixed names of `.osl/`; whatever else is there does not exist for us."""
        try:
            folder = open_beneath(source, CONTROL_FOLDER, openat2=self.openat2)
        except OSError:
            return
        made = _make_folder(self.target, "control")
        try:
            if not stat.S_ISDIR(os.fstat(folder).st_mode):
                return
            for name, cap in CONTROL.items():
                try:
                    self.take_file(folder, made, name, "control/" + name, cap)
                except FileNotFoundError:
                    continue
                except NotTaken as problem:
                    self.refuse(".osl/" + name, str(problem))
        finally:
            os.close(made)
            os.close(folder)

    def take_outputs(self, source: int) -> None:
        made = _make_folder(self.target, "outputs")
        try:
            self.walk(source, made, "", 1)
        finally:
            os.close(made)

    def walk(self, folder: int, made: int, above: str, depth: int) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                self.entries += 1
                if self.entries > self.caps.entries:
                    self.cut_short = True
                    return
                if depth == 1 and entry.name == CONTROL_FOLDER:
                    continue
                try:
                    self.take_entry(folder, made, entry.name, above, depth)
                except FileNotFoundError:
                    continue
                except NotTaken as problem:
                    self.refuse(above + entry.name, str(problem))

    def take_entry(self, folder: int, made: int, name: str, above: str, depth: int) -> None:
        path = above + name
        if not PLAIN_NAME.match(name) or name.endswith((" ", ".")):
            raise NotTaken("name")
        if path.casefold() in self.folded:
            raise NotTaken("same name but for case")
        self.folded.add(path.casefold())
        opened = self.open(folder, name)
        try:
            if not stat.S_ISDIR(os.fstat(opened).st_mode):
                if not name.lower().endswith(SUFFIXES):
                    raise NotTaken("type")
                if sum(kept.path.startswith("outputs/") for kept in self.result.kept) >= self.caps.files:
                    raise NotTaken("count")
                self.copy(opened, made, name, "outputs/" + path, self.caps.file_bytes)
                return
            if depth >= self.caps.depth:
                raise NotTaken("depth")
            below = _make_folder(made, name)
            try:
                self.walk(opened, below, path + "/", depth + 1)
            finally:
                os.close(below)
        finally:
            os.close(opened)

    def take_file(self, folder: int, made: int, name: str, path: str, cap: int) -> None:
        opened = self.open(folder, name)
        try:
            self.copy(opened, made, name, path, cap)
        finally:
            os.close(opened)

    def open(self, folder: int, name: str) -> int:
        try:
            return open_beneath(folder, name, openat2=self.openat2)
        except FileNotFoundError:
            raise
        except OSError as problem:
            raise NotTaken(
                REASONS.get(problem.errno or 0, errno.errorcode.get(problem.errno or 0, "unreadable"))
            ) from None

    def copy(self, opened: int, made: int, name: str, path: str, cap: int) -> None:
        """Copy one opened file, if it is a plain one of the run's own, and no larger than `cap`."""
        seen = os.fstat(opened)
        if not stat.S_ISREG(seen.st_mode):
            raise NotTaken("not a regular file")
        if seen.st_nlink != 1:
            raise NotTaken("hard link")
        if self.owner is not None and seen.st_uid != self.owner:
            raise NotTaken("owner")
        left = min(cap, self.caps.total_bytes - self.total)
        if seen.st_size > left:
            raise NotTaken("size")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        written = os.open(name, flags, 0o600, dir_fd=made)
        digest = hashlib.sha256()
        size = 0
        try:
            while block := os.read(opened, 1 * MB):
                size += len(block)
                if size > left:
                    os.unlink(name, dir_fd=made)
                    raise NotTaken("grew while it was copied")
                digest.update(block)
                while block:
                    block = block[os.write(written, block) :]
        finally:
            os.close(written)
        self.total += size
        self.result.kept.append(Kept(path, size, digest.hexdigest()))


def _make_folder(parent: int, name: str) -> int:
    os.mkdir(name, 0o700, dir_fd=parent)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def collect(source: str, target: int, caps: Caps, *, owner: int | None = None, openat2: bool = True) -> Collected:
    """Copy the tree at `source` into the empty folder whose descriptor is `target`."""
    opened = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        collector = Collector(target, caps, owner, openat2)
        collector.take_control(opened)
        collector.take_outputs(opened)
    finally:
        os.close(opened)
    return collector.result._replace(cut_short=collector.cut_short)
