"""May this job run here? Asked of the backend's own list of projects, people and policies; no I/O.

The site may be wrong, or not be the site any more: what it says is a request. Digest and commit are
verified where the bytes are (`agent`), definitions where they are evaluated (the pipeline).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from opensafely_lab.access import Person, Project, may_submit
from opensafely_lab.disclosure.policy import Policy
from opensafely_lab.wire.site import Assignment


class Objection(StrEnum):
    """For the backend's own log; outside it is one code."""

    OTHER_BACKEND = "the request does not name this backend"
    UNKNOWN_PROJECT = "the project is not one of this backend"
    NO_PERMISSION = "the author may not submit in this project, or not any more"
    OTHER_POLICY = "the request was prepared under another policy than the project's"
    UNKNOWN_POLICY = "the project's policy is unknown to this version"


def objection(
    assignment: Assignment,
    backend: str,
    project: Project | None,
    project_policy: str,
    author: Person,
    policies: Mapping[str, Policy],
    now: datetime,
) -> Objection | None:
    """The first reason why this job may not run here now, or None.

    Asked at each attempt: a permission that has ended since the submission ends the job.
    """
    request = assignment.request
    if backend not in request.backends:
        return Objection.OTHER_BACKEND
    if project is None or project.name != request.project:
        return Objection.UNKNOWN_PROJECT
    if author.name != assignment.author or not may_submit(author, project, now):
        return Objection.NO_PERMISSION
    if project_policy not in policies:
        return Objection.UNKNOWN_POLICY
    return None if request.policy == project_policy else Objection.OTHER_POLICY
