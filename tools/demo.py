"""`make demo`: the main job, done as an analyst does it, and checked by hand.

1. Start site, backend and Lab on this computer, on the demo's records.
2. Ask Lab's server for what its Submit button asks for: the template's notebook, sent to the backend.
3. Follow the run as the panel does, read the result as the panel does, print its tables.
4. Ask the records the same by a hand-written query (in the study's `check/`), hide and round what it
   says by hand, and compare every cell.
5. Leave Lab running with the result in its panel, or (`--headless`) stop everything. Exit code 0 only
   if every cell is equal.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from opensafely_lab.desk.shipped import demo_records
from opensafely_lab.desk.state import State, default_cache
from opensafely_lab.desk.up import Options, Running, running
from opensafely_lab.errors import LabError

TABLE = "application/vnd.opensafely.table+json"
ENDED = {"done", "failed", "refused"}
LONGEST = 600.0
HIDDEN = "[REDACTED]"
TABLES = ("patients", "practice_registrations", "medications", "clinical_events")
Cells = Mapping[tuple[str, str, str], str]


def main(argv: Sequence[str] | None = None) -> int:
    given = arguments().parse_args(argv)
    records = (given.data or demo_records()).resolve()
    cache = default_cache(os.environ, root=os.geteuid() == 0)
    options = Options(State(given.state.resolve()), cache, study=given.study.resolve(), data=records)
    try:
        with running(options) as everything:
            equal = do_the_job(everything, records, dict(given.parameter))
            if not given.headless and equal:
                print(
                    f"\nThe result is in the panel of JupyterLab:\n\n    {everything.machine.url}\n\nCtrl-C stops it."
                )
                sys.stdout.flush()
                everything.supervisor.watch()
    except LabError as error:
        print(f"{error.sentence}\n{error.next_step}", file=sys.stderr)
        return error.exit_code
    return 0 if equal else 1


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Do the main job on this computer.")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="other synthetic records")
    parser.add_argument("-p", dest="parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--headless", action="store_true", help="stop when the numbers have been compared")
    return parser


def do_the_job(everything: Running, records: Path, changed: Mapping[str, str]) -> bool:
    """Submit, follow, show, compare. Whether every number is as the hand-written query says."""
    machine = everything.machine
    if machine.lab_url is None or machine.notebook is None:
        raise SystemExit("The study has no notebook:v1 action.")
    lab = Lab(machine.lab_url, machine.lab_token)
    parameters = {**lab.parameters(machine.notebook), **{name: value(text) for name, text in changed.items()}}
    print(f"Submitting {machine.notebook} with {parameters}", flush=True)
    began = time.monotonic()
    run = lab.follow(lab.submit(machine.notebook, parameters))
    if run["stage"] != "done":
        problem = run["problem"] or {"sentence": "It did not end well.", "next_step": ""}
        print(f"{problem['sentence']} {problem['next_step']}\n{problem.get('detail') or ''}", file=sys.stderr)
        return False
    print(f"Done after {time.monotonic() - began:.1f} s. What came back:\n")
    shown: dict[tuple[str, str, str], str] = {}
    for name, text, cells in tables(lab.result(run["id"])):
        print(f"{name}\n\n{text}\n")
        shown.update({(name, *key): count for key, count in cells.items()})
    expected = by_hand(records, everything.machine.study, parameters, shown)
    wrong = [key for key in shown.keys() | expected.keys() if shown.get(key) != expected.get(key)]
    print(f"{len(expected) - len(wrong)} of {len(expected)} cells equal the hand-written query after redaction.")
    for key in sorted(wrong):
        print(f"  {' / '.join(key)}: shown {shown.get(key)}, by hand {expected.get(key)}", file=sys.stderr)
    return not wrong and bool(expected)


class Lab:
    """Lab's server, asked what the browser asks it."""

    def __init__(self, url: str, token: str) -> None:
        self._url = f"{url}/opensafely"
        self._headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}/{path}", data, self._headers)
        try:
            with self._direct.open(request, timeout=60) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            problem = json.loads(error.read())
            raise SystemExit(f"{problem['sentence']} {problem['next_step']}") from None

    def parameters(self, notebook: str) -> dict[str, Any]:
        info = self.ask(f"notebook?path={notebook}")
        return {parameter["name"]: parameter["default"] for parameter in info["parameters"]}

    def submit(self, notebook: str, parameters: Mapping[str, Any]) -> str:
        asked = {"path": notebook, "kind": "submitted", "parameters": dict(parameters), "fixes": []}
        return str(self.ask("runs", asked)["run"]["id"])

    def follow(self, run: str) -> dict[str, Any]:
        """Print each stage as it comes; the run when it has ended."""
        deadline, stage = time.monotonic() + LONGEST, None
        while time.monotonic() < deadline:
            row: dict[str, Any] = next(row for row in self.ask("runs")["runs"] if row["id"] == run)
            if row["stage"] != stage:
                stage = row["stage"]
                print(f"  {stage}", flush=True)
            if stage in ENDED:
                return row
            time.sleep(0.3)
        raise SystemExit(f"The run did not end within {LONGEST:.0f} seconds.")

    def result(self, run: str) -> dict[str, Any]:
        notebook: dict[str, Any] = json.loads(self.ask(f"results/{run}")["notebook"])
        return notebook


def value(text: str) -> object:
    """A parameter as JSON if it is JSON, else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def tables(notebook: Mapping[str, Any]) -> list[tuple[str, str, dict[tuple[str, str], str]]]:
    """Of each table in a result notebook: name, text, and its cells by (row label, column label)."""
    found = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            table = output.get("data", {}).get(TABLE)
            if table is not None:
                text = output["data"]["text/plain"]
                found.append((table["name"], "".join(text), {(row[0], row[1]): str(row[2]) for row in table["rows"]}))
    return found


def by_hand(records: Path, study: Path, parameters: Mapping[str, Any], shown: Cells) -> dict[tuple[str, str, str], str]:
    """What must be shown: the hand-written query's counts, hidden, rounded and added up here.

    `shown` gives the labels that the tables have (a level that nobody has is a line all the same); no number
    of it is used. Numbers from 0 to 7 are hidden alike, others rounded to the nearest 5, and the total
    "All" is the sum of what is shown.
    """
    query = (study / "check" / "handwritten.sql").read_text()
    with duckdb.connect() as connection:
        for table in TABLES:
            connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{records / table}.parquet')")
        rows = connection.execute(query, dict(parameters)).fetchall()
    counts = {(name, age, sex): people for name, age, sex, people in rows}
    expected: dict[tuple[str, str, str], str] = {}
    for key in shown:
        name, *labels = key
        lines = [
            other
            for other in shown
            if other[0] == name
            and "All" not in other
            and all(label in ("All", mine) for label, mine in zip(labels, other[1:], strict=True))
        ]
        parts = [counts.get(line, 0) for line in lines]
        visible = [5 * ((people + 2) // 5) for people in parts if people > 7]
        expected[key] = str(sum(visible)) if visible else HIDDEN
    expected.update({key: "missing from the result" for key in counts if key not in shown})
    return expected


if __name__ == "__main__":
    sys.exit(main())
