"""Collecting from a tree that an attacker made, also while he still changes it."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opensafely_lab.jobs.outputs import Caps, Collected, collect, open_beneath

Collect = Callable[..., Collected]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    return made


@pytest.fixture(params=[True, False], ids=["openat2", "name by name"])
def collecting(request: pytest.FixtureRequest, tree: Path, tmp_path: Path) -> Collect:
    def into_new_folder(caps: Caps | None = None, *, owner: int | None = None, name: str = "target") -> Collected:
        target = tmp_path / name
        target.mkdir()
        opened = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return collect(str(tree), opened, caps or Caps(), owner=owner, openat2=request.param)
        finally:
            os.close(opened)

    return into_new_folder


def test_only_bytes_travel(tree, collecting, tmp_path):
    (tree / "a.csv").write_text("1")
    (tree / "a.csv").chmod(0o6777)
    os.utime(tree / "a.csv", (0, 2**33))
    kept = collecting().kept
    copy = tmp_path / "target" / "outputs" / "a.csv"
    assert [(file.path, file.size) for file in kept] == [("outputs/a.csv", 1)]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert abs(copy.stat().st_mtime - time.time()) < 60


def test_nothing_but_plain_files_is_taken_and_nothing_blocks(tree, collecting, tmp_path):
    (tmp_path / "secret.csv").write_text("secret")
    (tree / "link.csv").symlink_to(tmp_path / "secret.csv")
    (tree / "folder").symlink_to(tmp_path)
    (tree / "loop.csv").symlink_to("loop.csv")
    os.mkfifo(tree / "fifo.csv")
    (tree / "plain.csv").write_text("1")
    os.link(tree / "plain.csv", tree / "hard.csv")
    bound = socket.socket(socket.AF_UNIX)
    here = os.open(tree, os.O_RDONLY)
    bound.bind(f"/proc/self/fd/{here}/sock.csv")
    if os.geteuid() == 0:
        os.mknod(tree / "device.csv", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    began = time.monotonic()
    result = collecting()
    assert time.monotonic() - began < 20
    assert result.kept == []
    reasons = {refusal.reason for refusal in result.refused}
    assert reasons == {"link", "not a regular file", "hard link", "socket"}
    os.close(here)
    bound.close()


def test_a_file_of_somebody_else_is_refused(tree, collecting):
    (tree / "a.csv").write_text("1")
    assert [refusal.reason for refusal in collecting(owner=os.getuid() + 1).refused] == ["owner"]


@pytest.mark.parametrize(
    "name",
    [
        "new\nline.csv",
        "esc\x1b[31m.csv",
        "r\u202egnp.csv",
        "-rf.csv",
        ".csv",
        "..x.csv",
        "a" * 200 + ".csv",
        "ü.csv",
        "x ",
        "x;y.csv",
    ],
)
def test_a_name_that_is_not_plain_is_refused_and_quoted(tree, collecting, name):
    (tree / name).write_text("1")
    result = collecting()
    assert [refusal.reason for refusal in result.refused] == ["name"]
    assert all(character.isprintable() and character.isascii() for character in result.refused[0].path)


def test_names_that_are_no_text_at_all_are_refused(tree, collecting):
    (Path(os.fsdecode(os.fsencode(tree) + b"/\xff\xfe.csv"))).write_text("1")
    assert [refusal.path for refusal in collecting().refused] == [r"'\udcff\udcfe.csv'"]


def test_names_that_differ_by_case_alone_are_one_too_many(tree, collecting):
    (tree / "a.csv").write_text("1")
    (tree / "A.csv").write_text("2")
    result = collecting()
    assert (len(result.kept), result.refused[0].reason) == (1, "same name but for case")


@pytest.mark.parametrize(
    ("caps", "kept", "reason"),
    [
        (Caps(files=3), 3, "count"),
        (Caps(file_bytes=99), 0, "size"),
        (Caps(total_bytes=250), 2, "size"),
        (Caps(entries=4), 4, None),
    ],
)
def test_every_cap_holds(tree, collecting, caps, kept, reason):
    for number in range(10):
        (tree / f"{number}.csv").write_bytes(b"x" * 100)
    result = collecting(caps)
    assert len(result.kept) == kept
    assert {refusal.reason for refusal in result.refused} == ({reason} if reason else set())
    assert result.cut_short is (reason is None)


def test_depth_is_capped(tree, collecting):
    deep = tree
    for _ in range(6):
        deep = deep / "d"
        deep.mkdir()
        (deep / "x.csv").write_text("1")
    result = collecting(Caps(depth=3))
    assert [file.path for file in sorted(result.kept)] == ["outputs/d/d/x.csv", "outputs/d/x.csv"]


def test_a_sparse_file_costs_nothing(tree, collecting):
    with (tree / "sparse.csv").open("wb") as file:
        file.truncate(1 << 40)
    assert collecting().kept == []


def test_control_files_are_taken_by_name_and_never_followed(tree, collecting, tmp_path):
    (tmp_path / "secret.json").write_text("secret")
    (tree / ".osl").mkdir()
    (tree / ".osl" / "status.json").write_text("{}")
    (tree / ".osl" / "requests.json").symlink_to(tmp_path / "secret.json")
    (tree / ".osl" / "other.json").write_text("{}")
    (tree / ".osl" / "cells.json").write_bytes(b"x" * (2 << 20))
    (tree / ".osl" / "error.json").mkdir()
    result = collecting()
    assert [file.path for file in result.kept] == ["control/status.json"]
    assert {refusal.path: refusal.reason for refusal in result.refused} == {
        ".osl/requests.json".__repr__(): "link",
        ".osl/cells.json".__repr__(): "size",
        ".osl/error.json".__repr__(): "not a regular file",
    }


def test_a_control_folder_that_is_a_link_does_not_exist_for_us(tree, collecting, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "status.json").write_text("{}")
    (tree / ".osl").symlink_to(tmp_path / "real")
    assert collecting().kept == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_mount_point_is_not_entered(tree, tmp_path):
    libc = ctypes.CDLL(None)
    (tree / "mounted").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.csv").write_text("secret")
    if libc.mount(str(tmp_path / "elsewhere").encode(), str(tree / "mounted").encode(), None, 4096, None) != 0:
        pytest.skip("mounting is not allowed here")
    try:
        target = tmp_path / "target"
        target.mkdir()
        opened = os.open(target, os.O_RDONLY)
        result = collect(str(tree), opened, Caps())
        os.close(opened)
    finally:
        libc.umount2(str(tree / "mounted").encode(), 2)
    assert (result.kept, [refusal.reason for refusal in result.refused]) == ([], ["other filesystem"])


SWAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
one, two = sys.argv[1].encode(), sys.argv[2].encode()
print("ready", flush=True)
while os.getppid() != 1:
    libc.renameat2(-100, one, -100, two, 2)  # RENAME_EXCHANGE
"""


def test_a_link_swapped_in_while_we_look_is_never_followed(tree, collecting, tmp_path):
    """The naive islink()-then-open() loses this race, which proves that it is one."""
    (tmp_path / "secret.csv").write_text("secret")
    (tree / "data.csv").write_text("harmless")
    (tree / "zlink.csv").symlink_to(tmp_path / "secret.csv")
    words = [sys.executable, "-c", SWAPPER, str(tree / "data.csv"), str(tree / "zlink.csv")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as swapper:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        try:
            end = time.monotonic() + 1.0
            taken, rounds = set(), 0
            while time.monotonic() < end or rounds < 20:
                rounds += 1
                for file in collecting(name=f"target{rounds}").kept:
                    taken.add((tmp_path / f"target{rounds}" / file.path).read_text())
            fooled = naive_reads(tree / "data.csv", 30.0)
        finally:
            swapper.kill()
    assert taken == {"harmless"}
    assert "secret" in fooled


def naive_reads(path: Path, seconds: float) -> set[str]:
    seen, end = set(), time.monotonic() + seconds
    while time.monotonic() < end and "secret" not in seen:
        if not path.is_symlink():
            seen.add(path.read_text())
    return seen


def test_dots_lead_nowhere(tree):
    opened = os.open(tree, os.O_RDONLY)
    with pytest.raises(OSError):
        open_beneath(opened, "..")
    os.close(opened)
