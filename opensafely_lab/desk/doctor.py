"""What works on this computer, and for each thing that does not, what to do.

Each check looks at one thing and never raises: a broken part must not hide the others.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import asdict, frozen

from opensafely_lab.desk.health import answers, backend_ready
from opensafely_lab.desk.state import State

GB = 1 << 30
LEAST_DISK = 2 * GB  # the job's root is 216 MB, a Lab environment 650 MB, the rest is for extracts
LEAST_GIT = (2, 30)  # Debian 11's; bundles and `-c` are older
LABEXTENSION = "opensafely-lab"
SERVER_EXTENSION = "opensafely_lab"
KERNEL = "opensafely-lab"


@frozen
class Check:
    """One line: what was looked at, whether it works, and what to do if not.

    `needed` is False for what only some uses want: its absence does not fail the doctor.
    """

    name: str
    ok: bool
    detail: str
    next_step: str = ""
    needed: bool = True

    def line(self, *, plain: bool) -> str:
        mark = ("ok " if self.ok else "NO ") if plain else ("✓" if self.ok else "✗")
        advice = "" if self.ok or not self.next_step else f"\n    {self.next_step}"
        return f"{mark} {self.name}: {self.detail}{advice}"


@frozen
class Report:
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks if check.needed)

    def works(self, name: str) -> bool:
        return any(check.ok for check in self.checks if check.name == name)

    def summary(self) -> str:
        """What can be done here, in one or two sentences."""
        if not (self.works("Python") and self.works("Jupyter")):
            return "Notebooks do not run here yet: mend the lines marked above."
        if not self.works("sandbox"):
            return (
                "Works here: notebooks on dummy data, and a dummy run of an action in a plain process that is marked "
                "as such. Does not work here: the demo's backend, or anything else that reads records."
            )
        return "Works here: notebooks on dummy data, dummy runs in the sandbox, and the backend of the demo."

    def text(self, *, plain: bool) -> str:
        return "\n".join([*(check.line(plain=plain) for check in self.checks), "", self.summary()])

    def json(self) -> str:
        said = {"ok": self.ok, "summary": self.summary(), "checks": [asdict(check) for check in self.checks]}
        return json.dumps(said, indent=2)


def examine(state: State, cache: Path) -> Report:
    """Look at everything. Takes a few seconds: the sandbox proves itself by running something."""
    looks: Sequence[tuple[str, Callable[[], Check]]] = (
        ("Python", python),
        ("git", git),
        ("disk", lambda: disk(state.folder)),
        ("sandbox", lambda: sandbox(state, cache)),
        ("Jupyter", jupyter),
        ("Lab extension", lab_extension),
        ("server extension", server_extension),
        ("kernel", kernel),
        ("site", lambda: running(state, "site", "site", answers)),
        ("backend", lambda: running(state, "level4", "backend", backend_ready)),
    )
    return Report(tuple(_guarded(name, look) for name, look in looks))


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    shown = ".".join(str(part) for part in version)
    ok = version >= (3, 11)
    return Check("Python", ok, shown, "" if ok else "Install Python 3.11 or later, and this package into it.")


def git() -> Check:
    advice = "Install git 2.30 or later (Debian: apt install git): a study is a git repository."
    if shutil.which("git") is None:
        return Check("git", False, "not found", advice)
    said = subprocess.run(["git", "--version"], capture_output=True, text=True, check=False, timeout=20).stdout.strip()
    numbers = said.removeprefix("git version ").split(".")
    version = tuple(int(n) for n in numbers[:2] if n.isdigit())
    return Check("git", version >= LEAST_GIT, said or "says nothing", advice)


def disk(folder: Path) -> Check:
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free
    return Check(
        "disk",
        free >= LEAST_DISK,
        f"{free / GB:.1f} GB free for {folder}",
        f"Free {LEAST_DISK // GB} GB, or name another folder with --state.",
    )


def sandbox(state: State, cache: Path) -> Check:
    """Ask the executor itself: it runs something and looks what that could reach."""
    from opensafely_lab.jobs.executors.bubblewrap import INSTALL
    from opensafely_lab.jobs.executors.sandbox import SandboxExecutor
    from opensafely_lab.jobs.root import ensure_root

    try:
        state.make()
        report = SandboxExecutor(state.room("doctor", 0o711), ensure_root(cache)).probe()
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        advice = "Free some space, or name another folder with --state."
        return Check("sandbox", False, f"{place}{error.strerror}", advice)
    missing = [layer for layer in report.layers if not layer.ok]
    if report.ok:
        return Check("sandbox", True, ", ".join(layer.name for layer in report.layers))
    lacking = {layer.name for layer in missing}
    return Check(
        "sandbox",
        False,
        "; ".join(f"{layer.name}: {layer.detail}" for layer in missing),
        INSTALL
        if "bubblewrap" in lacking
        else "It needs Linux with unprivileged user namespaces "
        "(sysctl kernel.unprivileged_userns_clone=1; on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0). "
        "Hosted notebooks such as Binder cannot give them.",
    )


def jupyter() -> Check:
    advice = "Install this package again with pip: JupyterLab 4.6 comes with it."
    try:
        versions = {name: importlib.metadata.version(name) for name in ("jupyterlab", "jupyter-server", "papermill")}
    except importlib.metadata.PackageNotFoundError as error:
        return Check("Jupyter", False, f"{error.name} is not installed", advice)
    ok = versions["jupyterlab"].split(".")[0] == "4"
    return Check("Jupyter", ok, ", ".join(f"{name} {version}" for name, version in versions.items()), advice)


def lab_extension() -> Check:
    """The prebuilt extension is where JupyterLab looks, and not disabled."""
    from jupyter_core.paths import jupyter_path
    from jupyterlab_server.config import get_page_config

    folders = jupyter_path("labextensions")
    found = next((Path(f) / LABEXTENSION for f in folders if (Path(f) / LABEXTENSION / "package.json").is_file()), None)
    if found is None:
        return Check("Lab extension", False, "not installed", "pip install --force-reinstall opensafely-lab")
    disabled = get_page_config(folders).get("disabledExtensions", {})
    off = [n for n in disabled if n == LABEXTENSION or n.startswith(f"{LABEXTENSION}:")]
    if off:
        return Check("Lab extension", False, f"{', '.join(off)} disabled", f"jupyter labextension enable {off[0]}")
    version = json.loads((found / "package.json").read_text())["version"]
    return Check("Lab extension", True, f"{version}, enabled")


def server_extension() -> Check:
    from jupyter_core.paths import jupyter_config_path
    from jupyter_server.extension.config import ExtensionConfigManager

    enabled = ExtensionConfigManager(read_config_path=jupyter_config_path()).get_jpserver_extensions()  # type: ignore[no-untyped-call]
    ok = enabled.get(SERVER_EXTENSION) is True
    return Check(
        "server extension",
        ok,
        "enabled" if ok else "not enabled",
        "" if ok else f"jupyter server extension enable {SERVER_EXTENSION}",
    )


def kernel() -> Check:
    from jupyter_client.kernelspec import KernelSpecManager

    found = KernelSpecManager().find_kernel_specs()
    if KERNEL in found:
        return Check("kernel", True, found[KERNEL])
    return Check("kernel", False, "its kernelspec is not installed", "pip install --force-reinstall opensafely-lab")


def running(state: State, key: str, name: str, works: Callable[[str], bool]) -> Check:
    """Whether what `up` started answers. Only needed to submit, so its absence is no failure."""
    url = state.read_run().get(key)
    if not isinstance(url, str):
        return Check(name, False, "none is running here", "Start one with: opensafely-lab up", needed=False)
    if works(f"{url}/health"):
        return Check(name, True, f"{url} answers", needed=False)
    return Check(name, False, f"{url} does not answer well", "Stop and start it: opensafely-lab up", needed=False)


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except ImportError as error:
        return Check(name, False, f"{error.name} cannot be imported", "pip install --force-reinstall opensafely-lab")
    except Exception as error:  # noqa: BLE001 - the doctor's own words must reach the person whatever is broken
        return Check(name, False, f"{type(error).__name__}: {error}", "Read docs/install.md, or report this line.")
