"""A log of our own sentences. Bodies, tokens, query strings and the text of exceptions never get in.

An exception's text can carry what was being handled (a row, a parameter, a statement), so of an
exception we keep its class and the places in our own code that it came through.
"""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path

from opensafely_lab.errors import LabError

_HOME = Path(__file__).resolve().parent.parent
log = logging.getLogger("opensafely_lab.service")


def describe(error: BaseException) -> str:
    """What happened, without its text: class and places; of a `LabError` also its sentence, which is ours."""
    places = [
        f"{Path(frame.filename).resolve().relative_to(_HOME)}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve().is_relative_to(_HOME)
    ]
    said = f" ({error.sentence})" if isinstance(error, LabError) else ""
    return f"{type(error).__name__}{said} at {' > '.join(places) or 'unknown place'}"


class _OursAlone(logging.Filter):
    """Libraries may say that something is wrong, not what with: only our loggers write their message."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        record.exc_text = None
        record.stack_info = None
        if not record.name.startswith("opensafely_lab"):
            record.msg, record.args = "a library wrote a line, which is left out here", ()
        return True


def start_logging(file: Path | None = None) -> None:
    """All logging of this process goes to `file` (0600) or to stderr, through one filter."""
    if file is None:
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
    else:
        file.touch(mode=0o600)
        handler = logging.FileHandler(file)
    handler.addFilter(_OursAlone())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("opensafely_lab").setLevel(logging.INFO)
