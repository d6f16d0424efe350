"""What an author is shown goes into a folder that holds it, all of it, and nothing else."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath

import pytest

from opensafely_lab.disclosure.outcome import Outcome, ShownTable, Treatment, Verdict
from opensafely_lab.disclosure.policy import OPENSAFELY
from opensafely_lab.pipeline.shown import OutNotEmpty, OutNotWritable, Shown, check_out, lay_out, write

SHOWN = Shown(
    (
        (PurePosixPath("result.ipynb"), b"{}"),
        (PurePosixPath("tables/01-by-sex.csv"), b"sex,count\n"),
        (PurePosixPath("figures/02-bars.png"), b"\x89PNG"),
        (PurePosixPath("disclosure.json"), b"[]"),
    ),
    held=False,
)


def outcome(number: int, name: str, verdict: Verdict = Verdict.VERIFIED) -> Outcome:
    table = ShownTable(("sex", "count"), 1, (("female", "10"),)) if verdict is not Verdict.HELD else None
    return Outcome(number, name, "table", 1, verdict, Treatment.ROUNDED, "Counts are rounded.", table)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- which files there are


def test_the_files_are_the_result_each_table_and_the_record() -> None:
    outcomes = [outcome(0, "By sex"), outcome(1, "../../etc")]
    made = lay_out(b"{}", outcomes, policy=OPENSAFELY, dummy=True, placeholders=())
    names = [str(name) for name, _ in made.files]
    assert names == ["result.ipynb", "tables/01-by-sex.csv", "tables/02-etc.csv", "disclosure.json"]
    assert made.file(PurePosixPath("tables/01-by-sex.csv")) == b"sex,count\nfemale,10\n"
    assert made.notebook == b"{}"
    assert not made.held


@pytest.mark.parametrize(
    ("outcomes", "placeholders", "held"),
    [
        ((), (), False),
        ((outcome(0, "a"),), (3,), True),
        ((outcome(0, "a", Verdict.HELD),), (), True),
        ((outcome(0, "a"),), (), False),
    ],
)
def test_something_is_held_where_the_gate_held_it_or_a_cell_wrote_by_itself(
    outcomes: tuple[Outcome, ...], placeholders: tuple[int, ...], held: bool
) -> None:
    assert lay_out(b"{}", outcomes, policy=OPENSAFELY, dummy=False, placeholders=placeholders).held is held


# --- where they go


def test_the_folder_may_be_new_or_empty(tmp_path: Path) -> None:
    check_out(tmp_path / "new")
    check_out(tmp_path)
    (tmp_path / "new" / "deep").mkdir(parents=True)
    check_out(tmp_path / "new" / "deep")


@pytest.mark.parametrize("there", ["file", "full", "hidden", "link to a folder", "link to nothing"])
def test_any_other_place_is_refused_before_anything_runs(tmp_path: Path, there: str) -> None:
    out = tmp_path / "out"
    match there:
        case "file":
            out.write_text("x")
        case "full":
            (out / "sub").mkdir(parents=True)
        case "hidden":
            out.mkdir()
            (out / ".DS_Store").touch()
        case "link to a folder":
            (tmp_path / "elsewhere").mkdir()
            out.symlink_to(tmp_path / "elsewhere")
        case "link to nothing":
            out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutNotEmpty) as refused:
        check_out(out)
    assert refused.value.next_step


@pytest.mark.parametrize("place", ["out", "new/deep/out"])
def test_the_folder_then_holds_exactly_what_is_shown(tmp_path: Path, place: str) -> None:
    write(SHOWN, tmp_path / place)
    assert files(tmp_path / place) == {str(name): data for name, data in SHOWN.files}


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("place", ["out", "new/deep/out", "."])
def test_a_full_disk_leaves_nothing_and_it_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, place: str
) -> None:
    synced = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > at:
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutNotWritable) as refused:
        write(SHOWN, tmp_path / place)
    assert refused.value.sentence == "The result could not be written to --out: No space left on device."
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    check_out(tmp_path / place)
    write(SHOWN, tmp_path / place)
    assert len(files(tmp_path / place)) == 4


def test_a_file_that_somebody_else_put_there_meanwhile_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "01-by-sex.csv").write_text("theirs")
    with pytest.raises(OutNotWritable):
        write(SHOWN, tmp_path)
    assert files(tmp_path) == {"tables/01-by-sex.csv": b"theirs"}


def test_a_place_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutNotWritable, match="Not a directory"):
        write(SHOWN, tmp_path / "file" / "out")
