"""Watches one started run from outside, and ends it. Standard library only; see `supervisor`."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
from typing import Any

Orders = dict[str, Any]

TICK = 0.2  # between two looks at memory, where it is polled
DYING = 10.0  # how long the kernel may take to end a killed run


class Trouble(Exception):
    """The sandbox could not be built. The run has not started."""


class Watch:
    """One started run: its log, its first process, what has been seen of it."""

    def __init__(self, orders: Orders, bwrap: int, log: int, info: int) -> None:
        self.limits = orders["limits"]
        self.polled = orders["limiter"] == "polling"
        self.oom_files: list[str] = orders["oom_files"]
        self.bwrap = bwrap
        self.log_pipe = log
        self.info_pipe = info
        self.info = b""
        self.first: int | None = None  # pid 1 of the sandbox, by its pid outside
        self.first_fd: int | None = None
        self.log = bytearray()
        self.peak = 0
        self.seen: dict[str, str] = {}
        self.end_fd = os.pidfd_open(bwrap)

    def until_end(self) -> tuple[str | None, int | None]:
        """Why we ended it, or None, and its exit code."""
        started = time.monotonic()
        poll = select.poll()
        for opened in (self.log_pipe, self.info_pipe, self.end_fd):
            poll.register(opened, select.POLLIN)
        reason: str | None = None
        next_look = started
        while reason is None:
            now = time.monotonic()
            left = self.limits["wall_seconds"] - (now - started)
            if left <= 0:
                reason = "time-limit"
                break
            if now >= next_look:
                next_look = now + self.look(now - started)
                if self.over_memory():
                    reason = "memory-limit"
                    break
            ready = dict(poll.poll(1000 * max(0.001, min(left, next_look - now))))
            if self.info_pipe in ready and not self.read_info():
                poll.unregister(self.info_pipe)
            if self.log_pipe in ready and not self.read_log():
                poll.unregister(self.log_pipe)
            if self.end_fd in ready:
                break
        code = self.end()
        self.drain()
        return reason, code

    def read_info(self) -> bool:
        """bubblewrap tells the pid of the first process, piece by piece, once its namespaces stand."""
        block = os.read(self.info_pipe, 4096)
        self.info += block
        if self.first is None and b"}" in self.info:
            self.first = int(json.loads(self.info)["child-pid"])
            try:
                self.first_fd = os.pidfd_open(self.first)
            except ProcessLookupError:
                return False  # it has ended already
        return bool(block)

    def read_log(self) -> bool:
        """Keep reading past the cap: a full pipe must not stop the run, nor a flood grow us."""
        try:
            block = os.read(self.log_pipe, 65536)
        except BlockingIOError:
            return True
        self.log += block[: max(0, self.limits["log_bytes"] - len(self.log))]
        return bool(block)

    def drain(self) -> None:
        """Read what is left. To the end of the pipe's buffer, not to EOF: somebody may hold it open."""
        for _ in range(256):
            try:
                if not self.read_log():
                    return
                if not select.select([self.log_pipe], [], [], 0)[0]:
                    return
            except OSError:
                return

    def look(self, age: float) -> float:
        """Look at the run from outside; returns seconds until the next look."""
        if self.first is not None and self.seen.get("seccomp") != "2":
            self.observe()
        if self.polled:
            self.peak = max(self.peak, tree_memory(self.bwrap, self.limits["memory_bytes"]))
            return 0.02 if age < TICK else TICK
        return 0.02 if age < 2 * TICK and self.seen.get("seccomp") != "2" else 2 * TICK

    def over_memory(self) -> bool:
        """In a cgroup the kernel kills one process, and the run may carry on without it: what is missing
        nobody can tell. So the first such kill ends the run."""
        if self.polled:
            return self.peak > int(self.limits["memory_bytes"])
        return (read_number(self.oom_files, "oom_kill") or 0) > 0

    def observe(self) -> None:
        """What the kernel says of the run's first process: evidence for the record of this very run."""
        try:
            with open(f"/proc/{self.first}/status") as file:
                status = dict(line.split(":", 1) for line in file)
            apart = [
                kind
                for kind in ("user", "pid", "net", "ipc", "uts", "mnt", "cgroup")
                if os.readlink(f"/proc/{self.first}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
            ]
        except (OSError, ValueError):
            return
        filtered = status["Seccomp"].strip()
        self.seen = {
            "namespaces": " ".join(apart),
            "seccomp": filtered if filtered == "2" else "not seen",
            "no_new_privs": status["NoNewPrivs"].strip(),
            "capabilities": status["CapBnd"].strip(),
            "host_uid": status["Uid"].split()[0],
        }

    def end(self) -> int | None:
        """Kill whatever is left, and return only when it is gone."""
        while self.first is None and select.select([self.info_pipe], [], [], 0)[0] and self.read_info():
            pass
        for opened in (self.first_fd, self.end_fd):
            if opened is not None:
                try:
                    signal.pidfd_send_signal(opened, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        _, status = os.waitpid(self.bwrap, 0)
        if self.first_fd is not None:
            gone, _, _ = select.select([self.first_fd], [], [], DYING)
            if not gone:
                raise Trouble("processes of the run did not end")
        return os.waitstatus_to_exitcode(status)


def tree_memory(root: int, limit: int) -> int:
    """Bytes that a process and all below it hold. Sees no memfd, which is why the filter forbids them.

    Resident sizes are cheap, but count shared pages once for each process; where their sum is over the
    limit, each process's share is counted instead.
    """
    pids = tree(root)
    resident = sum(resident_bytes(pid) for pid in pids)
    return resident if resident <= limit else sum(share_bytes(pid) for pid in pids)


def tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parent = int(file.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def share_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) << 10
    except PermissionError:
        return resident_bytes(pid)
    except OSError:
        pass
    return 0


def read_number(paths: list[str], key: str | None = None) -> int | None:
    """A number in the first of `paths` that is there, or that stands behind `key` in it."""
    for path in paths:
        try:
            with open(path) as file:
                text = file.read()
        except OSError:
            continue
        if key is None:
            return int(text)
        for line in text.splitlines():
            word, _, value = line.partition(" ")
            if word == key:
                return int(value)
    return None
