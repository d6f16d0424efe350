"""The dataset one defines: a population, and a column for each name it is given."""

from __future__ import annotations

from typing import Any

from ...expressions.series import BoolSeries, DateDifference, Series
from .. import model
from ..model import DatasetError, DummyData, Variable
from ..model.dataset import check_name, check_population
from .frames import BaseFrame
from .parameters import claimed_permissions
from .series import EventScope


class Dataset:
    """Who is in it (`define_population`), and what is said about each patient (`dataset.name = series`)."""

    def __init__(self) -> None:
        self.__dict__.update(_population=None, _columns={}, _dummy=None)

    def __repr__(self) -> str:
        return f"<Dataset with {len(self._columns)} columns>"

    def define_population(self, population_condition: BoolSeries) -> None:
        """The patients for whom the condition is true."""
        if self._population is not None:
            raise DatasetError("define_population() is called once.")
        if not isinstance(population_condition, BoolSeries):
            raise DatasetError(
                "define_population() takes a condition, true or false for each patient, "
                f"not {_what(population_condition)}.",
                next_step="Add .exists_for_patient() to a frame, or compare a series with something.",
            )
        check_population(population_condition._expr)
        self.__dict__["_population"] = population_condition

    @property
    def population(self) -> BoolSeries:
        if self._population is None:
            raise DatasetError("The dataset has no population.", next_step="Call dataset.define_population(...).")
        found: BoolSeries = self._population
        return found

    def add_column(self, column_name: str, ehrql_series: Series) -> None:
        """A column of the dataset: one value a patient."""
        check_name(column_name)
        if column_name in self._columns:
            raise DatasetError(f"{column_name} is already a column of the dataset.")
        if not isinstance(ehrql_series, Series):
            advice = {
                BaseFrame: f"Take one of its columns: dataset.{column_name} = frame.column.",
                DateDifference: "Add .days, .weeks, .months or .years.",
                tuple: "Is there a comma at the end of the line?",
            }
            step = next((text for kind, text in advice.items() if isinstance(ehrql_series, kind)), "")
            raise DatasetError(f"{column_name} is {_what(ehrql_series)}, not a series.", next_step=step)
        if isinstance(ehrql_series._scope, EventScope):
            raise DatasetError(
                f"{column_name} has many values a patient, and a column of a dataset has one.",
                next_step="Pick a row with sort_by(...).first_for_patient(), or aggregate with ..._for_patient().",
            )
        self._columns[column_name] = ehrql_series

    def configure_dummy_data(
        self,
        *,
        population_size: int = 10,
        legacy: bool = False,
        timeout: int = 60,
        additional_population_constraint: BoolSeries | None = None,
    ) -> None:
        """How many dummy patients to make, and what must be true of them beside the population."""
        constraint = additional_population_constraint
        if constraint is not None and not isinstance(constraint, BoolSeries):
            raise DatasetError("additional_population_constraint is true or false for each patient.")
        expr = None if constraint is None else constraint._expr
        self.__dict__["_dummy"] = DummyData(population_size, legacy, timeout, expr)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "population":
            raise DatasetError("The population is set by dataset.define_population(...).")
        self.add_column(name, value)

    def __getattr__(self, name: str) -> Any:
        if name in self._columns:
            return self._columns[name]
        raise AttributeError(f"The dataset has no column {name}.")


def create_dataset() -> Dataset:
    """A dataset without population or columns yet."""
    return Dataset()


def dataset_model(dataset: Dataset) -> model.DatasetModel:
    """The dataset as a value, complete. Raises `DatasetError`."""
    return model.DatasetModel(
        population=dataset.population._expr,
        variables=tuple(Variable(name, series._expr) for name, series in dataset._columns.items()),
        dummy_data=dataset._dummy,
        permissions=claimed_permissions(),
    )


def _what(value: object) -> str:
    if isinstance(value, Series):
        return "a series of something else"
    if isinstance(value, BaseFrame):
        return "a frame"
    if isinstance(value, DateDifference):
        return "a difference between dates, without a unit"
    if callable(value) and hasattr(value, "__name__"):
        return "something called without its brackets"
    return f"of type {type(value).__name__}"
