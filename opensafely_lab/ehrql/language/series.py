"""ehrQL's series: one value a patient, or one for each of many rows.

The operators are those of `opensafely_lab.expressions.series`. Here are the two scopes, and what
series of rows can do besides: be aggregated to one value a patient.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen

from ...expressions.nodes import BOOL, CODE, DATE, FLOAT, INT, STR, Call, Expr, ExpressionError, Literal
from ...expressions.schema import ValueType
from ...expressions.series import (
    BoolSeries,
    CodeSeries,
    DateSeries,
    Duration,
    FloatSeries,
    IntSeries,
    Scope,
    Series,
    StrSeries,
    days,
    weeks,
)
from ..model import Aggregate, CountEpisodes, Domain
from ..model.nodes import check_codes_of, code_system, different_rows


@frozen
class PatientScope:
    """One value a patient: goes with anything."""

    def meet(self, other: Scope) -> Scope:
        return other

    def wrap(self, expr: Expr) -> Series:
        return _wrap(expr, self, PATIENT_SERIES)


PATIENT = PatientScope()


@frozen
class EventScope:
    """One value for each row of a table that passed its filters."""

    domain: Domain

    def meet(self, other: Scope) -> Scope:
        if isinstance(other, EventScope) and other.domain != self.domain:
            raise different_rows(self.domain, other.domain)
        return self

    def wrap(self, expr: Expr) -> Series:
        return _wrap(expr, self, EVENT_SERIES)


def _wrap(expr: Expr, scope: Scope, classes: dict[ValueType, type[Series]]) -> Series:
    if isinstance(expr, Call):
        check_codes_of(expr)
    return classes[expr.type](expr, scope)


class _Codes(CodeSeries):
    def _constant(self, value: Any) -> Literal:
        # a constant's form is checked where the comparison is made, by `check_codes_of`
        return super()._constant(str(value) if isinstance(value, str) else value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {code_system(self._expr)}>"


# --- one value a patient -----------------------------------------------------------------------


class BoolPatientSeries(BoolSeries):
    """True, False or missing, for each patient."""


class IntPatientSeries(IntSeries):
    """A whole number for each patient."""


class FloatPatientSeries(FloatSeries):
    """A number for each patient."""


class StrPatientSeries(StrSeries):
    """Text for each patient."""


class DatePatientSeries(DateSeries):
    """A date for each patient."""


class CodePatientSeries(_Codes):
    """A code for each patient."""


# --- one value a row ---------------------------------------------------------------------------


class _Rows(Series):
    def count_distinct_for_patient(self) -> IntPatientSeries:
        """How many different values a patient's rows have; 0 where none."""
        return self._aggregate("count_distinct")  # type: ignore[no-any-return]

    def _aggregate(self, function: str) -> Any:
        return PATIENT.wrap(Aggregate(function, self._expr))


class _OrderedRows(_Rows):
    def minimum_for_patient(self) -> Any:
        """The smallest value of a patient's rows."""
        return self._aggregate("minimum")

    def maximum_for_patient(self) -> Any:
        """The largest value of a patient's rows."""
        return self._aggregate("maximum")


class _NumberRows(_OrderedRows):
    def sum_for_patient(self) -> Any:
        """The sum over a patient's rows."""
        return self._aggregate("sum")

    def mean_for_patient(self) -> FloatPatientSeries:
        """The mean over a patient's rows that have a value."""
        return self._aggregate("mean")  # type: ignore[no-any-return]


class BoolEventSeries(_Rows, BoolSeries):
    """True, False or missing, for each row."""


class IntEventSeries(_NumberRows, IntSeries):
    """A whole number for each row."""


class FloatEventSeries(_NumberRows, FloatSeries):
    """A number for each row."""


class StrEventSeries(_OrderedRows, StrSeries):
    """Text for each row."""


class CodeEventSeries(_Rows, _Codes):
    """A code for each row."""


class DateEventSeries(_OrderedRows, DateSeries):
    """A date for each row."""

    def count_episodes_for_patient(self, maximum_gap: Duration) -> IntPatientSeries:
        """How many episodes a patient's dates form, where a longer gap than this ends an episode."""
        if not isinstance(maximum_gap, (days, weeks)) or type(maximum_gap.value) is not int:
            raise ExpressionError("The gap between episodes is given as days(n) or weeks(n).")
        gap = maximum_gap.value * (7 if isinstance(maximum_gap, weeks) else 1)
        return PATIENT.wrap(CountEpisodes(self._expr, gap))  # type: ignore[return-value]


PATIENT_SERIES: dict[ValueType, type[Series]] = {
    BOOL: BoolPatientSeries,
    INT: IntPatientSeries,
    FLOAT: FloatPatientSeries,
    STR: StrPatientSeries,
    DATE: DatePatientSeries,
    CODE: CodePatientSeries,
}
EVENT_SERIES: dict[ValueType, type[Series]] = {
    BOOL: BoolEventSeries,
    INT: IntEventSeries,
    FLOAT: FloatEventSeries,
    STR: StrEventSeries,
    DATE: DateEventSeries,
    CODE: CodeEventSeries,
}
