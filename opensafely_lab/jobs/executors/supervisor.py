"""Stands between us and one run: builds its room, starts bubblewrap, watches, collects. Standard library only.

A process of its own, started as `python -I -S` with its orders (JSON) on stdin and no environment. In order:

1. Open, as whoever started us, everything that the run needs: later nothing of the host can be reached.
2. Take a mount namespace (as a plain user: with a user namespace) and put in it, on top of /tmp, size-
   and inode-limited tmpfs for what the run may write, and binds of what it may read. They vanish with us.
3. As root: become the run's own uid, for good. Only then ask to die with our parent (setresuid and
   unshare clear that wish), and compare getppid() in case it was already gone.
4. Fork bubblewrap into the run's cgroup, with no environment, no descriptors but its filters, and limits.
   We ourselves stay outside the cgroup: a run must not choose us as the one to kill.
5. Wait for its end, the time limit, or - without a cgroup - the memory limit; keep reading its log.
6. When the last process of the run is dead: collect its outputs and write `end.json`.

If we die, bubblewrap and every process of the run die too (PDEATHSIG), and the run is lost.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from opensafely_lab.jobs.executors.watch import Orders, Trouble, Watch, read_number
from opensafely_lab.jobs.outputs import Caps, collect

if TYPE_CHECKING:
    from collections.abc import Callable

MB = 1 << 20
ROOM = "/tmp"  # noqa: S108 - our own mount namespace: nobody else sees what is mounted here
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 0x4000, 0x40000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
JOB_UID = 64000  # what the run sees as its own

# Kernel tables that no analysis needs and that describe the machine or its other work.
HIDDEN_IN_PROC = (
    "buddyinfo", "cmdline", "config.gz", "consoles", "crypto", "devices", "diskstats", "interrupts", "iomem",
    "kallsyms", "key-users", "keys", "kmsg", "locks", "modules", "pagetypeinfo", "partitions", "sched_debug",
    "slabinfo", "swaps", "timer_list", "version", "vmallocinfo", "vmstat", "zoneinfo",
)  # fmt: skip
KEPT_DEVICES = "/dev"

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise Trouble(f"{what}: {os.strerror(code)}")


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    made = _libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode())
    _check(made, f"mount {target}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


# -- the room ------------------------------------------------------------------------------------


def enter_namespaces(uid: int | None) -> None:
    """As root a mount namespace; as a plain user a user namespace first, which lets us mount in it."""
    if uid is not None:
        _unshare(CLONE_NEWNS)
    else:
        me, group = os.getuid(), os.getgid()
        _unshare(CLONE_NEWUSER | CLONE_NEWNS)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{me} {me} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    _mount("none", "/", None, MS_REC | MS_PRIVATE)


def furnish(orders: Orders) -> None:
    """Mount the run's writable folders and bind what it may read, below `ROOM`.

    Binding by descriptor, opened before `ROOM` is covered and before the uid is dropped, makes a
    source readable whatever folders lie above it (a 0700 home), and puts no host path into the run.
    """
    os.umask(0o022)
    sources = {name: os.open(path, os.O_PATH | os.O_CLOEXEC) for name, path in orders["binds"].items()}
    owner = "" if orders["uid"] is None else f",uid={orders['uid']},gid={orders['uid']}"
    nothing = MS_NOSUID | MS_NODEV | MS_NOEXEC
    _mount("tmpfs", ROOM, "tmpfs", nothing, "size=1m,nr_inodes=4096,mode=0755")
    limits = orders["limits"]
    for name, size, inodes in (
        ("outputs", limits["output_bytes"], 4096),
        ("scratch", limits["scratch_bytes"], 65536),
        ("shm", 64 * MB, 1024),
    ):
        os.mkdir(f"{ROOM}/{name}")
        _mount("tmpfs", f"{ROOM}/{name}", "tmpfs", nothing, f"size={size},nr_inodes={inodes},mode=0700{owner}")
    for name, opened in sources.items():
        target = f"{ROOM}/{name}"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(f"/proc/self/fd/{opened}"):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600))
        _mount(f"/proc/self/fd/{opened}", target, None, MS_BIND | MS_REC)
        os.close(opened)


def become(uid: int | None, parent: int) -> None:
    """Give up root for the run's own uid, and tie our life to our parent's."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    for folder in ("work", "tmp"):
        os.mkdir(f"{ROOM}/scratch/{folder}", 0o700)
    os.umask(0o077)
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    die_with(parent)


def die_with(parent: int) -> None:
    """Ask for a death signal when our parent ends; if it has already, end now."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")
    if os.getppid() != parent:
        os._exit(1)


# -- bubblewrap ----------------------------------------------------------------------------------


def command(orders: Orders, filters: list[int], info: int) -> list[str]:
    """The bubblewrap command line. `tests/contracts` proves each layer of it."""
    words = [
        orders["bwrap"],
        "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup",
        "--disable-userns", "--as-pid-1", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
        "--uid", str(JOB_UID), "--gid", str(JOB_UID), "--hostname", "job", "--info-fd", str(info),
    ]  # fmt: skip
    for name, link in orders["root_entries"]:
        words += ["--symlink", link, f"/{name}"] if link else ["--ro-bind", f"{ROOM}/root/{name}", f"/{name}"]
    words += ["--proc", "/proc", "--dev", KEPT_DEVICES, "--bind", f"{ROOM}/shm", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108
    for name in HIDDEN_IN_PROC:
        if os.path.exists(f"/proc/{name}"):
            words += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    words += ["--bind", f"{ROOM}/scratch/tmp", "/tmp", "--bind", f"{ROOM}/scratch/work", "/work"]  # noqa: S108
    words += ["--bind", f"{ROOM}/outputs", "/outputs"]
    for name, inside in orders["inside"]:
        words += ["--ro-bind", f"{ROOM}/{name}", inside]
    words += ["--remount-ro", "/", "--chdir", "/work", "--clearenv"]
    for key, value in orders["environment"].items():
        words += ["--setenv", key, value]
    for opened in filters:
        words += ["--add-seccomp-fd", str(opened)]
    return [*words, "--", *orders["argv"]]


def limit_self(limits: dict[str, Any]) -> None:
    """Limits per process; the totals are the cgroup's, or ours by polling."""
    largest_file = max(limits["output_bytes"], limits["scratch_bytes"])
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 4096),
        (resource.RLIMIT_FSIZE, largest_file),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_CPU, int(limits["wall_seconds"] * max(1.0, limits["cpus"])) + 10),
    ):
        hard = resource.getrlimit(what)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (value, value))


def start(orders: Orders, filters: list[int], log: int, info: int) -> int:
    """Fork, step into the cgroup and become bubblewrap. Returns its pid."""
    words = command(orders, filters, info)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        for opened in orders["cgroup_fds"]:
            os.write(opened, b"0")
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        keep = sorted({*filters, info})
        for opened in keep:
            os.set_inheritable(opened, True)
        for low, high in zip([2, *keep], [*keep, 65536], strict=True):
            os.closerange(low + 1, high)
        # Changing the uid made our /proc entries root's. Only this child takes them back.
        _check(_libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")
        _write("/proc/self/oom_score_adj", "500")
        limit_self(orders["limits"])
        die_with(parent)
        os.execve(words[0], words, {})  # noqa: S606 - no environment: ours could be read in /proc/1/environ
    except BaseException as problem:  # noqa: BLE001 - nothing may return into the parent's code
        os.write(2, f"the sandbox did not start: {problem}\n".encode())
    os._exit(125)


# -- the whole -----------------------------------------------------------------------------------


def supervise(orders: Orders, report: int) -> dict[str, Any]:
    """Run it and collect; returns what goes into `end.json`."""
    filters = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in orders["filters"]]
    enter_namespaces(orders["uid"])
    furnish(orders)
    become(orders["uid"], orders["parent"])
    log_read, log_write = os.pipe()
    info_read, info_write = os.pipe()
    os.set_blocking(log_read, False)
    watch = Watch(orders, start(orders, filters, log_write, info_write), log_read, info_read)
    for opened in (log_write, info_write, *filters, *orders["cgroup_fds"]):
        os.close(opened)
    return watch_and_collect(orders, watch, f"{ROOM}/outputs", report)


def watch_and_collect(orders: Orders, watch: Watch, outputs: str, report: int) -> dict[str, Any]:
    limits = orders["limits"]
    started = time.monotonic()
    reason, code = watch.until_end()
    wall = time.monotonic() - started
    if reason != "memory-limit" and watch.over_memory():
        reason = "memory-limit"
    if reason is None and watch.first is None:
        raise Trouble("the run did not start: " + bytes(watch.log[:500]).decode("utf-8", "replace"))
    caps = Caps(
        files=limits["output_files"],
        entries=10 * limits["output_files"],
        file_bytes=limits["file_bytes"],
        total_bytes=limits["output_bytes"],
    )
    os.mkdir("collected", 0o700, dir_fd=report)
    target = os.open("collected", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=report)
    collected = collect(outputs, target, caps, owner=os.getuid())
    put(report, "log", bytes(watch.log))
    return {
        "kind": reason or "exited",
        "exit_code": code if reason is None else None,
        "wall_seconds": round(wall, 3),
        "memory_peak": read_number(orders["peak_files"]) or watch.peak or None,
        "files": [list(kept) for kept in collected.kept],
        "refused": [list(refusal) for refusal in collected.refused],
        "cut_short": collected.cut_short,
        "seen": watch.seen,
    }


def put(folder: int, name: str, content: bytes) -> None:
    """Write one file of the report, so that it is either whole or not there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    opened = os.open(name + ".part", flags, 0o600, dir_fd=folder)
    try:
        while content:
            content = content[os.write(opened, content) :]
    finally:
        os.close(opened)
    os.replace(name + ".part", name, src_dir_fd=folder, dst_dir_fd=folder)


def main() -> NoReturn:
    serve(supervise)


def serve(supervise: Callable[[Orders, int], dict[str, Any]]) -> NoReturn:
    """Read the orders, carry them out by `supervise`, leave `end.json`."""
    orders: Orders = json.loads(sys.stdin.buffer.read())
    for opened in (*orders["cgroup_fds"], *orders["held_fds"]):
        os.set_inheritable(opened, False)
    report = os.open(orders["report"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = supervise(orders, report)
    except (Trouble, OSError) as problem:
        end = {"kind": "lost", "exit_code": None, "trouble": str(problem)}
    put(report, "end.json", json.dumps(end).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
