"""Tries, from inside a run, what must not be possible there. Standard library only; see `selftest`.

Prints one JSON object {what was tried: "" if it was stopped, else what was reached}, then takes more
memory than the run may have. If that is not stopped either, it prints a last line.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable

MB = 1 << 20
KNOWN = {
    "HOME",
    "PATH",
    "LANG",
    "TZ",
    "IPYTHONDIR",
    "JUPYTER_RUNTIME_DIR",
    "MPLCONFIGDIR",
    "PYTHONDONTWRITEBYTECODE",
    "PWD",
}


def stopped(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError:
        return ""
    return "it worked"


def interfaces() -> str:
    with open("/proc/net/dev") as file:
        names = [line.split(":")[0].strip() for line in file.readlines()[2:]]
    return "" if names == ["lo"] else "interfaces " + " ".join(names)


def status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        pairs = (line.split(":", 1) for line in file)
        return {key: value.strip() for key, value in pairs}


def connect(family: int, address: object) -> None:
    with socket.socket(family) as tried:
        tried.settimeout(2)
        tried.connect(address)  # type: ignore[arg-type]


def write(path: str) -> None:
    with open(path, "w"):
        pass


def environment_of_first() -> str:
    with open("/proc/1/environ") as file:
        names = {pair.split("=", 1)[0] for pair in file.read().split("\0") if pair}
    extra = names - KNOWN
    return f"{len(extra)} variables that are not ours" if extra else ""


def new_namespace() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def other_processes() -> str:
    seen = sum(name.isdigit() for name in os.listdir("/proc"))
    return "" if seen <= 3 else f"{seen} processes"


def try_everything(port: int, name: str) -> dict[str, str]:
    seen = status()
    return {
        "network": interfaces() or stopped(lambda: connect(socket.AF_INET, ("127.0.0.1", port))),
        "host sockets": stopped(lambda: connect(socket.AF_UNIX, "\0" + name)),
        "processes": other_processes() or environment_of_first(),
        "read-only root": stopped(lambda: write("/x")) or stopped(lambda: write("/opt/x")),
        "read-only inputs": stopped(lambda: write("/job/x")) or stopped(lambda: write("/probe/x")),
        "seccomp": "" if seen["Seccomp"] == "2" else "no filter",
        "no new privileges": "" if seen["NoNewPrivs"] == "1" else "not set",
        "capabilities": "" if int(seen["CapBnd"], 16) == int(seen["CapEff"], 16) == 0 else "some are left",
        "nested namespaces": stopped(new_namespace),
    }


def take_memory(limit: int) -> None:
    taken = []
    for _ in range(limit // (4 * MB)):
        block = bytearray(4 * MB)
        block[::4096] = b"x" * len(block[::4096])
        taken.append(block)
    import time

    time.sleep(2)  # where memory is polled: be there to be seen


if __name__ == "__main__":
    print(json.dumps(try_everything(int(sys.argv[1]), sys.argv[2])), flush=True)  # noqa: T201
    take_memory(int(sys.argv[3]))
    print("memory was not limited", flush=True)  # noqa: T201
