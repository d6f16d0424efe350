"""Who may do what: one table of pure rules over person, act, thing and moment.

Site and backend each ask it about their own list of people; neither trusts the other's answer.
Whoever does not stand in the table may not. Source: the published data access policy (levels 1 to
4, roles); the table grows with the roles, the shape stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar

from attrs import frozen

from opensafely_lab.errors import ErrorKind, LabError


class Role(StrEnum):
    """What a person is in one project. Level 4 permission is a role of its own: not every author has it."""

    RESEARCHER = "researcher"
    LEVEL4 = "level4"
    CO_PILOT = "co-pilot"
    COLLABORATOR = "collaborator"


class Act(StrEnum):
    SUBMIT = "submit"
    CANCEL = "cancel"
    VIEW_JOB = "view-job"
    VIEW_LEVEL4 = "view-level4"


ROLES_FOR: Mapping[Act, frozenset[Role]] = MappingProxyType(
    {
        Act.SUBMIT: frozenset({Role.RESEARCHER, Role.CO_PILOT}),
        Act.CANCEL: frozenset({Role.RESEARCHER, Role.CO_PILOT}),
        Act.VIEW_JOB: frozenset({Role.RESEARCHER, Role.CO_PILOT, Role.LEVEL4}),
        Act.VIEW_LEVEL4: frozenset({Role.LEVEL4, Role.CO_PILOT}),
    }
)


@frozen
class Grant:
    """One role in one project, until a moment (not included) or without an end."""

    project: str
    role: Role
    until: datetime | None = None

    def holds(self, project: str, now: datetime) -> bool:
        return self.project == project and (self.until is None or now < self.until)


@frozen
class Person:
    name: str
    grants: tuple[Grant, ...] = ()


@frozen
class Project:
    """What is asked about. An ended project gives nobody anything."""

    name: str
    until: datetime | None = None


class NotAllowed(LabError):
    """No. The sentence is the same for what is not there and for what is another project's."""

    code: ClassVar[str] = "no-permission"
    kind: ClassVar[ErrorKind] = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__(
            "You have no permission for this project and workspace.",
            next_step="Check their names in your settings, or ask the lead of the project to add you.",
        )


class Reason(StrEnum):
    """Why not: for an audit trail, never for the person who asked."""

    PROJECT_ENDED = "project-ended"
    NO_ROLE = "no-role"
    ROLE_ENDED = "role-ended"


def why_not(person: Person, act: Act, project: Project, now: datetime) -> Reason | None:
    """None if `person` may do this now, else the reason."""
    if project.until is not None and now >= project.until:
        return Reason.PROJECT_ENDED
    fitting = [g for g in person.grants if g.project == project.name and g.role in ROLES_FOR[act]]
    if not fitting:
        return Reason.NO_ROLE
    return None if any(g.holds(project.name, now) for g in fitting) else Reason.ROLE_ENDED


def may_submit(person: Person, project: Project, now: datetime) -> bool:
    return why_not(person, Act.SUBMIT, project, now) is None


def may_view_level4(person: Person, project: Project, now: datetime) -> bool:
    return why_not(person, Act.VIEW_LEVEL4, project, now) is None


def may_fetch(backend: str, asked_of: frozenset[str]) -> bool:
    """A backend gets the code of jobs that were asked of it, and of no others."""
    return backend in asked_of
