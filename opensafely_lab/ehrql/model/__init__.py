"""The query model: what a definition means, as frozen values that check themselves.

Public: the nodes, `DatasetModel`, `dataset_schema`, `digest`. As JSON it is in `ehrql.model_json`.
It refuses to hold a query that has no meaning, and to know how one is answered.
"""

from .dataset import DatasetError, DatasetModel, DummyData, Variable, in_order, parts, roots
from .nodes import (
    Aggregate,
    Count,
    CountEpisodes,
    Domain,
    DomainError,
    Exists,
    Filter,
    Frame,
    PickOneRowPerPatient,
    Position,
    SelectColumn,
    SelectPatientTable,
    SelectTable,
    Sort,
    domain,
    frame_domain,
    sort_keys,
)
from .schema import certain, dataset_schema, present

# last: it is written with the names above
from ..model_json import digest  # isort: skip

__all__ = [
    "Aggregate",
    "Count",
    "CountEpisodes",
    "DatasetError",
    "DatasetModel",
    "Domain",
    "DomainError",
    "DummyData",
    "Exists",
    "Filter",
    "Frame",
    "PickOneRowPerPatient",
    "Position",
    "SelectColumn",
    "SelectPatientTable",
    "SelectTable",
    "Sort",
    "Variable",
    "certain",
    "dataset_schema",
    "digest",
    "domain",
    "frame_domain",
    "in_order",
    "parts",
    "present",
    "roots",
    "sort_keys",
]  # fmt: skip
