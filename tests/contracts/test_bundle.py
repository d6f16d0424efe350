"""A bundle carries one commit's files, proved by their digests, and nothing else."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import time
import zlib
from pathlib import Path

import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opensafely_lab.errors import LabError, PlatformError
from opensafely_lab.jobs import bundle
from opensafely_lab.jobs.bundle import BundleError, CommitMissing


def git(folder: Path, *words: str, given: bytes | None = None) -> str:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"]
    done = subprocess.run(
        ["git", *identity, *words], cwd=folder, env=environment, input=given, check=True, capture_output=True
    )
    return done.stdout.decode().strip()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    (folder / "analysis").mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / "project.yaml").write_text("version: 5\n")
    (folder / "old-secret.txt").write_text("in history only")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    (folder / "old-secret.txt").unlink()
    (folder / "analysis" / "a b é.py").write_text("print(1)\n" * 100)
    (folder / "analysis" / "same.py").write_text("print(1)\n" * 100)
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "empty").write_bytes(b"")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "second")
    return folder


def head(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD")


def test_what_is_unpacked_is_the_commits_files_and_nothing_else(study: Path, tmp_path: Path) -> None:
    commit = head(study)
    data = bundle.make(study, commit)
    into = tmp_path / "checkout"
    found = bundle.unpack(data, commit, into)
    assert found.tree == git(study, "rev-parse", "HEAD^{tree}")
    unpacked = {str(p.relative_to(into)): p.read_bytes() for p in into.rglob("*") if p.is_file()}
    assert unpacked == {
        str(p.relative_to(study)): p.read_bytes() for p in study.rglob("*") if p.is_file() and ".git" not in p.parts
    }
    assert (into / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (into / "empty").stat().st_mode & 0o777 == 0o644
    assert (into / "analysis").stat().st_mode & 0o777 == 0o755
    assert not list(tmp_path.glob("*.part"))


def test_no_history_rides_along_and_equal_commits_give_equal_bytes(study: Path) -> None:
    data = bundle.make(study, head(study))
    assert data == bundle.make(study, head(study))
    objects = bundle._objects(bundle._after_header(data, head(study)))
    assert b"in history only" not in [o.data for o in objects.values()]
    assert len([o for o in objects.values() if o.kind == 1]) == 1


def test_git_itself_reads_the_bundle(study: Path, tmp_path: Path) -> None:
    commit = head(study)
    (tmp_path / "b.bundle").write_bytes(bundle.make(study, commit))
    clone = tmp_path / "clone"
    clone.mkdir()
    git(clone, "init", "-q")
    (clone / ".git" / "shallow").write_text(commit + "\n")
    git(clone, "bundle", "unbundle", str(tmp_path / "b.bundle"))
    git(clone, "checkout", "-q", commit)
    assert head(clone) == commit
    git(clone, "fsck", "--strict")
    assert (clone / "run.sh").exists()


def test_a_shallow_clone_makes_the_same_bundle(study: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{study}", "shallow")
    assert bundle.make(tmp_path / "shallow", head(study)) == bundle.make(study, head(study))


def test_an_older_commit_can_be_sent(study: Path) -> None:
    commit = git(study, "rev-parse", "HEAD~1")
    assert set(bundle.read(bundle.make(study, commit), commit).files) == {"project.yaml", "old-secret.txt"}


def test_a_commit_that_the_clone_lacks_is_a_sentence(study: Path, tmp_path: Path) -> None:
    with pytest.raises(CommitMissing, match="does not hold commit 1111111"):
        bundle.make(study, "1" * 40)
    git(study, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{study}", "partial")
    with pytest.raises(CommitMissing, match=r"only a part|does not hold"):
        bundle.make(tmp_path / "partial", head(study))


def test_replaced_objects_do_not_change_what_is_sent(study: Path) -> None:
    commit = head(study)
    wanted = bundle.make(study, commit)
    git(study, "replace", commit, git(study, "rev-parse", "HEAD~1"))
    assert bundle.make(study, commit) == wanted


def test_links_submodules_and_large_files_are_named_before_anything_is_sent(study: Path, monkeypatch) -> None:
    (study / "link").symlink_to("/etc/passwd")
    git(study, "add", "-A")
    git(study, "commit", "-qm", "link")
    with pytest.raises(BundleError, match="a symbolic link: link"):
        bundle.make(study, head(study))
    git(study, "rm", "-qf", "link")
    git(study, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub")
    git(study, "commit", "-qm", "sub")
    with pytest.raises(BundleError, match="a submodule: sub"):
        bundle.make(study, head(study))
    monkeypatch.setattr(bundle, "MAX_FILE", 100)
    with pytest.raises(BundleError, match=r"a b é\.py is 0 MB"):
        bundle.make(study, git(study, "rev-parse", "HEAD~2"))


def test_hooks_filters_and_config_of_the_study_do_not_run(study: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for key in ("core.fsmonitor", "filter.x.smudge", "filter.x.clean", "core.pager", "uploadpack.packObjectsHook"):
        git(study, "config", key, f"touch {mark}")
    (study / ".git" / "info" / "attributes").write_text("* filter=x\n")
    (study / ".gitattributes").write_text("* filter=x export-ignore\n")
    for name in ("post-checkout", "pre-commit", "reference-transaction", "post-index-change"):
        hook = study / ".git" / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
        hook.chmod(0o755)
    commit = head(study)
    bundle.unpack(bundle.make(study, commit), commit, tmp_path / "into")
    assert not mark.exists()


def test_without_git_there_is_a_sentence(study: Path, monkeypatch) -> None:
    commit = head(study)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(PlatformError, match="git is not installed"):
        bundle.make(study, commit)


# Bundles made by hand, as an attacker would.


def packed(objects: list[tuple[int, bytes]], *, count: int | None = None) -> bytes:
    body = b"PACK" + struct.pack(">II", 2, len(objects) if count is None else count)
    for kind, data in objects:
        size = len(data)
        byte, size = (kind << 4) | (size & 15), size >> 4
        while size:
            body += bytes([byte | 0x80])
            byte, size = size & 0x7F, size >> 7
        body += bytes([byte]) + zlib.compress(data)
    return body + hashlib.sha1(body).digest()


def oid(kind: str, data: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()


def forged(entries: list[tuple[bytes, bytes, str]], extra: list[tuple[int, bytes]] | None = None) -> tuple[bytes, str]:
    """A bundle whose root tree has these (mode, name, id) entries; `extra` objects beside it."""
    tree = b"".join(mode + b" " + name + b"\0" + bytes.fromhex(sha) for mode, name, sha in entries)
    commit = f"tree {oid('tree', tree)}\nauthor A <a> 0 +0000\n\nx".encode()
    sha = oid("commit", commit)
    return b"# v2 git bundle\n" + f"{sha} {bundle.REF}\n\n".encode() + packed(
        [(1, commit), (2, tree), *(extra or [])]
    ), sha  # fmt: skip


BLOB = b"content"
BLOB_ID = oid("blob", BLOB)


@pytest.mark.parametrize(
    ("mode", "name", "told"),
    [
        (b"100644", b"..", "impossible name"),
        (b"100644", b".", "impossible name"),
        (b"100644", b"", "could not have made|impossible name"),
        (b"100644", b"a/b", "impossible name"),
        (b"100644", b"../../etc/cron.d/x", "impossible name"),
        (b"100644", b"/etc/x", "impossible name"),
        (b"100644", b"a\\b", "impossible name"),
        (b"100644", b".git", "poses as git's own"),
        (b"100644", b".GIT", "poses as git's own"),
        (b"100644", b".git. ", "poses as git's own"),
        (b"100644", ".g\u200cit".encode(), "poses as git's own"),
        (b"100644", b"a\nb", "control character"),
        (b"100644", b"\xff", "not UTF-8"),
        (b"100644", b"x" * 300, "impossible name"),
        (b"100644", b"x" * 3000, "could not have made"),
        (b"120000", b"link", "symbolic link"),
        (b"160000", b"sub", "submodule"),
        (b"010000", b"pipe", "no file"),
    ],
)
def test_a_tree_with_anything_but_plain_files_is_refused(tmp_path, mode, name, told):
    data, commit = forged([(mode, name, BLOB_ID)], [(3, BLOB)])
    with pytest.raises(BundleError, match=told):
        bundle.read(data, commit)
    with pytest.raises(BundleError, match=told):
        bundle.unpack(data, commit, tmp_path / "into")
    assert list(tmp_path.iterdir()) == []


def test_a_forged_bundle_with_sane_content_is_read():
    data, commit = forged([(b"100644", b"a.txt", BLOB_ID)], [(3, BLOB)])
    assert bundle.read(data, commit).files == {"a.txt": BLOB}


def test_a_bundle_of_another_commit_a_damaged_one_or_one_with_passengers_is_refused():
    data, commit = forged([(b"100644", b"a.txt", BLOB_ID)], [(3, BLOB)])
    with pytest.raises(BundleError, match="not of commit 2222222"):
        bundle.read(data, "2" * 40)
    with pytest.raises(BundleError, match="does not hold commit"):
        bundle.read(data.replace(commit.encode(), b"2" * 40), "2" * 40)
    with pytest.raises(BundleError, match="damaged"):
        bundle.read(data[:-30] + b"x" + data[-29:], commit)
    for extra, told in [
        ([(3, BLOB), (3, b"passenger")], "more than the one commit"),
        ([(3, BLOB), (3, BLOB)], "an object twice"),
        ([], "not hold all"),
        ([(4, BLOB)], "tags or deltas"),
        ([(7, BLOB)], "tags or deltas"),
    ]:
        made, sha = forged([(b"100644", b"a.txt", BLOB_ID)], extra)
        with pytest.raises(BundleError, match=told):
            bundle.read(made, sha)
    with pytest.raises(BundleError, match="two files of one name"):
        bundle.read(*forged([(b"100644", b"a", BLOB_ID), (b"100755", b"a", BLOB_ID)], [(3, BLOB)]))
    with pytest.raises(BundleError, match="not a git bundle"):
        bundle.read(data.replace(b"# v2", b"# v3"), commit)
    with pytest.raises(BundleError, match="not of commit"):
        bundle.read(data.replace(b"bundle\n", b"bundle\n-" + b"1" * 40 + b"\n"), commit)


def test_bombs_are_refused_in_bounded_time_and_memory(monkeypatch):
    began = time.process_time()
    data, commit = forged([(b"100644", b"a", oid("blob", b"\0" * 33_554_433))], [(3, b"\0" * 33_554_433)])
    with pytest.raises(BundleError, match="larger than 128 MB together, or one of them than 32 MB"):
        bundle.read(data, commit)
    # One blob of 16 MB, named two hundred times.
    big = b"\0" * (1 << 24)
    names = [(b"100644", b"f%03d" % n, oid("blob", big)) for n in range(200)]
    with pytest.raises(BundleError, match="larger than 128 MB"):
        bundle.read(*forged(names, [(3, big)]))
    # Ten trees, each with ten times the next one: ten thousand million files.
    trees: list[tuple[int, bytes]] = [(3, BLOB)]
    below, mode = BLOB_ID, b"100644"
    for _ in range(10):
        tree = b"".join(mode + b" d%d\0" % n + bytes.fromhex(below) for n in range(10))
        trees.append((2, tree))
        below, mode = oid("tree", tree), b"40000"
    with pytest.raises(BundleError, match="more than 10000 files and folders"):
        bundle.read(*forged([(b"40000", b"d%d" % n, below) for n in range(10)], trees))
    # A folder in a folder in a folder.
    trees, below, mode = [(3, BLOB)], BLOB_ID, b"100644"
    for _ in range(40):
        tree = mode + b" d\0" + bytes.fromhex(below)
        trees.append((2, tree))
        below, mode = oid("tree", tree), b"40000"
    with pytest.raises(BundleError, match="32 levels deep"):
        bundle.read(*forged([(b"40000", b"d", below)], trees))
    with pytest.raises(BundleError, match="the limit is 32 MB"):
        bundle.read(b"x" * (bundle.MAX_BUNDLE + 1), commit)
    lying = b"# v2 git bundle\n" + f"{commit} {bundle.REF}\n\n".encode() + packed([], count=4_000_000_000)
    with pytest.raises(BundleError, match="more than 10000"):
        bundle.read(lying, commit)
    assert time.process_time() - began < 10


def test_an_object_that_lies_about_its_size_is_refused():
    head_ = b"PACK" + struct.pack(">II", 2, 1) + bytes([(3 << 4) | 5])
    for content, told in [(b"x" * 100_000, "larger than it says"), (b"x", "smaller than it says")]:
        body = head_ + zlib.compress(content)
        data = b"# v2 git bundle\n" + f"{'1' * 40} {bundle.REF}\n\n".encode() + body + hashlib.sha1(body).digest()
        with pytest.raises(BundleError, match=told):
            bundle.read(data, "1" * 40)


def test_a_disk_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    data, commit = forged([(b"100644", b"a.txt", BLOB_ID)], [(3, BLOB)])
    with pytest.raises(PlatformError, match="could not be written"):
        bundle.unpack(data, commit, tmp_path / "missing" / "into")
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "precious").write_text("x")
    with pytest.raises(PlatformError, match="could not be written"):
        bundle.unpack(data, commit, tmp_path / "into")
    assert (tmp_path / "into" / "precious").read_text() == "x"
    assert [p.name for p in tmp_path.iterdir()] == ["into"]


@settings(deadline=None, max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 400))
def test_rubbish_in_a_bundle_gives_a_sentence_and_never_another_error(junk, at):
    data, commit = forged([(b"100644", b"a.txt", BLOB_ID)], [(3, BLOB)])
    body = bytearray(data[:-20])
    body[at : at + len(junk)] = junk
    start = body.find(b"PACK")
    sealed = bytes(body) + hashlib.sha1(bytes(body[start:])).digest()
    for made in (junk, sealed):
        try:
            found = bundle.read(made, commit)
        except LabError:
            continue
        assert found.files == {"a.txt": BLOB}
