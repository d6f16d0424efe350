"""One attempt at a job: unpack the code, do the work, keep what is to be kept, end the job.

Nothing of what the work wrote or raised goes anywhere from here: a code, and digests of what the gate made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Protocol

from attrs import frozen

from opensafely_lab.backend import jobs
from opensafely_lab.backend.store import Store
from opensafely_lab.backend.work import PROGRESS_CODES, Document, Order, Work, WorkResult
from opensafely_lab.disclosure.policy import Policy
from opensafely_lab.errors import ErrorKind, LabError, PlatformError
from opensafely_lab.service.blobs import Blobs
from opensafely_lab.service.logs import describe, log
from opensafely_lab.wire.base import JobCode
from opensafely_lab.wire.site import Assignment


class Unpack(Protocol):
    """`opensafely_lab.jobs.bundle.unpack`: the tree of `commit` into the folder, or a `LabError`."""

    def __call__(self, data: bytes, commit: str, into: Path) -> object: ...


class NothingShown(PlatformError):
    code: ClassVar[str] = "nothing-shown"

    def __init__(self) -> None:
        super().__init__("The work says that it succeeded, and brings no document.")


class EndedUnasked(PlatformError):
    code: ClassVar[str] = "ended-unasked"

    def __init__(self) -> None:
        super().__init__("The work says that it was cancelled, and nobody asked it to end.")


class NotKept(PlatformError):
    code: ClassVar[str] = "not-kept"

    def __init__(self) -> None:
        super().__init__("A file to be kept is not a plain file of this attempt.")


@frozen
class Tools:
    """What an attempt needs. `ring` wakes the teller: there is something to tell.

    `at` is called after each step by its name: tests kill the process there.
    """

    store: Store
    work: Work
    unpack: Unpack
    now: Callable[[], datetime]
    ring: Callable[[], None]
    at: Callable[[str], None]


def make_attempt(
    tools: Tools, run: str, assignment: Assignment, bundle: bytes, policy: Policy, cancelled: Callable[[], bool]
) -> JobCode | None:
    """How the attempt ended, or None if it was asked to end. Raises whatever broke; then the job has not ended.

    1. the commit's tree, verified against the bundle; 2. the work; 3. files into the stores, on disk;
    4. one transaction that ends attempt and job. Killed anywhere before 4, the job has not ended, and
    what 3 wrote is named by no row and swept away.
    """
    scratch = tools.store.new_scratch(run)
    checkout, room = scratch / "code", scratch / "work"
    for folder in (checkout, room):
        folder.mkdir(mode=0o700)
    result = _work(tools, Order(run, assignment, policy, checkout, room, cancelled), bundle)
    tools.at("worked")
    if result.code is JobCode.CANCELLED:
        if not cancelled():
            raise EndedUnasked
        return None
    ending = jobs.Ending(
        run=run,
        code=result.code,
        executor=result.executor,
        layers=result.layers,
        stored=_store(tools.store.level4, result),
        failure=result.failure,
        kept={name: _keep(tools.store.kept, path, room) for name, path in result.kept.items()},
    )
    tools.at("stored")
    tools.store.write(lambda session: jobs.end_attempt(session, assignment.job, ending, policy, tools.now()))
    return result.code


def _work(tools: Tools, order: Order, bundle: bytes) -> WorkResult:
    try:
        tools.unpack(bundle, order.assignment.request.commit, order.checkout)
    except LabError as error:
        if error.kind is ErrorKind.PLATFORM:
            raise
        log.warning("job %s: its code cannot be unpacked: %s", order.assignment.job, describe(error))
        return WorkResult(code=JobCode.REFUSED, executor="none", layers={})
    tools.at("unpacked")

    def tell(code: JobCode) -> None:
        """Progress is told where ends are told at once; else its moments would be further slots."""
        if code in PROGRESS_CODES and order.policy.result_step_seconds == 0:
            tools.store.write(lambda session: jobs.tell(session, order.assignment.job, code, tools.now()))
            tools.ring()
            tools.at("told")

    return tools.work.run(order, tell)


def _store(level4: Blobs, result: WorkResult) -> jobs.Stored | None:
    document: Document | None = result.document
    if result.code is not JobCode.SUCCEEDED:
        return None
    if document is None:
        raise NothingShown
    files: Mapping[str, tuple[str, int]] = {
        name: (level4.put(data), len(data)) for name, data in document.files.items()
    }
    return jobs.Stored(document.name, level4.put(document.notebook), level4.put(document.disclosure), files)


def _keep(kept: Blobs, path: Path, room: Path) -> tuple[str, int]:
    """Copy a file's bytes without looking at them. Not through a link, and from this attempt's folder alone."""
    if not path.parent.resolve().is_relative_to(room.resolve()):
        raise NotKept
    incoming = kept.incoming()
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            while chunk := file.read(1 << 20):
                incoming.write(chunk)
        return kept.keep(incoming), incoming.size
    finally:
        incoming.drop()
