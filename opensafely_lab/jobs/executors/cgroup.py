"""A cgroup for one run: its memory, processes and processor time, all its processes together.

Version 2 or version 1, as root or in a subtree that was delegated to us; where there is neither,
`make` returns None and the supervisor polls. Which one is in force is in the record of each run.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import frozen

from opensafely_lab.jobs.executors.protocol import Limits

MOUNTED = Path("/sys/fs/cgroup")
CONTROLLERS_V1 = ("memory", "pids", "cpu")
PERIOD = 100_000  # microseconds


@frozen
class Cgroup:
    """The folders of one run's cgroup: one in version 2, one for each controller in version 1."""

    kind: str  # "cgroup-v1" or "cgroup-v2"
    folders: tuple[Path, ...]

    def open_procs(self) -> list[int]:
        """Descriptors to step in by. Opened with our rights, they work after the uid is dropped."""
        return [os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for folder in self.folders]

    def oom_files(self) -> list[Path]:
        return [folder / name for folder in self.folders for name in ("memory.events", "memory.oom_control")]

    def peak_files(self) -> list[Path]:
        return [folder / name for folder in self.folders for name in ("memory.peak", "memory.max_usage_in_bytes")]


def make(name: str, limits: Limits) -> Cgroup | None:
    """A new cgroup under `name`, or None where we may not have one with memory and process limits."""
    for base, write in _places():
        _pass_on_controllers(base)
        made: list[Path] = []
        try:
            for folder, settings in write(base, name, limits):
                folder.mkdir()
                made.append(folder)
                _set(folder, settings)
        except OSError:
            for folder in made:
                _remove(folder)
            continue
        return Cgroup("cgroup-v2" if write is _version_2 else "cgroup-v1", tuple(made))
    return None


def available() -> str:
    """Which limiter a run would get: "cgroup-v2", "cgroup-v1" or "polling". Tries, and cleans up."""
    name = f"osl-probe-{os.getpid()}-{time.monotonic_ns()}"
    found = make(name, Limits())
    if found is None:
        return "polling"
    for folder in found.folders:
        _remove(folder)
    return found.kind


def named(prefix: str) -> list[Path]:
    """Every cgroup folder whose name begins with `prefix`."""
    bases = {base / controller for base, _ in _places() for controller in ("", *CONTROLLERS_V1)}
    return sorted(folder for base in bases if base.is_dir() for folder in base.glob(prefix + "*") if folder.is_dir())


def remove(name: str) -> None:
    """Kill what is left in a run's cgroup and remove it."""
    for folder in named(name):
        if folder.name == name:
            _kill(folder)
            _remove(folder)


Settings = dict[str, str]
Plan = list[tuple[Path, Settings]]


def _version_2(base: Path, name: str, limits: Limits) -> Plan:
    settings = {
        "memory.max": str(limits.memory_bytes),
        "memory.swap.max?": "0",  # "?": where the kernel counts swap
        "memory.oom.group?": "1",
        "pids.max": str(limits.processes),
        "cpu.max?": f"{int(limits.cpus * PERIOD)} {PERIOD}",
    }
    return [(base / name, settings)]


def _version_1(base: Path, name: str, limits: Limits) -> Plan:
    memory = {
        "memory.limit_in_bytes": str(limits.memory_bytes),
        "memory.memsw.limit_in_bytes?": str(limits.memory_bytes),
    }
    cpu = {"cpu.cfs_period_us?": str(PERIOD), "cpu.cfs_quota_us?": str(int(limits.cpus * PERIOD))}
    plan: Plan = [(base / "memory" / name, memory), (base / "pids" / name, {"pids.max": str(limits.processes)})]
    if (base / "cpu").is_dir():
        plan.append((base / "cpu" / name, cpu))
    return plan


def _places() -> Iterator[tuple[Path, Callable[[Path, str, Limits], Plan]]]:
    """Where a cgroup could be made, best first. A plain user: beside our own, in a delegated subtree."""
    if (MOUNTED / "cgroup.controllers").is_file():
        yield (MOUNTED if os.geteuid() == 0 else _delegated()), _version_2
    elif (MOUNTED / "memory").is_dir() and os.geteuid() == 0:
        yield MOUNTED, _version_1


def _delegated() -> Path:
    """The parent of our own cgroup: processes and controllers cannot be in one and the same."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return (MOUNTED / line[3:].lstrip("/")).parent
    return MOUNTED


def _pass_on_controllers(base: Path) -> None:
    """Version 2 gives a cgroup only the controllers that the one above passes on. Where we may, make it so."""
    control = base / "cgroup.subtree_control"
    try:
        if not {"memory", "pids", "cpu"} <= set(control.read_text().split()):
            control.write_text("+memory +pids +cpu")
    except OSError:
        return  # `_set` then finds no file to write, and this place is not taken


def _set(folder: Path, settings: Settings) -> None:
    for key, value in settings.items():
        path = folder / key.removesuffix("?")
        if key.endswith("?") and not path.exists():
            continue
        # Opened without O_CREAT: cgroup files exist or the controller is not there.
        opened = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(opened, value.encode())
        finally:
            os.close(opened)


def _kill(folder: Path) -> None:
    everyone = folder / "cgroup.kill"
    if everyone.exists():
        everyone.write_text("1")
        return
    for _ in range(20):  # version 1 has no such file: until nobody forks any more
        try:
            pids = (folder / "cgroup.procs").read_text().split()
        except OSError:
            return
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def _remove(folder: Path) -> None:
    for _ in range(50):  # the kernel lets go of the last process a little after it is dead
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)
        else:
            return
