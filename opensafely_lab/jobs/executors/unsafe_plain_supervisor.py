"""UNSAFE: supervises a run that is a plain process; see `unsafe_plain`. Standard library only.

The paths of a run (`/job`, `/study`, `/outputs`, ...) are below the folder that `OSL_PLACES` names.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from opensafely_lab.jobs.executors import supervisor, watch

PLACES = ("/inputs", "/job", "/outputs", "/study", "/work")


def lay_out(orders: watch.Orders, top: Path) -> None:
    """Copies and links below `top`, in place of what a sandbox would mount."""
    for name in ("outputs", "tmp", "work"):
        (top / name).mkdir(parents=True)
    for name, inside in orders["inside"]:
        target = top / inside.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        source = Path(orders["binds"][name])
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copyfile(source, target)


def translate(word: str, top: Path) -> str:
    """A word of the command, with the paths of a sandbox put below `top`."""
    if word == "/opt/venv/bin/python":
        return sys.executable
    return str(top) + word if word.startswith(PLACES) else word


def start(orders: watch.Orders, top: Path, log: int, info: int) -> int:
    words = [translate(word, top) for word in orders["argv"]]
    places = {
        "HOME": top / "work",
        "IPYTHONDIR": top / "work" / ".ipython",
        "MPLCONFIGDIR": top / "work" / ".matplotlib",
    }
    environment = {**orders["environment"], **{key: str(path) for key, path in places.items()}}
    environment |= {"OSL_PLACES": str(top), "PATH": os.defpath, "PYTHONPATH": orders["import_from"]}
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        os.write(info, json.dumps({"child-pid": os.getpid()}).encode())
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.closerange(3, 65536)
        supervisor.limit_self(orders["limits"])
        supervisor.die_with(parent)
        os.chdir(top / "work")
        os.execve(words[0], words, environment)  # noqa: S606
    except BaseException as problem:  # noqa: BLE001 - nothing may return into the parent's code
        os.write(2, f"the run did not start: {problem}\n".encode())
    os._exit(125)


def supervise(orders: watch.Orders, report: int) -> dict[str, Any]:
    top = Path(orders["top"])
    lay_out(orders, top)
    supervisor.die_with(orders["parent"])
    log_read, log_write = os.pipe()
    info_read, info_write = os.pipe()
    os.set_blocking(log_read, False)
    child = start(orders, top, log_write, info_write)
    seen = watch.Watch(orders, child, log_read, info_read)
    os.close(log_write)
    os.close(info_write)
    try:
        end = supervisor.watch_and_collect(orders, seen, str(top / "outputs"), report)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        shutil.rmtree(top, ignore_errors=True)
    return {**end, "seen": {"isolation": "none"}}


def main() -> NoReturn:
    supervisor.serve(supervise)


if __name__ == "__main__":
    main()
