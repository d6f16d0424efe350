"""The main job from a terminal: `up`, `submit` with another drug and date, the result at level 4 and nowhere else."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from attrs import evolve
from by_hand import HIDDEN, Table, table_in_csv, tables_by_hand, tables_in_result
from command_line import Said, Up, a_study, command
from studies import GIBLEED, ROOT

from opensafely_lab.desk import send
from opensafely_lab.desk.submit import Ask, Submission, submit
from opensafely_lab.wire.level4 import ResultDocument

pytestmark = [pytest.mark.slow, pytest.mark.sandbox]
ASKED = {"index_date": "2015-06-30", "age_bands": [30, 45, 60, 75], "drug": "ibuprofen"}
NAMESPACES = {"user", "pid", "net", "ipc", "uts", "mnt"}


def options(asked: dict[str, object]) -> list[str]:
    return [
        word
        for name, value in asked.items()
        for word in ("-p", name, value if isinstance(value, str) else json.dumps(value))
    ]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    one = Up(tmp_path_factory.mktemp("up"))
    try:
        yield one.ready()
    finally:
        one.stop()


@pytest.fixture(scope="module")
def submitted(up: Up) -> Said:
    return up.submit("bleeding", *options(ASKED))


@pytest.fixture(scope="module")
def job(submitted: Said) -> str:
    assert submitted.code == 0, submitted.err
    (found,) = re.findall(r"^Job ([a-z0-9]{16}):", submitted.out, re.MULTILINE)
    return found


@pytest.fixture(scope="module")
def result(up: Up, job: str) -> ResultDocument:
    return up.level4.result(job)


def test_every_number_at_level_4_is_the_hand_written_querys_after_redaction(result: ResultDocument) -> None:
    wanted = tables_by_hand(GIBLEED, ASKED)
    assert tables_in_result(result.notebook) == wanted
    assert all(HIDDEN in table.values() and len(set(table.values())) > 4 for table in wanted.values())
    recorded = {
        output["name"]: {(age, sex): count for age, sex, count in output["table"]["rows"]}
        for output in json.loads(result.disclosure)["outputs"]
        if output["kind"] == "table"
    }
    assert recorded == wanted


def test_the_run_was_the_sandboxs_with_every_layer(up: Up, job: str) -> None:
    with sqlite3.connect(up.state.folder / "backend" / "backend.sqlite") as backend:
        runs = backend.execute("select executor, layers, end from attempts where job = ?", (job,)).fetchall()
    ((executor, layers, end),) = runs
    assert (executor, end) == ("sandbox", "done")
    in_force = json.loads(layers)
    assert set(in_force["namespaces"].split()) >= NAMESPACES
    assert in_force["seccomp"] == "2"  # a filter
    assert in_force["no_new_privs"] == "1"
    assert int(in_force["capabilities"], 16) == 0
    assert int(in_force["host_uid"]) != 0
    assert in_force["memory"]
    beat = up.level4.health()
    assert (beat.executor, beat.ready) == ("sandbox", True)


def rows_in(folder: Path, table: Table, *, skip: tuple[str, ...] = ()) -> list[str]:
    """Where a shown row of the table (its labels, then its number) stands, in whatever notation."""
    shown = {cell: n for cell, n in table.items() if n != HIDDEN}
    patterns = [
        re.compile(
            rb"(?<!\w)%b\W{1,40}%b\W{1,40}%b(?!\w)" % (*(re.escape(label.encode()) for label in cell), n.encode())
        )
        for cell, n in shown.items()
    ]
    return [
        f"{path.relative_to(folder)}: {found.group().decode(errors='replace')}"
        for path in files_below(folder, skip)
        for pattern in patterns
        for found in pattern.finditer(path.read_bytes())
    ]


def files_below(folder: Path, skip: tuple[str, ...]) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not set(skip) & set(path.relative_to(folder).parts):
            yield path


def test_neither_site_nor_desk_has_a_row_of_the_result_or_a_patient(
    up: Up, result: ResultDocument, submitted: Said
) -> None:
    state = up.state.folder
    numbers = tables_by_hand(GIBLEED, ASKED)["people prescribed"]
    assert rows_in(state / "backend", numbers) != []  # the search finds what is there
    assert rows_in(up.folder, numbers, skip=("backend",)) == []
    assert not any(n in submitted.out + submitted.err for n in numbers.values())

    born = duckdb.sql(f"select distinct cast(date_of_birth as varchar) from '{GIBLEED}/patients.parquet'").fetchall()
    dates = re.compile("|".join(date for (date,) in born).encode())
    # The study's own dummy tables, and the commit that was sent, are made up and were never near a record.
    for path in files_below(up.folder, ("backend", "study", "bundles")):
        assert dates.search(path.read_bytes()) is None, path


def again(up: Up, key: str) -> Submission:
    """Submit the same from this process, under a key of ours."""
    ask = Ask(up.study, "bleeding", dict(ASKED), from_text=False)
    ports = evolve(send.ports(up.state), new_key=lambda: key)
    return submit(ask, ports, lambda *_: None)


def test_the_same_request_twice_is_one_job_and_needs_no_second_dummy_run(up: Up, job: str, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for git's filter, where the package is not installed
    first = again(up, "the-same-key-both-times")
    second = again(up, "the-same-key-both-times")
    assert first.dummy_reused
    assert second.dummy_reused
    assert [j.id for j in first.jobs] == [j.id for j in second.jobs]
    assert {j.id for j in up.client.jobs("gi-bleeding")} == {job, first.jobs[0].id}
    up.client.cancel(first.jobs[0].id)


@pytest.mark.parametrize("asked", [{}, {"index_date": "2019-03-31", "age_bands": [50], "drug": "naproxen"}])
def test_run_on_the_demo_records_shows_the_hand_written_querys_numbers(
    tmp_path: Path, asked: dict[str, object]
) -> None:
    check_run(tmp_path, GIBLEED, asked)


def test_run_on_other_records_shows_the_hand_written_querys_numbers(tmp_path: Path) -> None:
    given = os.environ.get("OSL_SYNTHEA_SMART")
    if not given:
        pytest.skip("OSL_SYNTHEA_SMART is not set: it names a folder with the second data set")
    check_run(tmp_path, Path(given), {"index_date": "2017-02-28", "drug": "naproxen"})


def check_run(folder: Path, records: Path, asked: dict[str, object]) -> None:
    folder.chmod(0o755)
    study, out = a_study(folder / "study"), folder / "out"
    words = ["--project", study, "--data", records, "--out", out, "--state", folder / "state", *options(asked)]
    said = command(folder, "run", "bleeding", *words)
    assert said.code == 4, said.err  # the cell that looks at the data is held
    wanted = tables_by_hand(records, asked)
    assert tables_in_result((out / "result.ipynb").read_text()) == wanted
    in_csv = {path.stem[3:].replace("-", " "): table_in_csv(path.read_text()) for path in (out / "tables").iterdir()}
    assert in_csv == wanted
    shown = {n for table in wanted.values() for n in table.values()}
    assert HIDDEN in shown
    assert len(shown) > 5
    assert not any(rows_in(folder / "state", table) for table in wanted.values())
