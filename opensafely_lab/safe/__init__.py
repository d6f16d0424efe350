"""What a notebook imports to ask for tables and figures: it builds requests and decides nothing.

    from opensafely_lab import safe

    data = safe.dataset("output/dataset.arrow")
    bleeds = safe.table(data.where(data.age >= 18), by=[data.sex, data.age.cut([40, 65])])
    safe.plot(bleeds, title="Bleeding by sex and age")

At the desk each request shows at once what would come back, computed on dummy data by the gate's
own code. In a job it is only listed: the backend computes it, whatever the notebook's Python says.
It refuses to give a value to a notebook that runs on real data.
"""

from opensafely_lab.expressions.series import case, days, maximum_of, minimum_of, months, weeks, when, years
from opensafely_lab.safe.asking import count, plot, table
from opensafely_lab.safe.dataset import dataset, file
from opensafely_lab.safe.listing import listed

__all__ = [
    "case",
    "count",
    "dataset",
    "days",
    "file",
    "listed",
    "maximum_of",
    "minimum_of",
    "months",
    "plot",
    "table",
    "weeks",
    "when",
    "years",
]
