"""The file system that a run sees as /: this environment's Python, and of its packages only what jobs need.

It is copied from the environment we run in: the interpreter and its standard library to `/opt/base`,
the closure of the extra `job` to `/opt/venv`, the shared libraries they load to `/lib`. There is no
shell, no setuid file and no package manager in it, and every module is compiled beforehand.

Two layers, so that changing our own source costs a second and not half a minute: `bases/DIGEST` (Python
and third-party packages) and `roots/DIGEST` (hard links to a base, plus our own package). A digest is
over names, modes and contents; it is part of the record of each run. `stamps/` remembers from which
files a root was made, by size and time, so that a warm call is a few hundred `stat`s.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from opensafely_lab.jobs import root_copy
from opensafely_lab.jobs.root_copy import SITE, RootUnbuildable

RECIPE = "5"  # changes when we would build something else from the same files
PACKAGE = Path(__file__).parents[1]
DISTRIBUTION = "opensafely-lab"

NOT_OF_OURS = {"__pycache__", "labextension", "templates", "demo", "site", "backend", "desk", "static"}
NEVER = ("debugpy", "jedi", "parso")  # debugger and completion: nobody sits at a job's kernel, and they cost its start
ALSO = ("tzdata",)  # time zones: there is no /usr/share/zoneinfo inside
KEPT_FOR = 7 * 86400  # seconds that an unused root is kept


@frozen
class JobRoot:
    """A finished root: never changed again."""

    path: Path
    digest: str

    def entries(self) -> list[tuple[str, str | None]]:
        """What stands in it: (name, target of the link or None), in order."""
        found = []
        with os.scandir(self.path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                found.append((entry.name, os.readlink(entry.path) if entry.is_symlink() else None))
        return found


def ensure_root(cache: Path) -> JobRoot:
    """The root for this environment and this source, built if it is not there.

    Several processes may ask at once: one builds, the others wait. Raises `RootUnbuildable`.
    """
    cache = cache.absolute()
    found = _remembered(cache)
    if found is None:
        with _lock(cache):
            found = _remembered(cache) or _build(cache)
    with contextlib.suppress(OSError):
        os.utime(found.path.parent)
    return found


# -- warm: is what we built still what we would build? --------------------------------------------


def _stamp_file(cache: Path) -> Path:
    key = "\n".join([RECIPE, sys.executable, str(PACKAGE)])
    return cache / "stamps" / (hashlib.sha256(key.encode()).hexdigest()[:32] + ".json")


def _stat(path: str) -> list[int] | None:
    try:
        seen = os.stat(path)
    except OSError:
        return None
    return [seen.st_mtime_ns, seen.st_size]


def _own_files() -> Iterator[tuple[str, os.stat_result]]:
    """Our own source files that go into the root, in order, by path below the package."""
    todo = [str(PACKAGE)]
    skip = len(str(PACKAGE)) + 1
    while todo:
        folder = todo.pop()
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in NOT_OF_OURS:
                        todo.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry.path[skip:], entry.stat()


def _own_stamps() -> dict[str, list[int]]:
    return {name: [seen.st_mtime_ns, seen.st_size] for name, seen in _own_files()}


def _remembered(cache: Path) -> JobRoot | None:
    try:
        stamps = json.loads(_stamp_file(cache).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    root = JobRoot(cache / "roots" / stamps["root"] / "root", stamps["root"])
    if stamps["own"] != _own_stamps() or not root.path.is_dir():
        return None
    return root if all(_stat(path) == seen for path, seen in stamps["environment"].items()) else None


def _environment_stamps(distributions: Iterable[importlib.metadata.Distribution]) -> dict[str, list[int] | None]:
    """Files that change when a package, or the interpreter, is changed by the usual tools."""
    paths = [os.path.realpath(sys.executable), os.__file__]
    for distribution in distributions:
        folder = _metadata_folder(distribution)
        paths += [str(folder), str(folder / "RECORD"), str(folder / "METADATA")]
    return {path: _stat(path) for path in paths}


@contextlib.contextmanager
def _lock(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True, mode=0o755)
    opened = os.open(cache / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


# -- which packages ---------------------------------------------------------------------------------


def job_requirements() -> list[str]:
    """The extra `job`, from the project file beside the package (a checkout) or from its metadata."""
    project = PACKAGE.parent / "pyproject.toml"
    if project.is_file():
        import tomllib

        found = tomllib.loads(project.read_text()).get("project", {})
        if found.get("name") == DISTRIBUTION:
            return list(found["optional-dependencies"]["job"])
    try:
        requires = importlib.metadata.distribution(DISTRIBUTION).requires or []
    except importlib.metadata.PackageNotFoundError:
        raise RootUnbuildable(
            "This installation of opensafely-lab does not say what jobs need.",
            next_step="Install it with pip, or run it from a checkout.",
        ) from None
    return [text for text in requires if re.search(r"extra\s*==\s*['\"]job['\"]", text)]


def closure(requirements: Iterable[str]) -> dict[str, importlib.metadata.Distribution]:
    """Everything that `requirements` need, by canonical name, as it is installed here."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, importlib.metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(Requirement(text), "job") for text in requirements]
    while todo:
        wanted, extra = todo.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(wanted.name)
        if name not in found:
            found[name] = _installed(name)
        for inner in {"", *wanted.extras}:
            if (name, inner) not in seen:
                seen.add((name, inner))
                todo += [(Requirement(text), inner) for text in found[name].requires or []]
    return dict(sorted(found.items()))


def _installed(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise RootUnbuildable(
            f"Jobs need the package {name}, which is not installed here.",
            next_step=f"Run `pip install {name}` in the environment of opensafely-lab.",
        ) from None


def job_distributions() -> dict[str, importlib.metadata.Distribution]:
    found = closure(job_requirements())
    for name in ALSO:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.setdefault(name, importlib.metadata.distribution(name))
    for name in (DISTRIBUTION, *NEVER):
        found.pop(name, None)
    return dict(sorted(found.items()))


def _metadata_folder(distribution: importlib.metadata.Distribution) -> Path:
    # importlib.metadata has no public name for the folder itself.
    return Path(str(distribution.locate_file(getattr(distribution, "_path").name)))  # noqa: B009


# -- build -------------------------------------------------------------------------------------------


def _build(cache: Path) -> JobRoot:
    distributions = job_distributions()
    own = _own_stamps()
    environment = _environment_stamps(distributions.values())
    base = _ensure_base(cache, distributions, environment)
    with _draft(cache) as draft:
        root = draft / "root"
        shutil.copytree(base / "root", root, symlinks=True, copy_function=os.link)
        _copy_own(root)
        root_copy.compile_modules(root, root / SITE / "opensafely_lab")
        digest = hashlib.sha256(
            base.name.encode() + root_copy.tree_digest(root / SITE / "opensafely_lab").encode()
        ).hexdigest()
        made = cache / "roots" / digest
        made.parent.mkdir(exist_ok=True)
        if not made.exists():
            draft.rename(made)
    project = str(PACKAGE.parent / "pyproject.toml")
    environment[project] = _stat(project)
    _remember(_stamp_file(cache), {"root": digest, "own": own, "environment": environment})
    _prune(cache)
    return JobRoot(made / "root", digest)


def _remember(path: Path, stamps: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(stamps))
    part.replace(path)


def _ensure_base(
    cache: Path, distributions: dict[str, importlib.metadata.Distribution], environment: dict[str, Any]
) -> Path:
    """Python and third-party packages; found again by the stamps of what they were copied from."""
    key = hashlib.sha256(json.dumps([RECIPE, environment], sort_keys=True).encode()).hexdigest()[:32]
    remembered = cache / "stamps" / f"base-{key}.json"
    with contextlib.suppress(FileNotFoundError, ValueError):
        found = cache / "bases" / str(json.loads(remembered.read_bytes())["base"])
        if found.is_dir():
            os.utime(found)
            return found
    with _draft(cache) as draft:
        root = draft / "root"
        root_copy.copy_python(root)
        root_copy.copy_distributions(root, distributions)
        root_copy.copy_libraries(root)
        root_copy.make_places(root)
        root_copy.list_fonts(root)
        root_copy.tidy_modes(root)
        root_copy.compile_modules(root, root / "opt")
        digest = root_copy.tree_digest(root)
        base = cache / "bases" / digest
        base.parent.mkdir(exist_ok=True)
        if not base.exists():
            draft.rename(base)
    _remember(remembered, {"base": digest})
    return base


@contextlib.contextmanager
def _draft(cache: Path) -> Iterator[Path]:
    """A new folder in the cache, gone again unless it has been renamed to its final name."""
    drafts = cache / "drafts"
    drafts.mkdir(exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=drafts))
    draft.chmod(0o755)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _copy_own(root: Path) -> None:
    site = root / SITE
    for name, _ in _own_files():
        target = site / "opensafely_lab" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / name, target)
        target.chmod(0o644)
    for folder in (PACKAGE.parent, PACKAGE / "ehrql"):
        path = folder / "opensafely_lab_ehrql.pth"
        if path.is_file():
            shutil.copyfile(path, site / path.name)
            break


def _prune(cache: Path) -> None:
    """Remove roots and bases that nobody has asked for in a week."""
    old = time.time() - KEPT_FOR
    for folder in ("roots", "bases", "drafts"):
        for path in (cache / folder).glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < old:
                    shutil.rmtree(path, ignore_errors=True)
