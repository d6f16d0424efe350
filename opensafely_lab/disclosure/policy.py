"""The thresholds a gate judges by: frozen, versioned, each with its source beside it.

A policy is data. Nothing in `disclosure` holds a threshold of its own, and every field here has a
test that turning it changes a verdict (`tests/rules/test_policy.py`). The digest names a policy in
every record, so that it can be shown later by which rules a table was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

from attrs import asdict, field, frozen
from attrs.validators import and_, ge, instance_of, le, matches_re

from opensafely_lab.expressions.schema import ColumnClass


def _sorted_classes(classes: Any) -> tuple[ColumnClass, ...]:
    return tuple(sorted((ColumnClass(c) for c in classes), key=lambda c: c.value))


def _within(low: float, high: float, kind: type | tuple[type, ...] = int) -> Any:
    return and_(instance_of(kind), ge(low), le(high))


@frozen
class Policy:
    """What may be shown, and how slowly the rest is told. The defaults are the profile `opensafely`.

    `largest_unsafe_count`  a count of so many people or fewer (`<=`), or of none, is hidden.
        OpenSAFELY documentation, "Statistical disclosure control": redact 7 or fewer. None looks
        like few: disclosure.md, decision 8.
    `rounding_base`  other counts are shown to the nearest multiple. Same page. With 7 and 5 every
        band that a shown count can stand for is five wide (8-12, 13-17, ...), which is why the
        limit is 7 and not 5.
    `largest_table`  more cells than this are refused before anything is counted. disclosure.md 1.3.
    `closed_classes`  columns that may neither pick people nor split a table. Decision 5.
    `result_step_seconds`  a run's end is told only at slots that double from this. Decision 2; 0 for
        data marked synthetic (decisions.md, 22).
    `failure_details_per_day`  how many failed real runs of a project tell class and cell, at level 4.
        Decision 2.
    """

    name: str = field(default="opensafely", validator=matches_re(r"[a-z0-9][a-z0-9-]{0,31}"))
    version: int = field(default=1, validator=_within(1, 10**6))
    largest_unsafe_count: int = field(default=7, validator=_within(0, 10**6))
    rounding_base: int = field(default=5, validator=_within(1, 10**6))
    largest_table: int = field(default=2000, validator=_within(1, 10**6))
    closed_classes: tuple[ColumnClass, ...] = field(
        default=(ColumnClass.IDENTIFIER, ColumnClass.ORGANISATION, ColumnClass.SMALL_AREA),
        converter=_sorted_classes,
    )
    result_step_seconds: float = field(default=1.0, converter=float, validator=_within(0, 86_400, float))
    failure_details_per_day: int = field(default=10, validator=_within(0, 10**6))


OPENSAFELY = Policy()
POLICIES: Mapping[str, Policy] = MappingProxyType({OPENSAFELY.name: OPENSAFELY})


def policy_digest(policy: Policy) -> str:
    """The SHA-256 of all the fields of a policy, in one canonical text."""
    fields = asdict(policy, value_serializer=lambda _i, _f, value: value.value if isinstance(value, Enum) else value)
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
