"""The DuckDB engine: the only place where records and extracts are read.

Public: `folder_source` and `run` (a dataset on records), `aggregate` (distinct patients, counted for
the gate), `describe` (an extract's schema), `dummy_extract` (rows from a schema), `evaluate` (on rows
in memory), `explain`. Each works in a connection of its own that is locked before anything from
outside is computed. It refuses to put a value into an error.
"""

from .connection import EngineLimits
from .counting import aggregate
from .describing import describe
from .dummy import dummy_extract
from .extracts import ExtractError, ExtractInfo
from .memory import MemorySource, evaluate
from .running import explain, run
from .sources import FolderSource, Source, SourceError, TablesMissing, folder_source

__all__ = [
    "EngineLimits", "ExtractError", "ExtractInfo", "FolderSource", "MemorySource", "Source", "SourceError",
    "TablesMissing", "aggregate", "describe", "dummy_extract", "evaluate", "explain", "folder_source", "run",
]  # fmt: skip
