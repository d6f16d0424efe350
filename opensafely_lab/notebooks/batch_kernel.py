"""The kernel of an unattended run: IPython's, without what only a person at a keyboard needs.

`python -m opensafely_lab.notebooks.batch_kernel -f CONNECTION_FILE`, started by `execute`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

# Nobody completes names or sets breakpoints here; importing these two is a sixth of a kernel's start.
for _name in ("debugpy", "jedi"):
    sys.modules[_name] = None  # type: ignore[assignment]

from ipykernel.kernelapp import IPKernelApp  # noqa: E402

from opensafely_lab import load_ipython_extension  # noqa: E402
from opensafely_lab.notebooks import cellcount  # noqa: E402


class BatchKernelApp(IPKernelApp):
    """Drops no message, keeps no history, and finds the study's own modules last."""

    def init_iopub(self, context: Any) -> None:
        import zmq

        # A full queue must not drop outputs silently: it fills the job's memory, which has a limit,
        # and `execute` ends the run as a flood long before.
        context.setsockopt(zmq.SNDHWM, 0)
        super().init_iopub(context)  # type: ignore[no-untyped-call]

    def log_connection_info(self) -> None:
        """Nobody is invited to connect to a job's kernel."""

    def init_shell(self) -> None:
        super().init_shell()  # type: ignore[no-untyped-call]
        load_ipython_extension(self.shell)  # a cell with `%opensafely submit` does nothing here
        cellcount.watch(self.shell, cellcount.parse(os.environ.pop(cellcount.VARIABLE, "[]")))


def main() -> None:
    # Last, so that a `pandas.py` in a study cannot take the place of pandas.
    sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())]
    sys.path.append(os.getcwd())
    settings = ["--HistoryManager.enabled=False", "--InteractiveShellApp.ignore_cwd=True", "--colors=nocolor"]
    BatchKernelApp.launch_instance([*sys.argv[1:], *settings])


if __name__ == "__main__":
    main()
