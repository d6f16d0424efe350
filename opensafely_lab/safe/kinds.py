"""What somebody passed, in words and without its value."""

from __future__ import annotations

from opensafely_lab.expressions.series import Series


def kind_of(value: object) -> str:
    """ "text", "a pandas Series", "a function": for the sentence of an error."""
    if isinstance(value, Series):
        return "a column"
    if value is None:
        return "None"
    module = type(value).__module__.partition(".")[0]
    if module in ("pandas", "numpy"):
        return f"a {module} {type(value).__name__}"
    if callable(value) and not isinstance(value, type):
        return "a function"
    name = type(value).__name__
    words = {"str": "text", "bool": "true or false", "int": "a number", "float": "a number", "dict": "a dict"}
    return words.get(name, f"a {name}")
