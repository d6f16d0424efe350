"""One commit in one file: a git bundle of its tree, without history.

`make` asks git for a bundle (version 2) whose pack holds the commit object, its trees and its blobs,
each whole. `read` and `unpack` do not run git at all: a pack of whole objects is zlib and SHA-1, so the
side that trusts nobody needs no git config, hook, filter, delta or checkout. What `read` checks:

1. sizes and counts, before and while anything is inflated;
2. that every object has the id by which it is named, up to the commit that was asked for;
3. that the pack holds what the commit's tree reaches and nothing else, so no history rides along;
4. that the tree holds plain files with sane names: no links, no submodules, nothing named `.git`.

Left to the caller: that the bundle's SHA-256 is the one that was authorised, and that the commit is
one of a published repository.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import subprocess
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from attrs import field, frozen

from opensafely_lab.errors import PlatformError, Refused

MB = 1 << 20
MAX_BUNDLE = 32 * MB
MAX_UNPACKED = 128 * MB
MAX_FILE = 32 * MB
MAX_ENTRIES = 10_000  # files and folders
MAX_DEPTH = 32
MAX_NAME = 255
MAX_COMMIT = 64 * 1024
REF = "refs/heads/submitted"
GIT_SECONDS = 120

_HEADER = b"# v2 git bundle\n"
_SHA = re.compile(r"[0-9a-f]{40}\Z")
_COMMIT, _TREE, _BLOB = 1, 2, 3
_KINDS = {_COMMIT: b"commit", _TREE: b"tree", _BLOB: b"blob"}
_CHUNK = 64 * 1024
# Names that some file systems take for `.git` (git's own list, CVE-2014-9390).
_GIT_NAMES = frozenset({".git", "git~1"})


class BundleError(Refused):
    """A commit that cannot be sent, or a bundle that is not what it should be."""

    code = "bundle"


class CommitMissing(BundleError):
    """The clone does not hold the commit, or not all of it."""

    code = "commit-missing"


@frozen
class CommitTree:
    """The files of one commit. `files` maps paths to bytes, in git's order."""

    commit: str
    tree: str
    files: Mapping[str, bytes] = field(repr=False)
    executables: frozenset[str] = field(default=frozenset(), repr=False)

    def file(self, path: PurePosixPath | str) -> bytes | None:
        return self.files.get(str(path))


@frozen
class _Object:
    kind: int
    data: bytes = field(repr=False)


@frozen
class _Entry:
    mode: str
    name: str
    sha: str


def make(repo: Path, commit: str) -> bytes:
    """A bundle of `commit` of the repository at `repo`; the same commit gives the same bytes.

    Works in shallow clones. Raises `BundleError`, `CommitMissing`, `PlatformError`.
    """
    if not _SHA.match(commit):
        raise BundleError("A commit is 40 hexadecimal digits.")
    try:
        tree = _git(repo, "rev-parse", "--verify", f"{commit}^{{tree}}").decode().strip()
        listing = _git(repo, "ls-tree", "-r", "-t", "-l", "-z", "--full-tree", commit)
    except _GitFailed:
        raise CommitMissing(
            f"This clone does not hold commit {commit[:7]}.", next_step="Fetch it with `git fetch`, then try again."
        ) from None
    ids = [commit, tree, *_listed(listing)]
    wanted = "\n".join(dict.fromkeys(ids)) + "\n"
    try:
        pack = _git(
            repo, "-c", "pack.compression=6", "pack-objects", "--stdout", "-q", "--threads=1",
            "--window=0", "--depth=0", "--no-reuse-delta", "--no-reuse-object", given=wanted.encode(),
        )  # fmt: skip
    except _GitFailed:
        raise CommitMissing(
            f"This clone holds only a part of commit {commit[:7]}.",
            next_step="Fetch all of it: `git fetch --refetch`, or clone anew without `--filter`.",
        ) from None
    data = _HEADER + f"{commit} {REF}\n\n".encode() + pack
    read(data, commit)
    return data


def read(data: bytes, commit: str) -> CommitTree:
    """The files of `commit`, each proved by its digest. Raises `BundleError`."""
    if len(data) > MAX_BUNDLE:
        raise BundleError(
            f"The commit takes {len(data) / MB:.0f} MB as a bundle; the limit is {MAX_BUNDLE // MB} MB.",
            next_step="Keep data, outputs and pictures out of the study's repository.",
        )
    pack = _after_header(data, commit)
    objects = _objects(pack)
    root = objects.get(commit)
    if root is None or root.kind != _COMMIT:
        raise BundleError(f"The bundle does not hold commit {commit[:7]}.")
    if len(root.data) > MAX_COMMIT:
        raise BundleError(f"The message of commit {commit[:7]} is longer than {MAX_COMMIT // 1024} kB.")
    first = root.data.split(b"\n", 1)[0]
    if not re.fullmatch(rb"tree [0-9a-f]{40}", first):
        raise BundleError("The bundle holds a commit that git could not have made.")
    tree = first[5:].decode("ascii")
    files: dict[str, bytes] = {}
    executables: set[str] = set()
    reached = {commit, tree}
    total = 0
    for path, entry in _walk(objects, tree, reached):
        files[path] = objects[entry.sha].data
        total += len(files[path])
        if total > MAX_UNPACKED:
            raise _too_much()
        if entry.mode == "100755":
            executables.add(path)
    if len(reached) != len(objects):
        raise BundleError("The bundle holds more than the one commit.")
    return CommitTree(commit, tree, files, frozenset(executables))


def unpack(data: bytes, commit: str, into: Path) -> CommitTree:
    """Write the commit's files into the new (or empty) folder `into`: all of them, or nothing.

    Plain files only, readable by everybody, so that a run under another uid can read them.
    Raises `BundleError`, `PlatformError`.
    """
    found = read(data, commit)
    part = into.with_name(into.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o755)
        part.chmod(0o755)
        for path, content in found.files.items():
            target = part / path
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise BundleError("The commit has a file with an impossible name.")  # `read` has refused it before
            for folder in [p for p in reversed(PurePosixPath(path).parents) if p.name]:
                if not (part / folder).exists():
                    (part / folder).mkdir()
                    (part / folder).chmod(0o755)
            mode = 0o755 if path in found.executables else 0o644
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), mode)
        part.rename(into)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise PlatformError(
            f"The files of commit {commit[:7]} could not be written ({error.strerror or 'an error of the disk'}).",
            next_step="Look whether the disk is full and the folder may be written.",
        ) from None
    return found


def _after_header(data: bytes, commit: str) -> bytes:
    """The pack, if the header names this commit, no other, and no prerequisite."""
    end = data.find(b"\n\n", 0, 4096)
    if not data.startswith(_HEADER) or end < 0:
        raise BundleError("The file is not a git bundle of one commit.")
    if data[len(_HEADER) : end] != f"{commit} {REF}".encode():
        raise BundleError(f"The bundle is not of commit {commit[:7]} alone.")
    return data[end + 2 :]


def _objects(pack: bytes) -> dict[str, _Object]:
    """Every object of a pack of whole objects, by its id. Bounded in number, size and time."""
    if len(pack) < 32 or pack[:8] != b"PACK\x00\x00\x00\x02":
        raise BundleError("The bundle holds no pack that can be read.")
    if hashlib.sha1(pack[:-20], usedforsecurity=False).digest() != pack[-20:]:
        raise BundleError("The bundle is damaged.", next_step="Send it again.")
    (count,) = struct.unpack(">I", pack[8:12])
    if count > 2 * MAX_ENTRIES + 2:
        raise _too_many()
    body = memoryview(pack)[12:-20]
    objects: dict[str, _Object] = {}
    at = total = 0
    for _ in range(count):
        kind, size, at = _object_head(body, at)
        total += size
        if size > MAX_FILE or total > MAX_UNPACKED:
            raise _too_much()
        content, at = _inflate(body, at, size)
        digest = hashlib.sha1(b"%s %d\x00" % (_KINDS[kind], size), usedforsecurity=False)
        digest.update(content)
        objects[digest.hexdigest()] = _Object(kind, content)
    if at != len(body):
        raise BundleError("The bundle has something after its last object.")
    if len(objects) != count:
        raise BundleError("The bundle holds an object twice.")
    return objects


def _object_head(body: memoryview, at: int) -> tuple[int, int, int]:
    """Kind, size and where the compressed bytes begin."""
    if at >= len(body):
        raise BundleError("The bundle ends too early.")
    byte = body[at]
    kind, size, shift = (byte >> 4) & 7, byte & 15, 4
    at += 1
    while byte & 0x80:
        if at >= len(body) or shift > 32:
            raise BundleError("The bundle holds an object whose size cannot be read.")
        byte = body[at]
        size |= (byte & 0x7F) << shift
        shift += 7
        at += 1
    if kind not in _KINDS:
        raise BundleError("The bundle holds objects of a kind that is not taken (tags or deltas).")
    return kind, size, at


def _inflate(body: memoryview, at: int, size: int) -> tuple[bytes, int]:
    inflater = zlib.decompressobj()
    parts: list[bytes] = []
    length = 0
    try:
        while not inflater.eof:
            given = inflater.unconsumed_tail or bytes(body[at : at + _CHUNK])
            if not given:
                raise BundleError("The bundle ends too early.")
            if not inflater.unconsumed_tail:
                at += len(given)
            part = inflater.decompress(given, max(size - length, 0) + 1)
            length += len(part)
            if length > size:
                raise BundleError("The bundle holds an object that is larger than it says.")
            parts.append(part)
    except zlib.error:
        raise BundleError("The bundle holds an object that cannot be unpacked.") from None
    if length != size:
        raise BundleError("The bundle holds an object that is smaller than it says.")
    return b"".join(parts), at - len(inflater.unused_data)


def _walk(objects: Mapping[str, _Object], tree: str, reached: set[str]) -> Iterator[tuple[str, _Entry]]:
    """Each file of a tree with its path, in order; adds the ids it meets to `reached`."""
    todo = [("", tree, 0)]
    entries = 0
    while todo:
        prefix, sha, depth = todo.pop()
        found = objects.get(sha)
        if found is None or found.kind != _TREE:
            raise BundleError("The bundle does not hold all of the commit.")
        folders = []
        for entry in _entries(found.data):
            entries += 1
            if entries > MAX_ENTRIES:
                raise _too_many()
            path = prefix + entry.name
            check_entry(entry.mode, path)
            reached.add(entry.sha)
            if entry.mode == "40000":
                if depth + 1 >= MAX_DEPTH:
                    raise BundleError(f"The commit has folders more than {MAX_DEPTH} levels deep.")
                folders.append((path + "/", entry.sha, depth + 1))
            else:
                blob = objects.get(entry.sha)
                if blob is None or blob.kind != _BLOB:
                    raise BundleError("The bundle does not hold all of the commit.")
                yield path, entry
        todo.extend(reversed(folders))


def _entries(data: bytes) -> Iterator[_Entry]:
    seen: set[str] = set()
    at = 0
    while at < len(data):
        space, end = data.find(b" ", at, at + 8), data.find(b"\x00", at, at + MAX_NAME * 4)
        if space < 0 or end < space or end + 21 > len(data):
            raise BundleError("The commit has a folder that git could not have made.")
        try:
            name = data[space + 1 : end].decode("utf-8")
            mode = data[at:space].decode("ascii")
        except UnicodeDecodeError:
            raise BundleError(
                "The commit has a file whose name is not UTF-8.", next_step="Rename it and commit."
            ) from None
        if "/" in name:
            raise BundleError("The commit has a file with an impossible name: it holds a slash.")
        if name in seen:
            raise BundleError("The commit has two files of one name.")
        seen.add(name)
        yield _Entry(mode, name, data[end + 1 : end + 21].hex())
        at = end + 21


def check_entry(mode: str, path: str) -> None:
    """Refuse what is no plain file or folder with a sane name. Raises `BundleError`."""
    name = path.rsplit("/", 1)[-1]
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in path)[-200:]
    if name in ("", ".", "..") or "/" in name or "\\" in name or len(name.encode()) > MAX_NAME:
        raise BundleError(f"The commit has a file with an impossible name: {printable}.")
    if _folded(name) in _GIT_NAMES:
        raise BundleError(f"The commit has a file that poses as git's own: {printable}.")
    if any(unicodedata.category(char) == "Cc" for char in name):
        raise BundleError(
            f"The commit has a file with a control character in its name: {printable}.",
            next_step="Rename it and commit.",
        )
    if mode == "120000":
        raise BundleError(
            f"The commit has a symbolic link: {printable}.",
            next_step="Replace it by the file it points to, and commit.",
        )
    if mode in ("160000", "160755"):
        raise BundleError(
            f"The commit has a submodule: {printable}.", next_step="Copy its files into the study, and commit."
        )
    if mode not in ("100644", "100664", "100755", "40000", "040000"):
        raise BundleError(f"The commit has something that is no file: {printable}.")


def _folded(name: str) -> str:
    """The name as Windows and macOS compare it: no case, no trailing dots, no ignorable characters."""
    visible = "".join(c for c in name if unicodedata.category(c) != "Cf")
    return visible.split(":")[0].rstrip(". ").lower()


def _listed(listing: bytes) -> Iterator[str]:
    """The ids of `git ls-tree -r -t -l -z`, refused here where the sentence can name the file."""
    total = entries = 0
    for line in listing.split(b"\x00"):
        if not line:
            continue
        head, _, name = line.partition(b"\t")
        mode, kind, sha, size = head.decode("ascii").split()
        path = name.decode("utf-8", "replace")
        entries += 1
        if entries > MAX_ENTRIES:
            raise _too_many()
        check_entry(mode, path)
        if kind == "blob":
            if size.isdigit() and int(size) > MAX_FILE:
                raise BundleError(
                    f"{path} is {int(size) / MB:.0f} MB; a file of a study may have {MAX_FILE // MB} MB.",
                    next_step="Take it out of the repository.",
                )
            total += int(size) if size.isdigit() else 0
            if total > MAX_UNPACKED:
                raise _too_much()
        yield sha


def _too_many() -> BundleError:
    return BundleError(
        f"The commit has more than {MAX_ENTRIES} files and folders.", next_step="Keep outputs out of the repository."
    )


def _too_much() -> BundleError:
    return BundleError(
        f"The commit's files are larger than {MAX_UNPACKED // MB} MB together, or one of them "
        f"than {MAX_FILE // MB} MB.",
        next_step="Keep data, outputs and pictures out of the study's repository.",
    )


class _GitFailed(Exception):
    pass


def _git(repo: Path, *words: str, given: bytes = b"") -> bytes:
    """Run git on objects alone: nobody's config but the repository's own, no network, no replaced objects."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "none",
    }
    # The folder was chosen by the person at this desk; these commands run neither hooks nor filters.
    safe = (
        "-c",
        f"safe.directory={repo.resolve()}",
        "-c",
        "core.fsmonitor=false",
        "-c",
        f"core.hooksPath={os.devnull}",
    )
    try:
        done = subprocess.run(
            ["git", *safe, *words],
            cwd=repo,
            env=environment,
            input=given,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise PlatformError("git is not installed on this computer.", next_step="Install git and try again.") from None
    except subprocess.TimeoutExpired:
        raise PlatformError(
            f"git gave no answer for {GIT_SECONDS} seconds.", next_step="Look whether the disk is busy, and try again."
        ) from None
    if done.returncode != 0:
        raise _GitFailed
    return done.stdout
