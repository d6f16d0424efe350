"""The processes of the one-machine default: who runs, with which configuration, in which folder.

Each side gets a folder of its own under the state folder, and knows of the others only an address
and a token file. The backend listens for nothing but its level 4 service; the site never calls it.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from attrs import frozen

from opensafely_lab.desk.health import answers, backend_ready, free_port
from opensafely_lab.desk.processes import ChildSpec
from opensafely_lab.desk.server import csp
from opensafely_lab.desk.state import State, write_private
from opensafely_lab.service import tokens

HOST = "127.0.0.1"
USER = "analyst"
PROJECT = "demo"
WORKSPACE = "gi-bleeding"
BACKEND = "demo-backend"

SITE, LEVEL4, AGENT = "site", "level 4 service", "agent"
MODULES = {
    SITE: "opensafely_lab.site",
    LEVEL4: "opensafely_lab.backend.level4",
    AGENT: "opensafely_lab.backend.agent",
}


@frozen
class Ports:
    site: int
    level4: int
    lab: int

    @classmethod
    def free(cls) -> Ports:
        return cls(site=free_port(), level4=free_port(), lab=free_port())


@frozen
class Machine:
    """All that runs on this computer, and where it answers."""

    children: tuple[ChildSpec, ...]
    site_url: str
    level4_url: str
    lab_url: str | None  # without its token
    lab_token: str
    study: Path
    notebook: str | None
    data: Path

    @property
    def url(self) -> str:
        """The one address to open: Lab at the study's notebook, signed in."""
        if self.lab_url is None:
            return self.site_url
        page = f"/tree/{quote(self.notebook)}" if self.notebook else ""
        return f"{self.lab_url}/lab{page}?token={self.lab_token}"

    def run_json(self, pid: int) -> dict[str, object]:
        """What the desk reads to find everything. Addresses and names; tokens are in files beside it."""
        return {
            "version": 1,
            "pid": pid,
            "site": self.site_url,
            "level4": self.level4_url,
            "lab": self.lab_url,
            "user": USER,
            "project": PROJECT,
            "workspace": WORKSPACE,
            "backend": BACKEND,
            "study": str(self.study),
        }


def plan(
    state: State,
    *,
    cache: Path,
    data: Path,
    study: Path,
    notebook: str | None,
    lab: bool,
    lab_arguments: tuple[str, ...] = (),
) -> Machine:
    """Write every process's configuration and return what to start, in order."""
    ports = Ports.free()
    site_url = f"http://{HOST}:{ports.site}"
    level4_url = f"http://{HOST}:{ports.level4}"
    for name in ("site", "backend", "level4"):
        tokens.token_file(state.token(name))  # made before anybody starts, so that nobody waits for another's
    lab_token = secrets.token_urlsafe(24)
    write_private(state.token("lab"), lab_token)
    children = [
        _site(state, ports),
        _level4(state, ports),
        _agent(state, ports, cache, data),
    ]
    if lab:
        children.append(_lab(state, cache, ports, study, lab_token, lab_arguments))
    return Machine(
        children=tuple(children),
        site_url=site_url,
        level4_url=level4_url,
        lab_url=f"http://{HOST}:{ports.lab}" if lab else None,
        lab_token=lab_token,
        study=study,
        notebook=notebook,
        data=data,
    )


def _module(
    state: State,
    name: str,
    room: str,
    config: Mapping[str, object],
    healthy: Callable[[], bool],
    after: tuple[str, ...] = (),
) -> ChildSpec:
    folder = state.folder / room
    file = folder / f"{name.replace(' ', '-')}.json"
    write_private(file, json.dumps(config, indent=2))
    return ChildSpec(
        name=name,
        argv=(sys.executable, "-m", MODULES[name], "--config", str(file)),
        log=folder / f"{name.replace(' ', '-')}.log",
        folder=folder,
        environment=_environment(),
        healthy=healthy,
        after=after,
    )


def _site(state: State, ports: Ports) -> ChildSpec:
    config = {
        "state": str(state.room("site")),
        "port": ports.site,
        "seed": {
            "user": USER,
            "project": PROJECT,
            "workspace": WORKSPACE,
            "backend": BACKEND,
            "user_token_file": str(state.token("site")),
            "backend_token_file": str(state.token("backend")),
        },
    }
    return _module(state, SITE, "site", config, lambda: answers(f"http://{HOST}:{ports.site}/health"))


def _seed(state: State) -> dict[str, str]:
    return {"project": PROJECT, "user": USER, "token_file": str(state.token("level4")), "workspace": WORKSPACE}


def _level4(state: State, ports: Ports) -> ChildSpec:
    config = {
        "backend": BACKEND,
        "state": str(state.room("backend", 0o711)),
        "seed": _seed(state),
        "port": ports.level4,
    }
    return _module(state, LEVEL4, "backend", config, lambda: answers(f"http://{HOST}:{ports.level4}/health"))


def _agent(state: State, ports: Ports, cache: Path, data: Path) -> ChildSpec:
    config = {
        "backend": BACKEND,
        "state": str(state.room("backend", 0o711)),
        "seed": _seed(state),
        "site": f"http://{HOST}:{ports.site}",
        "token_file": str(state.token("backend")),
        "data": str(data),
        "cache": str(cache),
    }
    # It listens to nobody: the level 4 service tells how it is.
    health = f"http://{HOST}:{ports.level4}/health"
    return _module(state, AGENT, "backend", config, lambda: backend_ready(health), (SITE, LEVEL4))


def _lab(state: State, cache: Path, ports: Ports, study: Path, token: str, arguments: tuple[str, ...]) -> ChildSpec:
    room = state.room("lab")
    folders = {
        "JUPYTER_CONFIG_DIR": room / "config",
        "JUPYTER_DATA_DIR": room / "data",
        "JUPYTER_RUNTIME_DIR": room / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": room / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": room / "workspaces",
        "IPYTHONDIR": room / "ipython",
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    config = room / "config" / "jupyter_server_config.json"
    write_private(config, json.dumps(lab_config(ports.lab, study, token), indent=2))
    _quiet_news(room / "settings")
    environment = _environment() | {name: str(path) for name, path in folders.items()}
    environment |= {"OPENSAFELY_LAB_STATE": str(state.folder), "OPENSAFELY_LAB_CACHE": str(cache)}
    return ChildSpec(
        name="JupyterLab",
        argv=(sys.executable, "-P", "-m", "jupyterlab", f"--config={config}", *arguments),
        log=room / "lab.log",
        folder=study,
        environment=environment,
        healthy=lambda: answers(f"http://{HOST}:{ports.lab}/api"),
    )


def lab_config(port: int, study: Path, token: str) -> dict[str, object]:
    """JupyterLab's configuration: loopback, one token, one folder, our Content-Security-Policy."""
    server = csp.server_config(port, HOST)["ServerApp"]
    return {
        "ServerApp": {
            **server,
            "ip": HOST,
            "port": port,
            "port_retries": 0,
            "open_browser": False,
            "root_dir": str(study),
            "allow_root": True,  # the one-machine default may run as root; it listens on loopback alone
            "quit_button": False,  # `up` would only start it again
        },
        "IdentityProvider": {"token": token},
        "LabApp": {"news_url": None, "check_for_updates_class": "jupyterlab.NeverCheckForUpdate"},
    }


def _quiet_news(settings: Path) -> None:
    """No question about news and no look for updates: both would call out."""
    file = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))


def _environment() -> dict[str, str]:
    """Ours, without what would point a child at somebody else's Jupyter."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY_"))} | {"PYTHONUNBUFFERED": "1"}
