"""A progress bar for one run, moved by a thread, beside a link that stays in the notebook."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ipywidgets import HBox, IntProgress, Label  # type: ignore[import-untyped]

from opensafely_lab.desk.runs import ENDED
from opensafely_lab.errors import LabError
from opensafely_lab.wire.lab import RunKind, RunRow, Stage

JOB_MIME = "application/vnd.opensafely.job+json"
SECONDS_BETWEEN_LOOKS = 0.5
WORDS = {
    Stage.QUEUED: "Queued",
    Stage.DUMMY_RUN: "Running on dummy data",
    Stage.SENDING: "Sending",
    Stage.WAITING: "Waiting for the backend",
    Stage.PREPARING: "Preparing",
    Stage.EXECUTING: "Executing",
    Stage.CHECKING: "Checking for disclosure",
    Stage.DONE: "Done",
    Stage.FAILED: "Failed",
    Stage.REFUSED: "Refused",
    Stage.CANCELLED: "Cancelled",
}
STYLES = {
    Stage.DONE: "success",
    Stage.FAILED: "danger",
    Stage.REFUSED: "warning",
    Stage.CANCELLED: "warning",
}


def sentence(row: RunRow) -> str:
    """Where the run is, in words; what went wrong, if it did."""
    if row.problem is not None:
        return f"{row.problem.sentence} {row.problem.next_step}".strip()
    if row.stage is Stage.DONE:
        return "done. Its result is in the OpenSAFELY panel."
    where = "on dummy data" if row.kind is RunKind.LOCAL else "submitted"
    return f"{where}. Its result will be in the OpenSAFELY panel."


def link(row: RunRow) -> dict[str, object]:
    """The lasting record in the notebook: names and words, no number."""
    said = sentence(row)
    data = {"version": 1, "id": row.id, "action": row.action, "kind": row.kind.value, "sentence": said}
    return {JOB_MIME: data, "text/plain": f"{row.action}: {said}"}


class RunProgress:
    """A bar and a word. `show` moves them; it may be called from any thread."""

    def __init__(self, row: RunRow) -> None:
        self.bar = IntProgress(value=0, min=0, max=100, layout={"width": "240px"})
        self.word = Label()
        self.widget = HBox([self.bar, self.word])
        self.show(row)

    def show(self, row: RunRow) -> None:
        self.bar.value = round(row.progress * 100)
        self.bar.bar_style = STYLES.get(row.stage, "info")
        self.word.value = WORDS[row.stage]


def follow(row: RunRow, look: Callable[[], RunRow], display: Callable[..., Any]) -> threading.Thread:
    """Show the bar and the link in the running cell, and keep them right until the run has ended."""
    progress = RunProgress(row)
    display(progress.widget)
    handle = display(link(row), raw=True, display_id=True)

    def watch() -> None:
        now = row
        while now.stage not in ENDED:
            threading.Event().wait(SECONDS_BETWEEN_LOOKS)
            try:
                now = look()
            except LabError:
                continue  # the site is away for a moment; the panel says so
            progress.show(now)
        handle.update(link(now), raw=True)

    thread = threading.Thread(target=watch, name="opensafely-progress", daemon=True)
    thread.start()
    return thread
