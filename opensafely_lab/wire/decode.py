"""Bytes into a message, or a sentence that names the field and never its value."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import ValidationError

from opensafely_lab.errors import UsageError
from opensafely_lab.wire.base import Message

LARGEST_MESSAGE = 2 << 20  # a submission: 256 KiB of requests, parameters, the layout of 10,000 cells

M = TypeVar("M", bound=Message)


class BadMessage(UsageError):
    """Bytes that are not the message they should be."""

    code = "bad-message"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"This message is not valid: {what}.",
            next_step="Both ends must run the same version of OpenSAFELY Lab; check with `opensafely-lab doctor`.",
        )


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        raise BadMessage("it names a field twice")
    return seen


def _no_constant(_text: str) -> object:
    raise BadMessage("it holds a number that JSON does not have")


def decode(model: type[M], data: bytes, limit: int = LARGEST_MESSAGE) -> M:
    """The message in `data`. Raises `BadMessage`.

    1. not larger than `limit`; 2. JSON, each field once, no NaN; 3. what the model says, strictly.
    """
    if len(data) > limit:
        raise BadMessage(f"it is larger than {limit // 1024} kB")
    try:
        json.loads(data, object_pairs_hook=_once_each, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadMessage("it is not JSON") from None
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise BadMessage(_where(model, error)) from None


def _where(model: type[Message], error: ValidationError) -> str:
    """The first field at fault, by our own names: a name from outside is not echoed."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = next((part for part in first["loc"][:1] if part in model.model_fields), None)
    if field is None:
        return "a field is unknown" if first["type"] == "extra_forbidden" else "it is not what was expected"
    return f"the field {field} is missing" if first["type"] == "missing" else f"the field {field} is not as agreed"
