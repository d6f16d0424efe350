"""git's clean filter for notebooks: output stays on this computer and out of every commit.

git gives a file's bytes on stdin and commits what comes out. What is no notebook goes through
unchanged, with a warning: a filter must never lose what somebody wrote. (A notebook with output that
slips through is still refused at submit, where the committed bytes are judged.)
"""

from __future__ import annotations

import shlex
import sys
from typing import BinaryIO, TextIO

from opensafely_lab.notebooks.source import NotebookError, strip

NAME = "opensafely-strip"
ATTRIBUTE = f"*.ipynb filter={NAME}"


def stripped(data: bytes) -> tuple[bytes, str]:
    """What git shall commit for `data`, and a warning ("" if there is none)."""
    if not data.strip():
        return data, ""
    try:
        return strip(data), ""
    except NotebookError as error:
        return data, f"opensafely-lab: committed as it is, output included. {error.sentence}"


def run(stdin: BinaryIO, stdout: BinaryIO, stderr: TextIO) -> int:
    """The whole of `opensafely-lab strip-outputs`."""
    data, warning = stripped(stdin.read())
    stdout.write(data)
    stdout.flush()
    if warning:
        stderr.write(warning + "\n")
    return 0


def filter_command() -> str:
    """The command as git shall call it: with this very Python, wherever git is called from.

    `-P`, because git calls it in the study's folder: a `json.py` there is not ours.
    """
    return f"{shlex.quote(sys.executable)} -P -m opensafely_lab.desk.stripfilter"


if __name__ == "__main__":
    sys.exit(run(sys.stdin.buffer, sys.stdout.buffer, sys.stderr))
