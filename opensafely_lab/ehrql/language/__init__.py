"""ehrQL as one writes it: datasets, frames, series, and the functions over them.

Building an expression checks it and computes nothing. What `import ehrql` offers is listed in
`opensafely_lab.ehrql`.
"""

from ...expressions.series import case, days, maximum_of, minimum_of, months, weeks, when, years
from ..codes import codelist_from_csv
from .dataset import Dataset, create_dataset, dataset_model
from .frames import Column, EventFrame, PatientFrame, SortedEventFrame, table
from .parameters import claim_permissions, get_parameter, set_arguments

__all__ = [
    "Column", "Dataset", "EventFrame", "PatientFrame", "SortedEventFrame", "case", "claim_permissions",
    "codelist_from_csv", "create_dataset", "dataset_model", "days", "get_parameter", "maximum_of", "minimum_of",
    "months", "set_arguments", "table", "weeks", "when", "years",
]  # fmt: skip
