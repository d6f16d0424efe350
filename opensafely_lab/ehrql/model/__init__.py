"""The query model: what a definition means, as frozen values that check themselves.

Everything public is here: the nodes, `Dataset`, `to_json` and `from_bytes`, `digest`,
`dataset_schema`. It refuses to hold a query that has no meaning, and to know how one is answered.
"""

from .dataset import Dataset, DatasetError, DummyData, Variable, in_order, parts, roots
from .jsonio import digest, from_bytes, from_json, text, to_json
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

__all__ = [
    "Aggregate", "Count", "CountEpisodes", "Dataset", "DatasetError", "Domain", "DomainError", "DummyData", "Exists",
    "Filter", "Frame", "PickOneRowPerPatient", "Position", "SelectColumn", "SelectPatientTable", "SelectTable", "Sort",
    "Variable", "certain", "dataset_schema", "digest", "domain", "frame_domain", "from_bytes", "from_json", "in_order",
    "parts", "present", "roots", "sort_keys", "text", "to_json",
]  # fmt: skip
