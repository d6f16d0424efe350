"""A dataset as a value: who is in it, and what is said about each of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from attrs import field, frozen

from ...expressions.nodes import BOOL, Call, Expr, ExpressionError, Leaf, Value
from ...expressions.rows import evaluate
from .nodes import (
    Aggregate,
    Count,
    CountEpisodes,
    Exists,
    Filter,
    Frame,
    PickOneRowPerPatient,
    SelectColumn,
    Sort,
    check_codes,
    domain,
)

COLUMN_NAME = re.compile(r"[A-Za-z]+[A-Za-z0-9_]*")
LONGEST_NAME = 128
RESERVED = frozenset({"patient_id", "population", "variables", "dummy_data_config"})


class DatasetError(ExpressionError):
    """A dataset that is not complete, or not meaningful."""

    code = "dataset"


@frozen
class Variable:
    """A column of the dataset."""

    name: str
    expr: Expr

    def __attrs_post_init__(self) -> None:
        check_name(self.name)
        if domain(self.expr) is not None:
            raise DatasetError(
                f"{self.name} has many values a patient, and a column of a dataset has one.",
                next_step="Pick a row with sort_by(...).first_for_patient(), or aggregate with ..._for_patient().",
            )
        check_codes(self.expr)


@frozen
class DummyData:
    """What the definition asks of dummy data."""

    population_size: int = 10
    legacy: bool = False
    timeout: int = 60
    additional_population_constraint: Expr | None = None

    def __attrs_post_init__(self) -> None:
        constraint = self.additional_population_constraint
        if type(self.population_size) is not int or not 0 < self.population_size <= 1_000_000:
            raise DatasetError("The population size of dummy data is a whole number from 1 to 1,000,000.")
        if type(self.timeout) is not int or self.timeout < 0:
            raise DatasetError("The timeout of dummy data is a whole number of seconds.")
        if constraint is not None and self.legacy:
            raise DatasetError("additional_population_constraint cannot be used with legacy=True.")
        if constraint is not None:
            if constraint.type is not BOOL or domain(constraint) is not None:
                raise DatasetError("additional_population_constraint is true or false for each patient.")
            check_codes(constraint)


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


@frozen
class DatasetModel:
    """The patients for whom `population` is true, and a value of each variable for each of them."""

    population: Expr
    variables: tuple[Variable, ...]
    dummy_data: DummyData | None = None
    permissions: tuple[str, ...] = field(factory=tuple, converter=_names)

    def __attrs_post_init__(self) -> None:
        check_population(self.population)
        names = [variable.name for variable in self.variables]
        if len(set(names)) != len(names):
            raise DatasetError("Two columns of the dataset have the same name.")


def check_name(name: str) -> None:
    if not COLUMN_NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise DatasetError(
            "A column's name starts with a letter and has only letters, digits and underscores.",
        )
    if name in RESERVED:
        raise DatasetError(f"{name} is a reserved name.", next_step="Call the column something else.")


def check_population(population: Expr) -> None:
    if population.type is not BOOL or domain(population) is not None:
        raise DatasetError(
            "define_population() takes a condition that is true or false for each patient.",
            next_step="Make one of many rows with exists_for_patient().",
        )
    check_codes(population)
    if evaluate(population, _without_records) is True:
        raise DatasetError(
            "The population would include people who have no records at all.",
            next_step="Add a condition such as patients.exists_for_patient() or a registration with &.",
        )


def _without_records(leaf: Leaf) -> Value:
    """What a leaf is for a patient with no row in any table."""
    if isinstance(leaf, Exists):
        return False
    counts = isinstance(leaf, (Count, CountEpisodes)) or (
        isinstance(leaf, Aggregate) and leaf.function == "count_distinct"
    )
    return 0 if counts else None


Node = Expr | Frame


def parts(node: Node) -> tuple[Node, ...]:
    """The nodes a node is made of."""
    if isinstance(node, Call):
        return node.args
    if isinstance(node, (SelectColumn, Exists, Count, Aggregate, CountEpisodes, PickOneRowPerPatient)):
        return (node.source,)
    if isinstance(node, Filter):
        return (node.source, node.condition)
    if isinstance(node, Sort):
        return (node.source, node.by)
    return ()


def roots(dataset: DatasetModel) -> tuple[Expr, ...]:
    """The population, the variables and what else the dataset holds."""
    extra = dataset.dummy_data.additional_population_constraint if dataset.dummy_data else None
    return (dataset.population, *(v.expr for v in dataset.variables), *([extra] if extra is not None else []))


def in_order(tops: tuple[Node, ...]) -> Iterator[Node]:
    """Every distinct node under `tops`, frames and expressions alike, each after its parts."""
    done: set[int] = set()
    for top in tops:
        waiting: list[tuple[Node, bool]] = [(top, False)]
        while waiting:
            node, ready = waiting.pop()
            if id(node) in done:
                continue
            if ready:
                done.add(id(node))
                yield node
            else:
                waiting.append((node, True))
                waiting.extend((part, False) for part in reversed(parts(node)))
