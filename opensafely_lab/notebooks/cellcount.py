"""Which cell of the submitted notebook is being executed. Known in a job's kernel, and nowhere else.

nbclient tells a kernel no cell id, so the kernel counts: the n-th cell it executes is the n-th of
`OSL_CELLS`, a list of indices in the submitted source (null for the cell that papermill injects).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

VARIABLE = "OSL_CELLS"

_cells: tuple[int | None, ...] = ()
_executed = 0


def current() -> int | None:
    """The index of the cell being executed, or None outside a job and in a cell that is not the analyst's."""
    if 0 < _executed <= len(_cells):
        return _cells[_executed - 1]
    return None


def parse(text: str) -> tuple[int | None, ...]:
    """The value of `OSL_CELLS`."""
    found = json.loads(text)
    return tuple(item if item is None else int(item) for item in found)


def watch(shell: Any, cells: Sequence[int | None]) -> None:
    """Count the cells that `shell` (IPython's) executes from now on."""
    global _cells, _executed
    _cells, _executed = tuple(cells), 0
    shell.events.register("pre_run_cell", _next_cell)


def _next_cell(info: object) -> None:
    global _executed
    _executed += 1
