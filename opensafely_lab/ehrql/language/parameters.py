"""What a definition is told from outside (parameters), and what it asks for (permissions)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from ...errors import UsageError

_ARGUMENTS: ContextVar[tuple[str, ...]] = ContextVar("arguments of the definition", default=())
_CLAIMED: ContextVar[tuple[str, ...]] = ContextVar("permissions of the definition", default=())


class ParameterError(UsageError, ValueError):
    """A parameter that is missing or not of its type."""

    code = "ehrql-parameter"


def set_arguments(arguments: Sequence[str]) -> None:
    """What stands after `--` on the command line of the action."""
    _ARGUMENTS.set(tuple(arguments))


def get_parameter(name: str, type: Callable[[str], Any] = str, default: Any = None) -> Any:
    """The value given as `-- --name value`; several values, or several flags, give a list."""
    values = _values(name)
    if not values:
        if default is None:
            raise ParameterError(
                f"The parameter {name} was not given.",
                next_step=f"Add -- --{name} VALUE to the action's run line, or a default to get_parameter().",
            )
        return default
    try:
        converted = [_bool(value) if type is bool else type(value) for value in values]
    except (ValueError, TypeError):
        raise ParameterError(f"The parameter {name} is not of type {getattr(type, '__name__', 'asked for')}.") from None
    return converted[0] if len(converted) == 1 else converted


def _values(name: str) -> list[str]:
    found: list[str] = []
    taking = False
    for word in _ARGUMENTS.get():
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            taking = flag == name
            if taking and equals:
                found.append(value)
        elif taking:
            found.append(word)
    return found


def _bool(text: str) -> bool:
    known = {"1": True, "true": True, "True": True, "0": False, "false": False, "False": False}
    if text not in known:
        raise ValueError
    return known[text]


def claim_permissions(*permissions: str) -> None:
    """Say that the project has these permissions; each call adds to the ones before."""
    for name in permissions:
        if not isinstance(name, str) or not name or len(name) > 100 or not name.isprintable():
            raise ParameterError("A permission is a name.")
    _CLAIMED.set((*_CLAIMED.get(), *permissions))


def claimed_permissions() -> tuple[str, ...]:
    return _CLAIMED.get()
