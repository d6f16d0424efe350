"""A real JupyterLab with our extension, in folders of its own, and a browser to drive it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from attrs import define, field, frozen
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Request, expect

from opensafely_lab.desk.health import free_port
from opensafely_lab.desk.server import csp

REPOSITORY = Path(__file__).resolve().parents[1]
LABEXTENSION = REPOSITORY / "opensafely_lab" / "labextension"
TOKEN = "test-token-0123456789"
FLAGS = [
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NEWS = Path("@jupyterlab/apputils-extension/notification.jupyterlab-settings")
THEME = Path("@jupyterlab/apputils-extension/themes.jupyterlab-settings")

expect.set_options(timeout=20_000)  # a busy machine is slow, not wrong


@frozen
class Lab:
    """A running JupyterLab."""

    port: int
    root: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, *, body: object = None, token: str | None = TOKEN) -> tuple[int, dict[str, object]]:
        """Status and JSON of one request to our routes."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"token {token}"} if token else {}
        request = urllib.request.Request(f"{self.url}/opensafely/{path}", data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            text = error.read()
            return error.code, json.loads(text) if text.startswith(b"{") else {"text": text.decode()}


@contextmanager
def running_lab(
    folder: Path,
    root: Path,
    *,
    desk: str = "fake_desk:make",
    policy: bool = True,
    theme: str = "JupyterLab Light",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Lab]:
    """JupyterLab with the built extension linked into a data folder of its own."""
    if not (LABEXTENSION / "package.json").is_file():
        pytest.skip("The JupyterLab extension is not built; tools/frontend builds it.")
    port = free_port()
    names = ["home", "config", "data", "runtime", "settings", "workspaces", "ipython"]
    places = {name: folder / name for name in names}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    _link(places["data"] / "labextensions" / "opensafely-lab", LABEXTENSION)
    _link(places["data"] / "kernels" / "opensafely-lab", REPOSITORY / "kernels" / "opensafely-lab")
    _write(places["settings"] / NEWS, {"fetchNews": "false", "checkForUpdates": False})
    _write(places["settings"] / THEME, {"theme": theme})
    server: dict[str, object] = {"jpserver_extensions": {"opensafely_lab": True}, "root_dir": str(root)}
    server |= csp.server_config(port)["ServerApp"] if policy else {}
    config = {
        "ServerApp": {
            **server,
            "ip": "127.0.0.1",
            "port": port,
            "port_retries": 0,
            "open_browser": False,
            "allow_root": True,
        },
        "IdentityProvider": {"token": TOKEN},
        "LabApp": {"expose_app_in_browser": True},
        "OpenSafely": {"desk": desk},
    }
    _write(places["config"] / "jupyter_server_config.json", config)
    log = folder / "lab.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab"],
            cwd=root,
            env=_environment(places) | dict(environment or {}),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/api", process, log)
            yield Lab(port, root, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def running_up(folder: Path) -> Iterator[tuple[Lab, str]]:
    """Everything of `opensafely-lab up`, with our extension in its Lab; and the address it prints."""
    if not (LABEXTENSION / "package.json").is_file():
        pytest.skip("The JupyterLab extension is not built; tools/frontend builds it.")
    state = folder / "state"
    # Here the package may be a checkout that was never installed: what the wheel puts in place is linked.
    _link(state / "lab" / "data" / "labextensions" / "opensafely-lab", LABEXTENSION)
    _link(state / "lab" / "data" / "kernels" / "opensafely-lab", REPOSITORY / "kernels" / "opensafely-lab")
    options = ["--ServerApp.jpserver_extensions={'opensafely_lab': True}", "--LabApp.expose_app_in_browser=True"]
    words = [sys.executable, "-m", "opensafely_lab.cli", "up", "--headless", "--state", str(state)]
    log = folder / "up.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*words, *(f"--lab-option={option}" for option in options)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 180
        while "Ctrl-C" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        said = json.loads((state / "run.json").read_text())
        url = next(word for word in log.read_text().split() if word.startswith("http"))
        yield Lab(urlsplit(said["lab"]).port or 0, Path(said["study"]), log), url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target, target_is_directory=True)


def _write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def _environment(places: Mapping[str, Path]) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY_", "OPENSAFELY_"))}
    return kept | {
        "OPENSAFELY_LAB_CACHE": os.environ["OPENSAFELY_LAB_CACHE"],
        "HOME": str(places["home"]),
        "JUPYTER_CONFIG_DIR": str(places["config"]),
        "JUPYTER_DATA_DIR": str(places["data"]),
        "JUPYTER_RUNTIME_DIR": str(places["runtime"]),
        "JUPYTERLAB_SETTINGS_DIR": str(places["settings"]),
        "JUPYTERLAB_WORKSPACES_DIR": str(places["workspaces"]),
        "IPYTHONDIR": str(places["ipython"]),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]),
    }


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None:
                break
            time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not come up:\n{log.read_text()[-4000:]}")


def chromium() -> str:
    """Debian's chromium, or the one that `tools/browser` fetched; without it the test is skipped."""
    for found in (os.environ.get("OSL_CHROMIUM"), shutil.which("chromium"), REPOSITORY / "tests/.chromium/chromium"):
        if found and Path(found).exists():
            return str(found)
    pytest.skip("There is no chromium; tools/browser gets Debian's.")


def launch(playwright: Playwright) -> Browser:
    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    return playwright.chromium.launch(executable_path=chromium(), args=flags)


@define
class Watched:
    """A page, and all that it asked for and complained of."""

    page: Page
    lab: Lab
    requests: list[str] = field(factory=list)
    complaints: list[str] = field(factory=list)

    def outside(self) -> list[str]:
        """Requests to anybody but this Lab."""
        own = f"127.0.0.1:{self.lab.port}"
        return [
            url
            for url in self.requests
            if urlsplit(url).scheme not in ("data", "blob", "about") and urlsplit(url).netloc != own
        ]


@contextmanager
def open_lab(browser: Browser, lab: Lab, *, path: str = "", url: str | None = None) -> Iterator[Watched]:
    """JupyterLab in a page of its own, ready; at the end no dialog may be left and nothing asked elsewhere."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    watched = Watched(page, lab)

    def ask(request: Request) -> None:
        watched.requests.append(request.url)

    def complain(message: ConsoleMessage) -> None:
        if message.type == "error":
            watched.complaints.append(message.text)

    page.on("request", ask)
    page.on("console", complain)
    page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    tree = f"/tree/{path}" if path else ""
    try:
        page.goto(url or f"{lab.url}/lab/workspaces/test{tree}?reset&token={TOKEN}")
        page.wait_for_function("() => window.jupyterapp !== undefined", timeout=60_000)
        page.evaluate("() => window.jupyterapp.restored")
        page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=60_000)
        yield watched
        assert page.locator(".jp-Dialog").count() == 0, "a dialog was left open"
        assert watched.outside() == []
    finally:
        page.close()


def screenshot(page: Page, name: str) -> None:
    """For the documents: kept where OSL_SCREENSHOTS says, if it says."""
    folder = os.environ.get("OSL_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder, f"{name}.png"))


@contextmanager
def listener() -> Iterator[tuple[str, list[str]]]:
    """An address on loopback that nobody has a reason to call, and who called."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", heard
    finally:
        server.shutdown()
        server.server_close()
