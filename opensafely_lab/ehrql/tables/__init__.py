"""The tables that definitions are written about, one module for each schema.

Public: `table`, `PatientFrame`, `EventFrame`, `Series` (a column), `Constraint`. A query names a
table as module.name; `known_table` looks it up among the modules listed here and nowhere else.
"""

from __future__ import annotations

import importlib

from ..language.frames import BaseFrame, EventFrame, PatientFrame, table
from ..language.frames import Column as Series
from ..schemas import Constraint, TableSchema

__all__ = ["Constraint", "EventFrame", "PatientFrame", "Series", "table"]

MODULES = ("core",)


def known_table(reference: str) -> TableSchema | None:
    """The schema of `module.name`, or None where there is no such table."""
    module_name, _, name = reference.rpartition(".")
    if module_name not in MODULES:
        return None
    module = importlib.import_module(f"{__name__}.{module_name}")
    frame = vars(module).get(name) if name in module.__all__ else None
    return frame._table if isinstance(frame, BaseFrame) else None
