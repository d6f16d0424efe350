"""Tables that every backend has: who people are, where they are registered, what was recorded.

Source: the public ehrQL schema `core`, as of mid-2026; see `ehrql-schemas` in the project's notes.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from opensafely_lab.ehrql.codes import DMDCode, ICD10Code, SNOMEDCTCode
from opensafely_lab.ehrql.tables import Constraint, EventFrame, PatientFrame, Series, table
from opensafely_lab.expressions.schema import ColumnClass
from opensafely_lab.expressions.series import BoolSeries, IntSeries

__all__ = ["clinical_events", "medications", "ons_deaths", "patients", "practice_registrations"]


@table
class patients(PatientFrame):
    """Who people are."""

    class _meta:
        activation_filter_field = None

    date_of_birth = Series(
        dt.date,
        description="The patient's date of birth, given as the first of its month.",
        constraints=[Constraint.FirstOfMonth(), Constraint.NotNull()],
        column_class=ColumnClass.SENSITIVE,
    )
    sex = Series(
        str,
        description="The patient's sex.",
        constraints=[Constraint.Categorical(("female", "male", "intersex", "unknown")), Constraint.NotNull()],
    )
    date_of_death = Series(dt.date, description="The patient's date of death.")

    def age_on(self, date: Any) -> IntSeries:
        """The patient's age in whole years on a date; negative before birth."""
        return (date - self.date_of_birth).years  # type: ignore[no-any-return]

    def is_alive_on(self, date: Any) -> BoolSeries:
        """Whether the patient is not dead on a date. True before birth too."""
        return self.date_of_death.is_after(date) | self.date_of_death.is_null()  # type: ignore[no-any-return]

    def is_dead_on(self, date: Any) -> BoolSeries:
        """Whether the patient has died by a date, that day included."""
        return ~self.is_alive_on(date)


@table
class practice_registrations(EventFrame):
    """When people were registered with which practice."""

    class _meta:
        activation_filter_field = True

    start_date = Series(dt.date, description="The first day of the registration.", constraints=[Constraint.NotNull()])
    end_date = Series(
        dt.date,
        description="The last day of the registration, missing while it lasts.",
        dummy_data_constraints=[Constraint.GeneralRange(maximum=None)],
    )
    practice_pseudo_id = Series(
        int,
        description="A number that stands for the practice.",
        constraints=[Constraint.NotNull()],
        dummy_data_constraints=[Constraint.ClosedRange(0, 999)],
        column_class=ColumnClass.ORGANISATION,
    )

    def for_patient_on(self, date: Any) -> Any:
        """The registration on a date. Of several the one that began last, then ended last, then with the largest id."""
        spanning_date = self.where(self.start_date <= date).except_where(self.end_date < date)
        ordered = spanning_date.sort_by(
            spanning_date.start_date, spanning_date.end_date, spanning_date.practice_pseudo_id
        )
        return ordered.last_for_patient()

    def exists_for_patient_on(self, date: Any) -> BoolSeries:
        """Whether the patient is registered on a date."""
        return self.for_patient_on(date).exists_for_patient()  # type: ignore[no-any-return]

    def spanning(self, start_date: Any, end_date: Any) -> Any:
        """The registrations that last from the one date to the other at least."""
        return self.where(self.start_date.is_on_or_before(start_date)).where(
            (self.end_date.is_on_or_after(end_date)) | (self.end_date.is_null())
        )


def _cause(number: int) -> Series:
    return Series(ICD10Code, description=f"Cause of death number {number} on the certificate.")


@table
class ons_deaths(PatientFrame):
    """Deaths as registered with the Office for National Statistics."""

    class _meta:
        activation_filter_field = None

    date = Series(
        dt.date,
        description="The date of death.",
        dummy_data_constraints=[Constraint.GeneralRange(minimum=dt.date(2019, 2, 1))],
    )
    underlying_cause_of_death = Series(ICD10Code, description="The disease or injury that led to death.")
    cause_of_death_01 = _cause(1)
    cause_of_death_02 = _cause(2)
    cause_of_death_03 = _cause(3)
    cause_of_death_04 = _cause(4)
    cause_of_death_05 = _cause(5)
    cause_of_death_06 = _cause(6)
    cause_of_death_07 = _cause(7)
    cause_of_death_08 = _cause(8)
    cause_of_death_09 = _cause(9)
    cause_of_death_10 = _cause(10)
    cause_of_death_11 = _cause(11)
    cause_of_death_12 = _cause(12)
    cause_of_death_13 = _cause(13)
    cause_of_death_14 = _cause(14)
    cause_of_death_15 = _cause(15)

    def cause_of_death_is_in(self, codelist: Any) -> BoolSeries:
        """Whether any cause on the certificate, the underlying one included, is in a codelist."""
        causes = [self.underlying_cause_of_death, *(getattr(self, f"cause_of_death_{n:02}") for n in range(1, 16))]
        found = causes[0].is_in(codelist)
        for cause in causes[1:]:
            found = found | cause.is_in(codelist)
        return found  # type: ignore[no-any-return]


@table
class clinical_events(EventFrame):
    """What was recorded in general practice, as codes with or without a number."""

    class _meta:
        activation_filter_field = "date"

    date = Series(dt.date, description="The date of the event.")
    snomedct_code = Series(SNOMEDCTCode, description="What was recorded.")
    numeric_value = Series(float, description="The number recorded with it.")


@table
class medications(EventFrame):
    """What was prescribed in general practice."""

    class _meta:
        activation_filter_field = "date"

    date = Series(dt.date, description="The date of the prescription.")
    dmd_code = Series(DMDCode, description="The product prescribed.")
