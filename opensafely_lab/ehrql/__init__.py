"""Dataset definitions: the language, the query model, the tables, the engine and the loader.

`import ehrql` is this package (see `opensafely_lab.ehrql_finder`), so its public names are ehrQL's:
create_dataset, Dataset, case, when, days, weeks, months, years, minimum_of, maximum_of,
codelist_from_csv, get_parameter, claim_permissions, Error. It refuses to run DuckDB anywhere but
in `engine`, and to evaluate a definition in the process that holds the data.
"""

from collections.abc import Mapping
from typing import Any

from opensafely_lab.ehrql.language import (
    Dataset,
    case,
    claim_permissions,
    codelist_from_csv,
    create_dataset,
    days,
    get_parameter,
    maximum_of,
    minimum_of,
    months,
    weeks,
    when,
    years,
)
from opensafely_lab.errors import LabError as Error

__all__ = [
    "Dataset", "Error", "case", "claim_permissions", "codelist_from_csv", "create_dataset", "days", "get_parameter",
    "maximum_of", "minimum_of", "months", "weeks", "when", "years",
]  # fmt: skip


def evaluate(thing: Any, tables: Mapping[Any, Any], *, population: Any = None) -> dict[Any, Any]:
    """What a series or dataset is for tables in memory. See `opensafely_lab.ehrql.engine.evaluate`."""
    # the engine's libraries are not in a job's sandbox, where definitions are evaluated
    from opensafely_lab.ehrql import engine

    return engine.evaluate(thing, tables, population=population)


# In the public language and not yet here: asked for, they say so.
ABSENT = ("INTERVAL", "Measures", "create_measures", "show", "table_from_file")


def __getattr__(name: str) -> object:
    if name in ABSENT:
        raise AttributeError(f"ehrql.{name} is not part of this version of OpenSAFELY Lab yet.")
    raise AttributeError(f"ehrQL has no {name}.")
