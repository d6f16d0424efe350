"""`opensafely-lab run`: the whole chain in one process, without servers.

On dummy data by default. With records (`--data`) or ready extracts (`--extract`) it plays the
backend, after the dummy run that every real run has: `--out`, the exit code and stderr are then what
the analyst would be shown and told, and nothing else is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from attrs import field, frozen

from opensafely_lab.errors import EXIT_CODES, ErrorKind, LabError, Refused, UsageError
from opensafely_lab.notebooks.result import Banner
from opensafely_lab.pipeline import shown as files
from opensafely_lab.pipeline import snapshot
from opensafely_lab.pipeline.chain import DummyRun, DummyRunFailed, dummy_dataset, dummy_run, real_run
from opensafely_lab.pipeline.plan import Plan, load_plan, read_project
from opensafely_lab.pipeline.ports import Ports
from opensafely_lab.pipeline.shown import Shown
from opensafely_lab.study.project import ExtractInput


class RealRunFailed(LabError):
    """All that is told of a real run that failed: one code (disclosure.md, decision 2)."""

    code = "run-failed"
    kind = ErrorKind.RUN_FAILED

    def __init__(self) -> None:
        super().__init__(
            "The run failed on the real data, although it succeeds on dummy data.",
            next_step="Look for what dummy data do not show: missing values, empty groups, more rows. "
            "The notebook must ask for the same requests whatever the data are.",
        )


class RefusedBeforeRunning(Refused):
    """Real data are not read for a notebook that fails on dummy data."""

    code = "dummy-run-failed"

    def __init__(self, failed: DummyRunFailed) -> None:
        super().__init__(failed.sentence, next_step=failed.next_step)
        self.detail = failed.detail


@frozen
class Order:
    """One `opensafely-lab run`: parameters as (name, text), extracts as (path in the study, file)."""

    action: str
    project: Path
    parameters: Sequence[tuple[str, str]] = field(factory=tuple)
    data: Path | None = None
    extracts: Sequence[tuple[str, Path]] = field(factory=tuple)
    out: Path | None = None

    @property
    def is_real(self) -> bool:
        return self.data is not None or bool(self.extracts)


def run(order: Order, ports: Callable[[], Ports], say: Callable[[str], None]) -> int:
    """Carry out the order; `say` gets the lines for standard output. Returns the exit code.

    `ports` is called only when everything that needs no sandbox has been checked. Raises `LabError`.
    """
    if order.out is not None:
        files.check_out(order.out)
    given = _given(order)
    values = parameters_of(order.parameters)
    wanted = read_project(order.project).extract(order.action)
    if wanted is not None:
        return _dummy_dataset(order, wanted, values, ports, say)
    load_plan(order.project, order.action, values, from_text=True)
    made = ports()
    made.executor.reap()  # what a killed run left holds records
    with tempfile.TemporaryDirectory(prefix="osl-", dir=made.scratch) as folder:
        study = Path(folder, "study")
        snapshot.take(order.project, read_project(order.project), study)
        plan = load_plan(study, order.action, values, from_text=True)
        dummy = _dummy(plan, order, given, made)
        result = _real(plan, dummy, order, given, made) if order.is_real else dummy.shown
    if order.out is not None:
        files.write(result, order.out)
    for line in summary(result, order):
        say(line)
    if not made.executor.confidential:
        say("UNSAFE: run as a plain process, without a sandbox. For dummy data only.")
    return EXIT_CODES[ErrorKind.HELD] if result.held else 0


def make_dummy_datasets(project: Path, ports: Ports) -> tuple[PurePosixPath, ...]:
    """Make every dummy dataset of the study that is not there yet, so that its notebooks can be worked on.

    Returns the paths made. Raises `LabError`.
    """
    known = read_project(project)
    extracts = [extract for name in known.actions if (extract := known.extract(name)) is not None]
    missing = [extract for extract in extracts if not (project / extract.output).exists()]
    for extract in missing:
        make_dummy_dataset(project, extract, ports)
    return tuple(extract.output for extract in missing)


def make_dummy_dataset(project: Path, wanted: ExtractInput, ports: Ports) -> None:
    with tempfile.TemporaryDirectory(prefix="osl-", dir=ports.scratch) as folder:
        study = Path(folder, "study")
        snapshot.take(project, read_project(project), study)
        dummy_dataset(study, wanted, project / wanted.output, ports)


def _dummy_dataset(
    order: Order,
    wanted: ExtractInput,
    values: Mapping[str, object],
    ports: Callable[[], Ports],
    say: Callable[[str], None],
) -> int:
    if order.is_real or order.out is not None or values:
        raise UsageError(
            f"{order.action} makes a patient-level dataset: here it is made of dummy data alone, in the study.",
            next_step=f"Run it by itself, `opensafely-lab run {order.action}`, or run the notebook that needs it.",
        )
    make_dummy_dataset(order.project, wanted, ports())
    say(f"{order.action} on DUMMY DATA: wrote {wanted.output}")
    return 0


def _dummy(plan: Plan, order: Order, given: Mapping[PurePosixPath, Path], ports: Ports) -> DummyRun:
    banner = Banner("dummy", plan.action.name, str(plan.action.notebook), ports.policy.name)
    try:
        return dummy_run(plan, ports, banner, given=given)
    except DummyRunFailed as failed:
        if order.is_real:
            raise RefusedBeforeRunning(failed) from None
        raise


def _real(plan: Plan, dummy: DummyRun, order: Order, given: Mapping[PurePosixPath, Path], ports: Ports) -> Shown:
    banner = Banner("level4", plan.action.name, str(plan.action.notebook), ports.policy.name)
    done = real_run(plan, dummy.authorised, order.data, ports, banner, given=given)
    if done.shown is None:
        raise RealRunFailed
    return done.shown


def parse_extract(text: str) -> tuple[str, Path]:
    """`PATH=FILE` as typed. Raises `UsageError`."""
    path, sign, file = text.partition("=")
    if not sign or not path or not file:
        raise UsageError(
            "--extract takes PATH=FILE.", next_step="For example --extract output/dataset.arrow=/records/dataset.arrow"
        )
    return path, Path(file)


def _given(order: Order) -> dict[PurePosixPath, Path]:
    if order.data is not None and not order.data.is_dir():
        raise UsageError("--data does not name a folder.", next_step="Name a folder of TABLE.parquet files.")
    given: dict[PurePosixPath, Path] = {}
    for text, file in order.extracts:
        path = PurePosixPath(text)
        if path.is_absolute() or ".." in path.parts or not path.name or path in given:
            raise UsageError(
                "--extract takes PATH=FILE, with PATH inside the study, each once.",
                next_step="For example --extract output/dataset.arrow=/records/dataset.arrow",
            )
        if not file.is_file():
            raise UsageError(f"The file for --extract {path} is not there.", next_step="Check its name.")
        given[path] = file.resolve()
    return given


def parameters_of(pairs: Sequence[tuple[str, str]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, text in pairs:
        if name in values:
            raise UsageError("A parameter is given twice.", next_step="Give each parameter once.")
        values[name] = text
    return values


def summary(result: Shown, order: Order) -> list[str]:
    """What was shown and what was held, a line each, from the disclosure record."""
    import json

    record = json.loads(result.disclosure)
    lines = [f"{order.action} on {'the records' if order.is_real else 'DUMMY DATA'}"]
    for output in record["outputs"]:
        lines.append(f"  {output['name']}: {output['verdict']}, {output['treatment']}. {output['sentence']}")
    for place in record["placeholders"]:
        lines.append(f"  cell {place['cell'] + 1}: held. {place['sentence']}")
    for file in record["files"]:
        lines.append(f"  {file['pattern']}: held. {file['sentence']}")
    if not record["outputs"] and not record["placeholders"]:
        lines.append("  The notebook asked for nothing and wrote nothing.")
    lines.append(f"Result: {order.out / str(files.NOTEBOOK)}" if order.out else "Keep the result with --out DIR.")
    return lines
