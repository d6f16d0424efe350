"""Every command in README.md and docs/ is run, in order, or says why it is not.

A fenced `sh` or `python` block has one of these comments on the line above it:

    <!-- run -->              run it, in a folder of this document's own; it must succeed
    <!-- run in gi-study -->  the same, in that folder under it
    <!-- not run: reason -->  somebody else runs it, or nobody can; the reason is for the reader of the source

A block under `<!-- prints -->` lists lines that the block before it must have printed; `...` in a line
stands for anything.
"""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import frozen

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!--\s*(?P<mark>[^>]*?)\s*-->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)#\s]+)(?:#[^)]*)?\)")
RUN = {"sh", "python"}


@frozen
class Block:
    language: str
    text: str
    mark: str
    line: int


def blocks(document: Path) -> list[Block]:
    text = document.read_text()
    return [
        Block(m["language"], m["text"], m["mark"] or "", text.count("\n", 0, m.start()) + 1)
        for m in BLOCK.finditer(text)
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_command_says_whether_it_is_run(document):
    wrong = [
        f"line {b.line}: {b.mark or 'no mark'}"
        for b in blocks(document)
        if b.language in RUN and not re.fullmatch(r"run|run in \S+|not run: .+", b.mark)
    ]
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_file_that_is_linked_exists(document):
    targets = [m["target"] for m in LINK.finditer(document.read_text())]
    local = [t for t in targets if not t.startswith(("http:", "https:", "mailto:"))]
    assert [t for t in local if not (document.parent / t).exists()] == []


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if any(b.mark.startswith("run") for b in blocks(d))], ids=lambda d: d.name
)
def test_every_command_that_is_run_does_what_the_document_says(document, tmp_path):
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY_", "OPENSAFELY_LAB"))},
        "HOME": str(tmp_path),
        "OPENSAFELY_LAB_STATE": str(tmp_path / ".state"),
        "OPENSAFELY_LAB_CACHE": os.environ["OPENSAFELY_LAB_CACHE"],
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONIOENCODING": "utf-8",
    }
    printed = ""
    for block in blocks(document):
        where = f"{document.name}, line {block.line}"
        if block.mark == "prints":
            missing = [line for line in block.text.splitlines() if not was_printed(line, printed)]
            assert missing == [], f"{where}: not printed; what was: {printed}"
        elif block.mark.startswith("run"):
            folder = tmp_path / block.mark.removeprefix("run").removeprefix(" in ")
            printed = run(block, folder, environment, where)


def run(block: Block, folder: Path, environment: dict[str, str], where: str) -> str:
    command = (
        ["bash", "-euo", "pipefail", "-c", block.text] if block.language == "sh" else [sys.executable, "-c", block.text]
    )
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{where} failed with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def was_printed(line: str, printed: str) -> bool:
    pattern = line.strip().replace("[", "[[]").replace("...", "*")
    return any(fnmatch.fnmatchcase(said.strip(), pattern) for said in printed.splitlines())
