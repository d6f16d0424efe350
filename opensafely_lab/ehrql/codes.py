"""Clinical codes, the systems they belong to, and lists of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from opensafely_lab.errors import UsageError


class CodelistError(UsageError, ValueError):
    """A codelist that cannot be read as one."""

    code = "codelist"


class BaseCode(str):
    """A code, checked against the form that its system gives to codes."""

    __slots__ = ()
    system: str
    regex: re.Pattern[str]

    def __new__(cls, value: str) -> BaseCode:
        if not cls.regex.fullmatch(value):
            raise CodelistError(
                f"This is not the form of a code of {cls.system}.",
                next_step="Check the code, and that it was not changed by a spreadsheet.",
            )
        return str.__new__(cls, value)


class SNOMEDCTCode(BaseCode):
    """SNOMED CT: 6 to 18 digits."""

    system = "SNOMED CT"
    regex = re.compile(r"[1-9][0-9]{5,17}")


class DMDCode(BaseCode):
    """The dictionary of medicines and devices: 6 to 18 digits."""

    system = "dm+d"
    regex = re.compile(r"[1-9][0-9]{5,17}")


class CTV3Code(BaseCode):
    """Read version 3: five letters, digits and, at the end, dots."""

    system = "CTV3"
    regex = re.compile(r"(?=.{5}\Z)[A-Za-z0-9]+\.*")


class ICD10Code(BaseCode):
    """ICD-10: a letter, two digits, and up to two digits or an X, without a dot."""

    system = "ICD-10"
    regex = re.compile(r"[A-Z][0-9]{2}X?[0-9]{0,2}")


class OPCS4Code(BaseCode):
    """OPCS-4: a letter and two or three digits, without a dot."""

    system = "OPCS-4"
    regex = re.compile(r"[A-HJ-Z][0-9]{2,3}")


class BNFCode(BaseCode):
    """British National Formulary: 15 characters, or the 11 digits of an appliance."""

    system = "BNF"
    regex = re.compile(r"[0-9A-Z]{15}|[0-9]{11}")


SYSTEMS: dict[str, type[BaseCode]] = {
    kind.system: kind for kind in (SNOMEDCTCode, DMDCode, CTV3Code, ICD10Code, OPCS4Code, BNFCode)
}


def codelist_from_csv(
    path: str | Path, *, column: str, category_column: str | None = None
) -> list[str] | dict[str, str]:
    """The codes of a column of a CSV file, in order; with a category column, a dict of code to category."""
    file = from_project(Path(path))
    if not file.is_file():
        advice = (
            "Write / between folders, not \\." if "\\" in str(path) else "Paths start at the folder of project.yaml."
        )
        raise CodelistError(f"There is no codelist at {path}.", next_step=advice)
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return codelist_from_csv_lines(lines, column=column, category_column=category_column)
    except UnicodeDecodeError:
        raise CodelistError(f"The codelist {path} is not UTF-8.", next_step="Download it again.") from None


def codelist_from_csv_lines(
    lines: Iterable[str], *, column: str, category_column: str | None = None
) -> list[str] | dict[str, str]:
    """As `codelist_from_csv`, from lines."""
    reader = csv.DictReader(lines, restval="")
    names = list(reader.fieldnames or [])
    for name in (column, category_column):
        if name is not None and name not in names:
            raise CodelistError(f"The codelist has no column {name!r}.", next_step=f"It has: {', '.join(names)}.")
    rows = [(row[column].strip(), row[category_column].strip() if category_column else "") for row in reader]
    codes = {code: category for code, category in rows if code}
    return codes if category_column else list(codes)


def from_project(path: Path) -> Path:
    """A relative path, from the nearest folder upwards that holds a project.yaml."""
    if path.is_absolute():
        return path
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "project.yaml").is_file():
            return folder / path
    return here / path
