"""Executes a prepared notebook. Runs wholly inside the sandbox: `python -m opensafely_lab.notebooks.execute`.

1. Read `/job/job.json` and the notebook; copy the study to a writable folder and link its inputs into place.
2. Start the kernel (`batch_kernel`) at once: it boots while we import papermill.
3. papermill puts the parameters in and executes, through a client of ours that is ready as soon as
   the kernel answers and that ends the run when outputs flood it.
4. Kill the kernel. A kernel that died, whenever and however, is a failed run: papermill's own
   record claims otherwise.
5. Write what happened to `/outputs/.osl/`. The exit code is 0 only if every cell ran and the kernel lived.

Everything written here is as confidential as the data, and may have been forged by the notebook.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import traceback
import types
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

# Importing papermill pulls these in; they are of no use here and cost more than all the rest together.
# (jsonschema builds a grammar for the format "iri" if it can; papermill tries every cloud's storage.)
UNUSED = ("rfc3987_syntax", "pyarrow", "boto3", "azure", "gcsfs", "IPython", "ipywidgets", "jupyter_server")

REQUEST_MIME = "application/vnd.opensafely.request+json"
MOST_MESSAGES = 20_000  # outputs of a whole run: far above any honest notebook
MOST_BYTES = 32 << 20
RESERVED = 256 << 10  # bytes of the outputs that are kept for our own report
KERNEL_START = 60.0  # seconds


REPORTS = {"status": "status.json", "cells": "cells.json", "error": "error.json", "executed": "executed.ipynb"}
CHANNELS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")


class Places:
    """The folders of a run, as the executor mounts them."""

    def __init__(self, top: str = "/") -> None:
        root = self.top = Path(top)
        self.job = root / "job"
        self.study = root / "study"
        self.work = root / "work" / "study"
        self.kernel = root / "tmp" / "kernel"
        self.report = root / "outputs" / ".osl"


class BadJob(Exception):
    """The run was prepared wrongly: our mistake or a study with links in it."""


def main() -> NoReturn:
    places = Places(os.environ.get("OSL_PLACES", "/"))
    try:
        code = run(places)
    except Exception:  # noqa: BLE001 - told as a failure of the run; the log says which, to those who may read it
        traceback.print_exc()
        put(places.report / "status.json", json.dumps({"state": "failed", "class": "not-started", "cell": None}))
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the sandbox goes with us; nothing here is worth tearing down


def run(places: Places) -> int:
    places.report.mkdir(parents=True, exist_ok=True)
    reserve = places.report / ".reserve"  # so that a notebook that fills its outputs can still be told why it failed
    reserve.write_bytes(bytes(RESERVED))
    job = json.loads((places.job / "job.json").read_bytes())
    source = json.loads((places.job / "notebook.ipynb").read_bytes())
    cells = executed_cells(source, job)
    lay_out_study(places, job.get("inputs", {}))
    lay_out_fonts()
    kernel = Kernel(places, job, [submitted for _, submitted in cells])
    try:
        outcome = execute(places, job, kernel, dict(cells))
    finally:
        kernel.kill()
    reserve.unlink(missing_ok=True)
    written = write_report(places, outcome)
    return 0 if written and outcome["status"]["state"] == "succeeded" else 1


# -- the study --------------------------------------------------------------------------------------


def lay_out_study(places: Places, inputs: dict[str, str]) -> None:
    """A writable copy of the study, with its inputs where project.yaml says that they are."""
    if places.study.is_dir():
        copy_tree(places.study, places.work)
    else:
        places.work.mkdir(parents=True)
    for name, mounted in inputs.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BadJob("an input lies outside the study")
        target = places.work / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(places.top / mounted.lstrip("/"))


def copy_tree(source: Path, target: Path) -> None:
    """Plain files and folders only. A link could point at anything, so a study with one is refused."""
    target.mkdir(parents=True)
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.is_symlink():
                raise BadJob("the study has a symbolic link in it")
            if entry.is_dir():
                if entry.name != ".git":
                    copy_tree(Path(entry.path), target / entry.name)
            elif entry.is_file():
                shutil.copyfile(entry.path, target / entry.name)


def lay_out_fonts() -> None:
    """matplotlib's list of fonts, made when the root was built: it must lie where it could be written."""
    listed = Path(sys.prefix, "share", "matplotlib")
    wanted = os.environ.get("MPLCONFIGDIR")
    if wanted and listed.is_dir():
        shutil.copytree(listed, wanted, dirs_exist_ok=True)


# -- which cell is which ------------------------------------------------------------------------------


def executed_cells(source: dict[str, Any], job: dict[str, Any]) -> list[tuple[int, int | None]]:
    """What the kernel will execute: (position in the notebook that papermill executes, submitted index).

    `ordinals` are the submitted indices of what is executed, in order; None, the cell of parameters, is put
    where papermill puts it, and only if it does.
    """
    submitted = iter([ordinal for ordinal in job["ordinals"] if ordinal is not None])
    injected = injected_at(source) if job["parameters"] else None
    cells: list[tuple[int, int | None]] = []
    for position, cell in enumerate(source["cells"]):
        if position == injected:
            cells.append((position, None))
        if runs(cell):
            shifted = position + (injected is not None and position >= injected)
            cells.append((shifted, next(submitted, None)))
    if injected == len(source["cells"]):
        cells.append((injected, None))
    return cells


def injected_at(source: dict[str, Any]) -> int:
    """Where papermill puts the cell with the parameters: after the one tagged `parameters`, else on top."""
    for position, cell in enumerate(source["cells"]):
        if "parameters" in _tags(cell):
            return position + 1
    return 0


def _tags(cell: dict[str, Any]) -> list[str]:
    tags: list[str] = cell.get("metadata", {}).get("tags", [])
    return tags


def runs(cell: dict[str, Any]) -> bool:
    """Whether nbclient sends it to the kernel."""
    return cell["cell_type"] == "code" and bool("".join(cell["source"]).strip()) and "skip-execution" not in _tags(cell)


# -- the kernel ---------------------------------------------------------------------------------------


class Kernel:
    """The kernel's process and how to reach it. Started before anything slow is imported."""

    def __init__(self, places: Places, job: dict[str, Any], cells: list[int | None]) -> None:
        places.kernel.mkdir(parents=True, mode=0o700)
        ports = {name: number for number, name in enumerate(CHANNELS, start=1)}
        self.connection: dict[str, Any] = {
            "transport": "ipc",
            "ip": str(places.kernel / "k"),
            "key": secrets.token_hex(16),
            "signature_scheme": "hmac-sha256",
            "kernel_name": "python3",
            **ports,
        }
        self.sockets = [Path(f"{self.connection['ip']}-{port}") for port in ports.values()]
        file = places.kernel / "connection.json"
        file.write_text(json.dumps(self.connection))
        ours = {
            "OSL_RUN": job["mode"],
            "OSL_CELLS": json.dumps(cells),
            "OSL_REQUESTS": str(places.report / "requests.json"),
        }
        if "OSL_PLACES" in os.environ:
            # A plain process has no namespace that ends with it: ipykernel looks whether its parent lives.
            ours["JPY_PARENT_PID"] = str(os.getpid())
        environment = {**os.environ, **ours}
        words = [sys.executable, *_same_flags(), "-m", "opensafely_lab.notebooks.batch_kernel", "-f", str(file)]
        self.process = subprocess.Popen(
            words, cwd=places.work, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def wait_for_sockets(self) -> None:
        """Connect only to what is there: zmq would try again after a tenth of a second at the earliest."""
        end = time.monotonic() + KERNEL_START
        while not all(socket.exists() for socket in self.sockets):
            if not self.alive() or time.monotonic() > end:
                return
            time.sleep(0.005)

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def _same_flags() -> list[str]:
    """Isolated like ourselves: neither the working folder nor the environment adds modules."""
    return ["-I"] if sys.flags.isolated else ["-P"]


# -- papermill ----------------------------------------------------------------------------------------


def import_papermill() -> Any:
    for name in UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    # papermill reads notebooks over HTTP if asked; nobody asks, and there is no network.
    sys.modules.setdefault("requests", types.ModuleType("requests"))
    import papermill.execute  # type: ignore[import-untyped]

    return papermill.execute


def execute(places: Places, job: dict[str, Any], kernel: Kernel, cells: dict[int, int | None]) -> dict[str, Any]:
    """Let papermill execute the notebook; what happened, as values for the report."""
    papermill = import_papermill()
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError  # type: ignore[import-untyped]

    from opensafely_lab.notebooks import client

    failure: str | None = None
    error: dict[str, Any] | None = None
    watch = client.Watch(MOST_MESSAGES, MOST_BYTES, kernel.kill)
    try:
        client.register(watch)
        papermill.execute_notebook(
            str(places.job / "notebook.ipynb"),
            None,
            parameters=job["parameters"],
            engine_name=client.ENGINE,
            kernel_name="python3",
            language="python",
            request_save_on_cell_execute=False,
            autosave_cell_every=0,
            progress_bar=False,
            km=client.manager(kernel),
            store_widget_state=False,
            raise_on_iopub_timeout=True,
            iopub_timeout=60,
        )
    except PapermillExecutionError as problem:
        failure = problem.ename
        error = {"ename": problem.ename, "evalue": problem.evalue, "traceback": list(problem.traceback)}
    except (client.Flood, DeadKernelError, CellTimeoutError, RuntimeError):
        failure = "kernel-died"
    except Exception:  # noqa: BLE001 - a kernel can send whatever it likes, and nbclient chokes on some of it
        failure = "other-error"
    if watch.flooded:
        failure, error = "too-much-output", None
    elif not kernel.alive():
        failure, error = "kernel-died", None
    return summarise(watch, cells, failure, error)


def summarise(
    watch: Any, cells: dict[int, int | None], failure: str | None, error: dict[str, Any] | None
) -> dict[str, Any]:
    from opensafely_lab.notebooks.control import FAILURE_CLASSES, failure_class

    outputs, counts = [], {}
    for position, submitted in cells.items():
        cell = watch.cells[position] if position < len(watch.cells) else {}
        if submitted is None:
            continue
        if cell.get("execution_count"):
            counts[str(submitted)] = cell["execution_count"]
        if any(not is_request(output) for output in cell.get("outputs", [])):
            outputs.append(submitted)
    known = failure if failure is None or failure in FAILURE_CLASSES else failure_class(failure)
    state = "succeeded" if failure is None else "failed"
    cell_now = None if failure is None or watch.position is None else cells.get(watch.position)
    return {
        "status": {"state": state, "class": known, "cell": cell_now},
        "cells": {"outputs": outputs, "execution_counts": counts},
        "error": error,
        "executed": {"cells": watch.cells, "metadata": watch.metadata, "nbformat": 4, "nbformat_minor": 5},
    }


def is_request(output: dict[str, Any]) -> bool:
    """The display of a `safe` request is no output of the notebook's own."""
    return REQUEST_MIME in output.get("data", {})


def write_report(places: Places, outcome: dict[str, Any]) -> bool:
    """Whether what decides could be written. The executed notebook, largest and read by nobody yet, comes last."""
    written = {
        name: put(places.report / REPORTS[name], json.dumps(outcome[name]))
        for name in ("status", "cells", "error", "executed")
        if outcome[name] is not None
    }
    return written["status"] and written["cells"]


def put(path: Path, text: str) -> bool:
    """Whole or not at all: a full disk must not leave half a status."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        return False
    return True


if __name__ == "__main__":
    main()
