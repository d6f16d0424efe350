"""The sandbox tries itself: each layer that confidential data need, tried from inside a real run.

The report names every layer, there or missing. A good one is remembered until the machine is started
again, or the root, bubblewrap or our own rights change: `opensafely-lab run` does not pay for it each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import attrs

from opensafely_lab.errors import LabError
from opensafely_lab.jobs.executors import bubblewrap, seccomp
from opensafely_lab.jobs.executors.protocol import (
    MB,
    EndKind,
    Layer,
    Limits,
    Mount,
    ProbeReport,
    RunResult,
    RunSpec,
)

if TYPE_CHECKING:
    from opensafely_lab.jobs.executors.sandbox import SandboxExecutor

LIMITS = Limits(memory_bytes=96 * MB, processes=32, wall_seconds=20, scratch_bytes=16 * MB, output_bytes=4 * MB)
MEMORY = "memory limit"


def report(executor: SandboxExecutor) -> ProbeReport:
    """Start a run and judge what it could do. About half a second."""
    before = _before(executor)
    if not all(layer.ok for layer in before):
        return ProbeReport(executor.name, before)
    run = "selftest-" + secrets.token_hex(6)
    with _canaries() as (port, name), tempfile.TemporaryDirectory() as folder:
        spec = RunSpec(
            id=run,
            argv=("/opt/venv/bin/python", "-I", "-S", "/job/tried.py", str(port), name, str(2 * LIMITS.memory_bytes)),
            files={"tried.py": Path(__file__).with_name("tried_inside.py").read_bytes()},
            mounts=(Mount(Path(folder), PurePosixPath("/probe")),),
            limits=LIMITS,
        )
        try:
            executor.prepare_unproven(spec)
            executor.execute(run)
            executor.wait(run, LIMITS.wall_seconds + 10)
            result = executor.finalise(run)
        except LabError as problem:
            return ProbeReport(executor.name, (*before, Layer("start", False, problem.sentence.rstrip("."))))
        finally:
            executor.discard(run)
    return ProbeReport(executor.name, (*before, *judge(result)))


def _before(executor: SandboxExecutor) -> tuple[Layer, ...]:
    """What must be there before anything can be started."""
    layers = []
    try:
        layers.append(Layer("bubblewrap", True, bubblewrap.find().version_words()))
    except LabError as problem:
        layers.append(Layer("bubblewrap", False, problem.sentence.rstrip(".")))
    try:
        for kind in seccomp.KINDS:
            seccomp.filter_path(kind)
        layers.append(Layer("seccomp filters", True, os.uname().machine))
    except FileNotFoundError:
        layers.append(Layer("seccomp filters", False, f"there are none for {os.uname().machine}"))
    layers.append(Layer("root", executor.root.path.is_dir(), executor.root.digest[:12]))
    return tuple(layers)


def judge(result: RunResult) -> tuple[Layer, ...]:
    """The layers, from what the run printed and how it ended."""
    lines = result.log.decode("utf-8", "replace").splitlines()
    try:
        tried = dict(json.loads(lines[0]))
    except (IndexError, ValueError, TypeError):
        return (Layer("namespaces", False, "; ".join(filter(None, (*lines[:2], *obstacles())))),)
    apart = result.layers.get("namespaces", "")
    layers = [Layer("namespaces", True, apart)]
    layers += [Layer(name, not reached, reached or "held") for name, reached in tried.items()]
    limiter = result.layers.get("memory", "")
    held = result.end.kind is EndKind.MEMORY
    layers.append(Layer(MEMORY, held, limiter if held else f"{limiter} did not hold"))
    return tuple(layers)


def obstacles() -> list[str]:
    """Why user namespaces may be forbidden here, in words for `doctor`."""
    found = []
    for path, bad, words in (
        ("/proc/sys/user/max_user_namespaces", "0", "user namespaces are switched off (user.max_user_namespaces)"),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "user namespaces are for root only (unprivileged_userns_clone)",
        ),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor restricts user namespaces"),
    ):
        with contextlib.suppress(OSError):
            if Path(path).read_text().strip() == bad:
                found.append(words)
    return found


@contextlib.contextmanager
def _canaries() -> Iterator[tuple[int, str]]:
    """A port on the host's loopback and an abstract socket, which nobody in a run may reach."""
    name = "osl-canary-" + secrets.token_hex(8)
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        abstract.bind("\0" + name)
        abstract.listen()
        yield tcp.getsockname()[1], name


# -- remembered -------------------------------------------------------------------------------------


def remembered(executor: SandboxExecutor) -> ProbeReport:
    """The report of this machine's current start, from the state folder or by a self-test now."""
    path = executor.state_folder / "probe.json"
    key = _circumstances(executor)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(path.read_bytes())
        if found["key"] == key:
            return ProbeReport(executor.name, tuple(Layer(**layer) for layer in found["layers"]))
    made = report(executor)
    if made.ok:
        remember(executor, made)
    return made


def remember(executor: SandboxExecutor, made: ProbeReport) -> None:
    folder = executor.state_folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = folder / f".probe.{os.getpid()}"
    layers = [attrs.asdict(layer) for layer in made.layers]
    part.write_text(json.dumps({"key": _circumstances(executor), "layers": layers}))
    part.replace(folder / "probe.json")


def limiter(made: ProbeReport) -> str:
    return next((layer.detail for layer in made.layers if layer.name == MEMORY), "")


def _circumstances(executor: SandboxExecutor) -> str:
    """Everything whose change could make an old report untrue, as one digest."""
    binary = bubblewrap.find().binary.stat() if _has_bubblewrap() else None
    status = Path("/proc/self/status").read_text().splitlines()
    rights = [line for line in status if line.startswith(("NoNewPrivs", "Seccomp:", "CapBnd"))]
    parts = [
        Path("/proc/sys/kernel/random/boot_id").read_text(),
        executor.root.digest,
        str(executor.use_cgroup),
        str(os.geteuid()),
        "" if binary is None else f"{binary.st_mtime_ns} {binary.st_size}",
        *(os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt", "pid", "cgroup")),
        *rights,
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _has_bubblewrap() -> bool:
    try:
        bubblewrap.find()
    except LabError:
        return False
    return True
