"""The folder that everything on this machine lives in: named, private where it must be, removable.

`run.json` says what is running; a token is a file of its own, mode 0600. The folder itself can be
passed through by others (0711), because as root the sandbox gives up root before it opens its files.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from opensafely_lab.errors import Refused


class AlreadyRunning(Refused):
    code = "already-running"


def default_state(environ: Mapping[str, str], *, root: bool) -> Path:
    """Where state lives if nobody says. Root's home is 0700 and breaks after the uid drop (decisions.md, 14)."""
    if named := environ.get("OPENSAFELY_LAB_STATE"):
        return Path(named).expanduser().resolve()
    if root:
        return Path("/var/lib/opensafely-lab")
    base = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "/")) / ".local" / "state")
    return Path(base) / "opensafely-lab"


def default_cache(environ: Mapping[str, str], *, root: bool) -> Path:
    """Where the sandbox's root is kept, for every state folder alike: it is made from the installation alone."""
    if named := environ.get("OPENSAFELY_LAB_CACHE"):
        return Path(named).expanduser().resolve()
    if root:
        return Path("/var/cache/opensafely-lab")
    return Path(environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "/")) / ".cache")) / "opensafely-lab"


@frozen
class State:
    """One state folder. Paths only; `make` creates it."""

    folder: Path

    @property
    def run_json(self) -> Path:
        return self.folder / "run.json"

    def room(self, name: str, mode: int = 0o700) -> Path:
        """A folder for one process and nobody else."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        return path

    def make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o711)

    def token(self, name: str) -> Path:
        return self.folder / f"{name}.token"

    def read_run(self) -> dict[str, object]:
        """What `up` wrote, or nothing if it does not run."""
        try:
            said = json.loads(self.run_json.read_text())
        except (OSError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}

    def lock(self) -> int:
        """Take the folder for this process; the lock goes when the process does, however it ends.

        Raises `AlreadyRunning` if another `up` has it.
        """
        descriptor = os.open(self.folder / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            run = self.read_run()
            where = run.get("lab") or run.get("site")
            raise AlreadyRunning(
                f"OpenSAFELY Lab already runs with the state in {self.folder}.",
                next_step=f"Open {where}, or stop it first (Ctrl-C)." if where else "Stop it first (Ctrl-C).",
            ) from None
        return descriptor


def write_private(path: Path, text: str) -> None:
    """Replace `path` by `text`, mode 0600 from its first byte, never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
