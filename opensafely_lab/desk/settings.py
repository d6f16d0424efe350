"""Where this desk keeps its state, and whom it talks to. The environment is read here and nowhere else.

The state folder is named, private, and can be removed. `opensafely-lab up` writes `run.json` into it
(who answers where) and beside it one file per token, readable by its owner alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from opensafely_lab.errors import PlatformError, UsageError
from opensafely_lab.study.ids import is_name

RUN_FILE = "run.json"
MAX_RUN_FILE = 64 * 1024
_TOKEN = re.compile(r"[\x21-\x7e]{16,4096}\Z")
_TOKEN_NAMES = ("site", "level4", "lab")


class SettingsError(UsageError):
    """A setting that cannot be used."""

    code = "settings"


class StateError(PlatformError):
    """The state folder cannot be read or written."""

    code = "state"


class NotRunning(PlatformError):
    """Nobody has said which site this desk talks to."""

    code = "not-running"


@frozen
class RunFile:
    """Which services answer where, for whom: `run.json`."""

    site: str
    level4: str | None
    lab: str | None
    project: str
    workspace: str
    backends: tuple[str, ...]


def state_folder(environment: Mapping[str, str] | None = None, *, uid: int | None = None) -> Path:
    """The folder of all state (not made yet): `OPENSAFELY_LAB_STATE`, else by uid and XDG.

    As root it is under /var/lib: a home folder that only root may enter cannot be read by the
    sandbox once it has given up root.
    """
    said = os.environ if environment is None else environment
    chosen = said.get("OPENSAFELY_LAB_STATE")
    if chosen:
        folder = Path(chosen).expanduser()
        if not folder.is_absolute():
            raise SettingsError(
                "OPENSAFELY_LAB_STATE must be an absolute path.", next_step="Begin it with `/`, or unset it."
            )
        return folder
    if (os.geteuid() if uid is None else uid) == 0:
        return Path("/var/lib/opensafely-lab")
    base = said.get("XDG_STATE_HOME", "")
    home = said.get("HOME") or str(Path.home())
    return (Path(base) if base.startswith("/") else Path(home) / ".local" / "state") / "opensafely-lab"


def ensure_folder(folder: Path, *, mode: int = 0o700) -> Path:
    """The folder, made if it was not there. Raises `StateError`."""
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"The folder {folder} cannot be made ({error.strerror}).",
            next_step="Set OPENSAFELY_LAB_STATE to a folder that you may write.",
        ) from None
    return folder


def write_private(path: Path, data: bytes) -> None:
    """Replace a file at once by one that its owner alone can read. Raises `StateError`."""
    try:
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
    except OSError as error:
        raise StateError(
            f"{path.name} cannot be written in {path.parent} ({error.strerror}).",
            next_step="Look whether the disk is full and the folder may be written.",
        ) from None


def write_run_file(state: Path, run: RunFile) -> None:
    said: dict[str, Any] = {
        "site": run.site,
        "level4": run.level4,
        "lab": run.lab,
        "project": run.project,
        "workspace": run.workspace,
        "backends": list(run.backends),
    }
    write_private(state / RUN_FILE, (json.dumps(said, indent=1) + "\n").encode())


def read_run_file(state: Path) -> RunFile:
    """Raises `NotRunning` if there is none, `StateError` if it cannot be used."""
    path = state / RUN_FILE
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RUN_FILE)
    except FileNotFoundError:
        raise NotRunning(
            "This desk does not know a jobs site yet.", next_step="Start one with `opensafely-lab up`."
        ) from None
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror}).") from None
    try:
        said = json.loads(data)
        backends = said.get("backends", [said["backend"]] if "backend" in said else [])
        run = RunFile(
            site=said["site"],
            level4=said.get("level4"),
            lab=said.get("lab"),
            project=said["project"],
            workspace=said["workspace"],
            backends=tuple(backends),
        )
        names = (run.project, run.workspace, *run.backends)
        urls = (run.site, *(url for url in (run.level4, run.lab) if url is not None))
        good = all(isinstance(n, str) and is_name(n) for n in names) and all(isinstance(u, str) for u in urls)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        raise StateError(f"{path} is damaged.", next_step="Remove it and start `opensafely-lab up` again.")
    return run


def write_token(state: Path, name: str, token: str) -> Path:
    """Keep a token where only its owner can read it."""
    path = _token_path(state, name)
    write_private(path, token.encode("ascii"))
    return path


def read_token(state: Path, name: str) -> str:
    """Raises `NotRunning` if there is none, `StateError` if others could have read or written it."""
    path = _token_path(state, name)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(8192)
    except FileNotFoundError:
        raise NotRunning(
            f"This desk has no token for the {_service(name)}.", next_step="Start `opensafely-lab up`."
        ) from None
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror}).") from None
    if mode & 0o077:
        raise StateError(
            f"The token file {path} can be read by other users, so it is not used.", next_step=f"Run: chmod 600 {path}"
        )
    text = data.decode("ascii", "replace").strip()
    if not _TOKEN.match(text):
        raise StateError(f"The token file {path} holds no token.", next_step="Start `opensafely-lab up` again.")
    return text


def _token_path(state: Path, name: str) -> Path:
    if name not in _TOKEN_NAMES:
        raise SettingsError(f"There is no token called {name[:20]!r}.")
    return state / f"{name}.token"


def _service(name: str) -> str:
    return {"site": "jobs site", "level4": "backend's level 4 service", "lab": "Lab"}[name]
