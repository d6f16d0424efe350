"""Whom this desk talks to: `run.json` and the token files beside it, which `opensafely-lab up` writes.

`desk.state` says where the folder is. A token is used only from a file that nobody else can read.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from attrs import frozen

from opensafely_lab.desk.state import State, write_private
from opensafely_lab.errors import PlatformError, UsageError
from opensafely_lab.study.ids import is_name

_TOKEN = re.compile(r"[\x21-\x7e]{16,4096}\Z")
_SERVICES = {"site": "jobs site", "level4": "backend's level 4 service", "lab": "Lab"}


class SettingsDamaged(PlatformError):
    """The state folder holds something that cannot be used."""

    code = "settings"


class NotRunning(PlatformError):
    """Nobody has said which services this desk talks to."""

    code = "not-running"


@frozen
class RunFile:
    """Which services answer where, for whom."""

    site: str
    level4: str | None
    lab: str | None
    user: str | None
    project: str
    workspace: str
    backends: tuple[str, ...]
    study: Path | None


def read_run_file(state: State) -> RunFile:
    """Raises `NotRunning` if there is none, `SettingsDamaged` if it does not say what it must."""
    said = state.read_run()
    if not said:
        raise NotRunning("This desk does not know a jobs site yet.", next_step="Start one with `opensafely-lab up`.")
    backends = said.get("backends", [said.get("backend")])
    names = [said.get("project"), said.get("workspace"), *(backends if isinstance(backends, list) else [None])]
    texts = [said.get(key) for key in ("level4", "lab", "user", "study")]
    if (
        not isinstance(said.get("site"), str)
        or not all(isinstance(name, str) and is_name(name) for name in names)
        or not all(text is None or isinstance(text, str) for text in texts)
    ):
        raise SettingsDamaged(
            f"{state.run_json} is damaged.", next_step="Remove it and start `opensafely-lab up` again."
        )
    project, workspace, *rest = (str(name) for name in names)
    level4, lab, user, study = (None if text is None else str(text) for text in texts)
    return RunFile(
        site=str(said["site"]),
        level4=level4,
        lab=lab,
        user=user,
        project=project,
        workspace=workspace,
        backends=tuple(rest),
        study=None if study is None else Path(study),
    )


def write_token(state: State, name: str, token: str) -> Path:
    """Keep a token where only its owner can read it."""
    path = _token_path(state, name)
    write_private(path, token)
    return path


def read_token(state: State, name: str) -> str:
    """The token for "site", "level4" or "lab".

    Raises `NotRunning` if there is none, `SettingsDamaged` if others could have read it.
    """
    path = _token_path(state, name)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(8192)
    except FileNotFoundError:
        raise NotRunning(
            f"This desk has no token for the {_SERVICES[name]}.", next_step="Start `opensafely-lab up`."
        ) from None
    except OSError as error:
        raise SettingsDamaged(f"{path} cannot be read ({error.strerror}).") from None
    if mode & 0o077:
        raise SettingsDamaged(
            f"The token file {path} can be read by other users, so it is not used.", next_step=f"Run: chmod 600 {path}"
        )
    text = data.decode("ascii", "replace").strip()
    if not _TOKEN.match(text):
        raise SettingsDamaged(f"The token file {path} holds no token.", next_step="Start `opensafely-lab up` again.")
    return text


def _token_path(state: State, name: str) -> Path:
    if name not in _SERVICES:
        raise UsageError("There is no token of that name.", next_step=f"There are: {', '.join(_SERVICES)}.")
    return state.token(name)
