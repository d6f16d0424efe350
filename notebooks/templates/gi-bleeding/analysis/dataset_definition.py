"""One row a person: who they are, when they were first prescribed each drug, when they first bled.

Dates are recorded for all time; the notebook chooses the day on which it looks, and looks only back.
"""

from ehrql import case, codelist_from_csv, create_dataset, when
from ehrql.tables.core import clinical_events, medications, patients, practice_registrations

# Non-steroidal anti-inflammatory drugs: {dm+d code: name of the drug}
nsaids = codelist_from_csv("codelists/nsaids.csv", column="code", category_column="drug")
gi_bleed = codelist_from_csv("codelists/gi_bleed.csv", column="code")

dataset = create_dataset()

# People who have been registered with a practice, and whose sex is recorded as female or male.
registration = practice_registrations.sort_by(
    practice_registrations.start_date, practice_registrations.end_date
).last_for_patient()

dataset.define_population(
    registration.exists_for_patient()
    & registration.start_date.is_not_null()
    & patients.date_of_birth.is_not_null()
    & patients.sex.is_in(["female", "male"])
)

dataset.sex = case(when(patients.sex == "female").then("female"), otherwise="male")
dataset.date_of_birth = patients.date_of_birth
dataset.registration_start = registration.start_date
dataset.registration_end = registration.end_date


def first_prescription(codes):
    prescriptions = medications.where(medications.dmd_code.is_in(codes))
    return prescriptions.sort_by(prescriptions.date).first_for_patient().date


dataset.first_any = first_prescription(nsaids)
for drug in ["celecoxib", "diclofenac", "ibuprofen", "naproxen"]:
    codes = [code for code, name in nsaids.items() if name == drug]
    dataset.add_column(f"first_{drug}", first_prescription(codes))

bleeds = clinical_events.where(clinical_events.snomedct_code.is_in(gi_bleed))
dataset.first_bleed = bleeds.sort_by(bleeds.date).first_for_patient().date
