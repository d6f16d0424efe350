"""Turn-around of a trivial notebook: `papermill`, `opensafely-lab run`, and submit to panel, in one run.

    python benchmarks/turnaround.py [--rounds N] [--no-lean]

The baseline is the `papermill` command of the environment this runs in (the Lab's). Rounds are
interleaved and medians taken, so that what else the machine does falls on all alike; only the ratios
mean anything. Beside it stands the papermill command of a lean environment that holds nothing else,
made once in `.tools/`. "Submit to panel" is the whole of `opensafely-lab submit` (checks, dummy run,
bundle, request, sandboxed run on the records, gate) until the result can be read at level 4.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCES = ("x = 1", "y = x + 1", "z = y * 2", "total = sum(range(1000))", "assert z == 4")
LEAN = Path(__file__).resolve().parent.parent / ".tools" / "lean"
GIT = ("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost")


def make_study(folder: Path) -> None:
    """A study with one trivial notebook of five cells, committed."""
    (folder / "analysis").mkdir(parents=True)
    cells = [
        {"cell_type": "code", "id": f"cell-{n}", "metadata": {}, "source": s, "outputs": [], "execution_count": None}
        for n, s in enumerate(SOURCES)
    ]
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernelspec}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "analysis" / "trivial.ipynb").write_text(json.dumps(notebook))
    (folder / "project.yaml").write_text(
        'version: "5.0"\nactions:\n  trivial:\n    run: notebook:v1 analysis/trivial.ipynb\n'
    )
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "A trivial notebook"]):
        subprocess.run([*GIT, *words], cwd=folder, check=True)


def seconds(words: list[str], cwd: Path) -> float:
    start = time.perf_counter()
    done = subprocess.run(words, cwd=cwd, capture_output=True, check=False)
    taken = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words[:2])} failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
    return taken


@contextmanager
def backend(study: Path, state: Path) -> Iterator[None]:
    """`opensafely-lab up` without a Lab, until the block ends."""
    command = [tool("opensafely-lab"), "up", "--headless", "--no-lab", "--study", str(study), "--state", str(state)]
    log = state.with_name("up.log")
    with log.open("wb") as out:
        up = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        for _ in range(1200):
            if (state / "run.json").exists():
                break
            if up.poll() is not None:
                raise SystemExit(f"`opensafely-lab up` ended:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        up.terminate()
        up.wait(30)


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name) or name


def lean_papermill() -> str:
    """The papermill command of an environment with papermill and ipykernel alone."""
    if not (LEAN / "bin" / "papermill").exists():
        print("Making a lean environment in .tools/lean", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(LEAN)], check=True)
        pip = [str(LEAN / "bin" / "python"), "-m", "pip", "install", "-q", "papermill>=2.7,<3", "ipykernel>=7.4,<8"]
        subprocess.run(pip, check=True)
        subprocess.run([str(LEAN / "bin" / "python"), "-m", "compileall", "-q", str(LEAN / "lib")], check=False)
    return str(LEAN / "bin" / "papermill")


def measure(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, rounds interleaved; one round more is made first and not counted."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            once = way()
            if number:
                taken[name].append(once)
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-lean", action="store_true", help="leave the lean environment out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="osl-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)  # as root the sandbox gives up root before it reads the study
        study, state = home / "study", home / "state"
        make_study(study)
        lab, paper = tool("opensafely-lab"), ["analysis/trivial.ipynb", str(home / "executed.ipynb")]
        fresh = iter(range(1_000_000))

        def submitted() -> float:
            # Each round is a new commit: no earlier dummy run can be used again.
            (study / "round.txt").write_text(str(next(fresh)))
            subprocess.run([*GIT, "add", "-A"], cwd=study, check=True)
            subprocess.run([*GIT, "commit", "-qm", "Again"], cwd=study, check=True)
            return seconds([lab, "submit", "trivial", "--state", str(state)], study)

        ways: dict[str, Callable[[], float]] = {
            "papermill, Lab environment": lambda: seconds([tool("papermill"), *paper], study),
            "opensafely-lab run": lambda: seconds([lab, "run", "trivial", "--state", str(state)], study),
            "submit to panel": submitted,
        }
        if not given.no_lean:
            lean = lean_papermill()
            ways["papermill, lean environment"] = lambda: seconds([lean, *paper], study)
        with backend(study, state):
            taken = measure(ways, given.rounds)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    baseline = medians["papermill, Lab environment"]
    print(f"Turn-around of a notebook of {len(SOURCES)} trivial cells, {given.rounds} interleaved rounds")
    print(f"{'way':32}{'median s':>9}{'least s':>9}{'ratio of medians':>18}")
    for name, median in medians.items():
        print(f"{name:32}{median:9.2f}{min(taken[name]):9.2f}{median / baseline:18.2f}")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
