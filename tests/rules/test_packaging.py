"""What is imported is declared, what is declared is locked, and the lock names no place."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Modules whose distribution has another name.
DISTRIBUTIONS = {"yaml": "pyyaml", "zmq": "pyzmq"}
# Imported lazily by a developers' generator, never by the product.
FOR_DEVELOPERS = {"pyseccomp"}


def declared(*extras: str) -> list[Requirement]:
    project = PROJECT["project"]
    texts = [*project["dependencies"], *(t for e in extras for t in project["optional-dependencies"][e])]
    return [Requirement(text) for text in texts]


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(r.name) for r in requirements}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def test_everything_that_the_package_imports_is_a_declared_dependency():
    found = {
        (canonicalize_name(DISTRIBUTIONS.get(top, top)), str(file.relative_to(ROOT)))
        for file in (ROOT / "opensafely_lab").rglob("*.py")
        for top in {name.split(".")[0] for name in imported(file)}
        if top not in sys.stdlib_module_names and top not in {"opensafely_lab", "ehrql", *FOR_DEVELOPERS}
    }
    known = names(declared())
    assert {(name, file) for name, file in found if name not in known} == set()


def test_what_jobs_need_is_part_of_what_the_package_needs():
    assert names(declared("job")) - names(declared()) - {"attrs"} == set()


def test_the_lock_satisfies_every_declared_range_and_names_no_place():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "index-url" not in text
    locked: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, re.MULTILINE):
        locked.setdefault(canonicalize_name(name), set()).add(version)
    build = [Requirement(t) for t in PROJECT["dependency-groups"]["build"]]
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in [*declared(*extras), *build]:
        versions = locked.get(canonicalize_name(requirement.name), set())
        assert versions, f"{requirement} is not locked: make lock"
        assert all(requirement.specifier.contains(v) for v in versions), f"{requirement}, locked {versions}: make lock"


def test_every_locked_file_has_a_digest():
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
