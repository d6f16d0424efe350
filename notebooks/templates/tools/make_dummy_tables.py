"""Make the dummy tables of the template study gi-bleeding: invented people, the same on every run.

    python make_dummy_tables.py [FOLDER]

Nobody here was sampled from records. The shapes are common knowledge: half are women, ages run from
young to old, every second person has had an anti-inflammatory drug by sixty, bleeding is rare and
likelier with age, with earlier bleeding apart. A few values are missing, as in real records.
"""

from __future__ import annotations

import csv
import datetime as dt
import random
import sys
from pathlib import Path

PEOPLE = 1_000
SEED = 20_260_201
LAST_DAY = dt.date(2021, 3, 31)
NSAIDS = {
    "330170001": 0.30,
    "329587009": 0.22,
    "329652003": 0.40,
    "23811000001106": 0.08,
    "329806007": 0.34,
    "329807003": 0.12,
}
OTHER_MEDICINES = ("322236009", "319775004", "10287111000001103", "319997009", "323398002")
GI_BLEEDS = ("74474003", "74474003", "74474003", "37372002", "2901004", "8765009")
OTHER_EVENTS = ("195662009", "444814009", "10509002", "38341003", "162864005", "60573004", "271737000")

Row = list[object]


def day(chance: random.Random, first: dt.date, last: dt.date) -> dt.date:
    return first + dt.timedelta(days=chance.randrange(max((last - first).days, 0) + 1))


def person(chance: random.Random, patient: int) -> dict[str, list[Row]]:
    born = dt.date(chance.choice(range(1915, 1996)), chance.randint(1, 12), 1)
    sex = chance.choices(["female", "male", "intersex", "unknown"], [506, 488, 2, 4])[0]
    adult = born.replace(year=born.year + 18)
    died = None
    if chance.random() < 0.12:
        died = day(chance, max(adult, dt.date(1995, 1, 1)), LAST_DAY)
    end_of_life = died or LAST_DAY
    rows: dict[str, list[Row]] = {
        "patients": [[patient, born, sex, died]],
        "practice_registrations": registrations(chance, patient, born, died),
        "medications": [],
        "clinical_events": [],
    }
    for code, share in NSAIDS.items():
        if chance.random() < share:
            first = day(chance, max(adult, dt.date(1975, 1, 1)), end_of_life)
            repeats = chance.choice([1, 1, 1, 2, 3, 6])
            dates = [first + dt.timedelta(days=chance.randrange(30, 400) * n) for n in range(repeats)]
            rows["medications"] += [[patient, date, code] for date in dates if date <= end_of_life]
            if chance.random() < 0.12 + max(0, first.year - born.year - 50) / 200:
                bled = first + dt.timedelta(days=int(chance.expovariate(1 / 200)) + 1)
                if bled <= end_of_life:
                    rows["clinical_events"].append([patient, bled, chance.choice(GI_BLEEDS), None])
    if chance.random() < 0.03:
        rows["clinical_events"].append([patient, day(chance, adult, end_of_life), chance.choice(GI_BLEEDS), None])
    for _ in range(chance.choice(range(7))):
        code = chance.choice(OTHER_MEDICINES) if chance.random() > 0.03 else None
        rows["medications"].append([patient, day(chance, adult, end_of_life), code])
    for _ in range(chance.choice(range(9))):
        number = round(chance.gauss(28, 5), 1) if chance.random() < 0.3 else None
        date = day(chance, adult, end_of_life) if chance.random() > 0.005 else None
        rows["clinical_events"].append([patient, date, chance.choice(OTHER_EVENTS), number])
    return rows


def registrations(chance: random.Random, patient: int, born: dt.date, died: dt.date | None) -> list[Row]:
    """One practice for most, two in turn for some; the last ends with death, or when somebody moves away."""
    start = day(chance, born, born.replace(year=born.year + 30))
    found: list[Row] = []
    if chance.random() < 0.25:
        moved = day(chance, start, LAST_DAY)
        found.append([patient, start, moved, chance.randint(1, 20)])
        start = moved + dt.timedelta(days=chance.choice([1, 1, 10, 200]))
    end = died if died is not None and died >= start else None
    if end is None and chance.random() < 0.05:
        end = day(chance, start, LAST_DAY)
    found.append([patient, start, end, chance.randint(1, 20)])
    return found


COLUMNS = {
    "patients": ["patient_id", "date_of_birth", "sex", "date_of_death"],
    "practice_registrations": ["patient_id", "start_date", "end_date", "practice_pseudo_id"],
    "medications": ["patient_id", "date", "dmd_code"],
    "clinical_events": ["patient_id", "date", "snomedct_code", "numeric_value"],
}


def main(folder: Path) -> None:
    chance = random.Random(SEED)  # noqa: S311 - invented people, no secrets
    tables: dict[str, list[Row]] = {name: [] for name in COLUMNS}
    for patient in range(1, PEOPLE + 1):
        for name, rows in person(chance, patient).items():
            tables[name] += sorted(rows, key=lambda row: str(row[1]))
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS[name])
            writer.writerows(rows)


if __name__ == "__main__":
    here = Path(__file__).resolve().parent.parent / "gi-bleeding" / "dummy_tables"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else here)
