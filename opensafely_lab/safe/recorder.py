"""The notebook's list of requests, as it grows.

In a job every request rewrites `/outputs/.osl/requests.json`, whole and at once, so that the file is
right however the notebook ends. At the desk nothing is written: what is asked is answered there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from attrs import evolve

from opensafely_lab.disclosure.requests import (
    LARGEST_FILE,
    MOST_REQUESTS,
    NAME,
    PlotRequest,
    Request,
    RequestList,
    TableRequest,
    parse,
)
from opensafely_lab.safe.errors import SafeError, TooManyRequests
from opensafely_lab.safe.kinds import kind_of
from opensafely_lab.safe.settings import Settings, here

Made = TypeVar("Made", TableRequest, PlotRequest)
MakeTable = Callable[[int, str, int], TableRequest]
MakePlot = Callable[[int, str, int], PlotRequest]


class Recorder:
    """The requests made so far by this Python."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.requests: list[Request] = []

    def table(self, name: object, make: MakeTable) -> TableRequest:
        return self._add("table", name, make)

    def plot(self, name: object, make: MakePlot) -> PlotRequest:
        return self._add("figure", name, make)

    def _add(self, kind: str, name: object, make: Callable[[int, str, int], Made]) -> Made:
        """Number the request, name it, and write the list with it; nothing changes if that fails."""
        number = len(self.requests)
        request = make(number, self._name(kind, name, number), self._cell())
        if self.settings.requests_file is not None:
            data = self._checked(RequestList((*self.requests, request)))
            _replace(self.settings.requests_file, data)
        else:
            for known in self.requests:  # a cell that is run again asks the same, and keeps its number
                if isinstance(known, type(request)) and evolve(request, id=known.id, name=known.name) == known:
                    return evolve(request, id=known.id, name=request.name if name is not None else known.name)
        self.requests.append(request)
        return request

    def _name(self, kind: str, name: object, number: int) -> str:
        if name is None:
            return f"{kind}-{number + 1}"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            given = "that one" if isinstance(name, str) else kind_of(name)
            raise SafeError(
                f"A name has up to 64 letters, digits, spaces, dots, dashes and underscores, unlike {given}.",
                next_step='Write name="bleeding by age", for example.',
            )
        if self.settings.in_job and name.casefold() in {request.name.casefold() for request in self.requests}:
            raise SafeError(
                "Two requests of this notebook have the same name.", next_step="Name one of them otherwise."
            )
        return name

    def _cell(self) -> int:
        """The cell that asks, in the submitted notebook; 0 at the desk, where nobody needs it."""
        if not self.settings.in_job:
            return 0
        cell = current_cell()
        if cell is None:
            raise SafeError("A request was made outside the notebook's cells.", next_step="Ask in a code cell.")
        return cell

    def _checked(self, listed: RequestList) -> bytes:
        """The list as bytes that the other side will take: parsed here as it is parsed there."""
        data = listed.text().encode()
        if len(listed.requests) > MOST_REQUESTS or len(data) > LARGEST_FILE:
            raise TooManyRequests(
                f"A notebook can make {MOST_REQUESTS} requests, of {LARGEST_FILE // 1024} KiB together.",
                next_step="Ask for tables by more groups in place of many small ones, or use a second notebook.",
            )
        parse(data)
        return data


def current_cell() -> int | None:
    """The index, in the submitted notebook, of the code cell that runs now; None where there is none."""
    from opensafely_lab.notebooks import cellcount

    return cellcount.current()


_recorder: Recorder | None = None


def recorder() -> Recorder:
    """This Python's recorder; the environment is read when it is first needed."""
    global _recorder
    if _recorder is None:
        _recorder = Recorder(here())
    return _recorder


def start_anew() -> None:
    """Forget all requests and read the environment again, for tests."""
    global _recorder
    _recorder = None


def _replace(file: Path, data: bytes) -> None:
    """The file is the old list or the new one, never half of either."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".requests-")
    try:
        with os.fdopen(handle, "wb") as written:
            written.write(data)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise
