"""Nothing that names or describes one patient reaches what an author sees, whatever the notebook does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks import cases, evidence, further, judged, run, studies, traces
from attacks.cases import NEIGHBOUR, PATIENTS, Case, Run
from attacks.further import Attempt

from opensafely_lab.desk.local import RealRunFailed
from opensafely_lab.pipeline.ports import Ports

pytestmark = pytest.mark.sandbox

ATTACKS = [case for case in cases.read(cases.ATTACKS) if case.id <= "atk-30"]
BENIGN = {case.id: case for case in cases.read(cases.BENIGN)}
PASSING = ("ok-01", "ok-02", "ok-03", "ok-07", "ok-12", "ok-15")  # the others need measures other than counts
QUICK = ("atk-01",)
LAYERS = {"namespaces": "user pid net ipc uts mnt cgroup", "seccomp": "2", "no_new_privs": "1"}


def slow_but(quick: tuple[str, ...], case: Case | Attempt) -> object:
    return pytest.param(case, id=case.id, marks=() if case.id in quick else pytest.mark.slow)


class Machine:
    """State for the judged runs and a sandbox for the proofs, made once for all tests."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self._ports: Ports | None = None

    @property
    def ports(self) -> Ports:
        if self._ports is None:
            self._ports = run.ports_for_evidence(self.state)
        return self._ports


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("attacks")
    yield Machine(folder)
    shutil.rmtree(folder, ignore_errors=True)


def failed_view() -> dict[str, bytes]:
    """All that an author sees of any run that failed on real data."""
    told = RealRunFailed()
    return {
        "stdout": b"",
        "stderr": f"opensafely-lab: {told.sentence}\n{told.next_step}\n".encode(),
        "exit code": b"1",
        "sizes": b"",
    }


# -- the cases ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [slow_but(QUICK, case) for case in ATTACKS])
def test_a_leak_that_is_live_reaches_nobody(case: Case, machine: Machine, tmp_path: Path) -> None:
    report = run.run_case(case, cases.FOLDER, tmp_path, machine.state, machine.ports)
    assert report.held, run.line(report)
    if report.missing:
        pytest.skip(f"allowed: {case.id} was held, but jobs have no {report.missing[0]} to show that it leaks")
    assert report.proved, run.line(report)
    if report.reached_real_data:
        assert report.layers["executor"] == "sandbox"
        assert {name: report.layers[name] for name in LAYERS} == LAYERS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ok-11", *PASSING])
def test_a_harmless_notebook_passes_unharmed(name: str, machine: Machine, tmp_path: Path) -> None:
    report = run.run_benign(BENIGN[name], cases.FOLDER, tmp_path, machine.state)
    assert report.fine, run.line(report)
    assert report.reached_real_data


# -- one bit -----------------------------------------------------------------------------------------------


def judge(attempt: Attempt, name: str, machine: Machine, room: Path) -> judged.Judged:
    """The attempt on one of the files. That it met real data at all says that it is quiet on dummy rows."""
    one = judged.judge(attempt.case.runs[0], cases.FOLDER / name, room / name, machine.state)
    assert one.was_real, one.stderr.decode()
    assert not one.not_removed, "level 3 bytes of a run were left behind"
    assert not one.traces(traces.of_case(attempt.case, sources=one.sources))
    return one


@pytest.mark.slow
@pytest.mark.parametrize("attempt", further.SILENT, ids=lambda attempt: attempt.id)
def test_what_a_cell_does_by_itself_changes_no_byte_that_its_author_sees(
    attempt: Attempt, machine: Machine, tmp_path: Path
) -> None:
    with_target = judge(attempt, PATIENTS, machine, tmp_path)
    without = judge(attempt, NEIGHBOUR, machine, tmp_path)
    assert without.exit_code in (0, 4), without.stderr.decode()
    assert run.differences(with_target, without) == [], with_target.stderr.decode()
    proof = evidence.prove(
        attempt.case, attempt.case.runs[0], with_target, cases.FOLDER / PATIENTS, tmp_path / "proof", machine.ports
    )
    assert proof.live, proof.how


@pytest.mark.parametrize("attempt", [slow_but((), attempt) for attempt in further.FAILS])
def test_a_run_that_fails_says_so_in_the_same_words_whatever_the_reason(
    attempt: Attempt, machine: Machine, tmp_path: Path
) -> None:
    assert judge(attempt, PATIENTS, machine, tmp_path).seen == failed_view()


@pytest.mark.slow
@pytest.mark.parametrize("attempt", further.EITHER, ids=lambda attempt: attempt.id)
def test_what_meddles_with_the_run_itself_fails_it_or_changes_nothing(
    attempt: Attempt, machine: Machine, tmp_path: Path
) -> None:
    with_target = judge(attempt, PATIENTS, machine, tmp_path)
    if with_target.seen != failed_view():
        assert run.differences(with_target, judge(attempt, NEIGHBOUR, machine, tmp_path)) == []


@pytest.mark.slow
def test_a_notebook_that_patches_the_product_changes_no_number(machine: Machine, tmp_path: Path) -> None:
    attempt = next(attempt for attempt in further.SILENT if attempt.id == "fur-10")
    one = judged.judge(attempt.case.runs[0], cases.FOLDER / PATIENTS, tmp_path, machine.state)
    (output,) = one.outputs
    shown = {tuple(row[:-1]): row[-1] for row in output["table"]["rows"]}
    assert {key: shown[key] for key in further.SHOWN} == further.SHOWN


@pytest.mark.slow
@pytest.mark.parametrize("name", further.FILES)
def test_no_answer_is_held_because_of_what_the_data_hold(name: str, machine: Machine, tmp_path: Path) -> None:
    """An overflow, a pole or an impossible date for one patient must not show: not as an error, nor in who counts."""
    one = judged.judge(further.ODD_RUN, cases.FOLDER / name, tmp_path, machine.state)
    assert len(one.outputs) == 2 * len(further.ODD), one.stderr.decode()
    assert {output["name"] for output in one.outputs if output["verdict"] != "verified"} == set()
    for output in one.outputs:
        if output["name"].startswith("where"):
            assert {tuple(row[:-1]): row[-1] for row in output["table"]["rows"]}.items() >= further.SHOWN.items()


# -- the command, and the folders that others can read -----------------------------------------------------


@pytest.mark.slow
def test_the_watched_command_shows_what_the_bare_command_shows(machine: Machine, tmp_path: Path) -> None:
    case_run = Run(PATIENTS, [further.ASK, "print(df)"])
    watched = judged.judge(case_run, cases.FOLDER / PATIENTS, tmp_path / "watched", machine.state)
    studies.write(case_run, tmp_path / "bare" / "study")
    words = [sys.executable, "-m", "opensafely_lab.cli", "run", studies.ACTION, "--state", str(machine.state)]
    words += ["--project", str(tmp_path / "bare" / "study"), "--out", str(tmp_path / "bare" / "out")]
    words += ["--extract", f"{PATIENTS}={cases.FOLDER / PATIENTS}"]
    bare = subprocess.run(words, env=judged.environment(), capture_output=True, check=False)
    assert bare.returncode == watched.exit_code
    assert bare.stdout.replace(str(tmp_path / "bare").encode(), b"ROOM") == watched.stdout
    assert bare.stderr == watched.stderr
    out = tmp_path / "bare" / "out"
    assert {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()} == watched.out


@pytest.mark.slow
def test_nothing_of_a_run_is_left_in_the_state_of_the_machine(machine: Machine, tmp_path: Path) -> None:
    attempt = next(attempt for attempt in further.SILENT if attempt.id == "fur-01")
    one = judged.judge(attempt.case.runs[0], cases.FOLDER / PATIENTS, tmp_path, machine.state)
    assert one.exit_code == 4, one.stderr.decode()
    assert traces.forbidden_in_tree(machine.state, attempt.case) == []
    assert traces.forbidden_in_tree(one.left / "real", attempt.case), "the search must find what is there"


# -- the search itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["plain", "json", "base64", "zlib", "gzip", "ints", "png", "sqlite", "name"])
def test_the_search_finds_a_patient_in_every_disguise(encoding: str, tmp_path: Path) -> None:
    disguise(encoding, tmp_path)
    assert traces.forbidden_in_tree(tmp_path, traces.ANY_PATIENT)


def disguise(encoding: str, folder: Path) -> None:
    import base64
    import gzip
    import io
    import sqlite3
    import zlib

    who = cases.TARGET
    place = folder / "file"
    match encoding:
        case "plain":
            place.write_text(f"a line\nwith {who}\n")
        case "json":
            place.write_text(json.dumps({"a": ["".join(f"\\u{ord(c):04x}" for c in who)]}).replace("\\\\", "\\"))
        case "base64":
            place.write_text("token: " + base64.b64encode(zlib.compress(f"x,{who}".encode())).decode())
        case "zlib":
            place.write_bytes(b"blob \0\0" + zlib.compress(who.encode() * 3))
        case "gzip":
            place.write_bytes(gzip.compress(who.encode()))
        case "ints":
            place.write_text("\n".join(f"{18 + n}-{20 + n}  {ord(c)}" for n, c in enumerate(who)))
        case "png":
            from PIL import Image

            image = Image.frombytes("L", (len(who), 1), who.encode())
            data = io.BytesIO()
            image.save(data, "png")
            place.write_bytes(data.getvalue())
        case "sqlite":
            with sqlite3.connect(place) as database:
                database.execute("create table log (text)")
                database.execute("insert into log values (?)", ["x" * 9_000 + base64.b64encode(who.encode()).decode()])
            database.close()
        case "name":
            (folder / f"fig_{who}.txt").touch()


def test_the_submitted_source_is_no_trace_where_it_is_shown_as_written(tmp_path: Path) -> None:
    case = Case(
        "x",
        "x",
        [Run(PATIENTS, ["fetch('https://collector.invalid')"])],
        ["withheld"],
        must_never_appear=["collector.invalid"],
    )
    (tmp_path / "result.ipynb").write_text(json.dumps({"source": case.sources[0]}))
    assert traces.forbidden_in_tree(tmp_path, case) == []
    (tmp_path / "other").write_text("https://collector.invalid")
    assert [trace.place for trace in traces.forbidden_in_tree(tmp_path, case)] == ["other"]
