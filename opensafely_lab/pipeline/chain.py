"""The chain: definitions -> extract -> run -> compare -> gate -> what is shown.

`dummy_run` fixes, on dummy data, all that the author chooses: the list of requests, where
placeholders stand, the digest of each definition. `real_run` takes those as authorised and shows
only what the gate computed of them. Its steps, in order:

1. The definitions, evaluated again without data, are the authorised ones, by digest.
2. The extracts are made from the records, in a capped child.
3. papermill runs the notebook in the sandbox. Anything but success is one code.
4. Its list of requests is the authorised one, by text. Else: the same one code.
5. The gate computes the authorised list over the extracts, in a capped child.
6. The result is laid out from the submitted source, the authorised layout and the outcomes.

Left to the caller: that the commit, the parameters and the policy are the authorised ones, and when
the end of the run is told.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from attrs import field, frozen

from opensafely_lab.disclosure.outcome import Outcome
from opensafely_lab.disclosure.requests import RequestList
from opensafely_lab.errors import ErrorKind, LabError, PlatformError
from opensafely_lab.jobs.executors.protocol import ExecutorUnavailable
from opensafely_lab.notebooks import result as results
from opensafely_lab.notebooks.result import Banner
from opensafely_lab.pipeline import child, extracts, tasks
from opensafely_lab.pipeline.execution import FailedRun, NotebookRun, run_notebook
from opensafely_lab.pipeline.extracts import Definition, Extract
from opensafely_lab.pipeline.plan import Plan
from opensafely_lab.pipeline.ports import Notify, Phase, Ports, silent
from opensafely_lab.pipeline.shown import Shown, lay_out
from opensafely_lab.study.project import ExtractInput

NO_GIVEN: Mapping[PurePosixPath, Path] = {}


class DummyRunFailed(LabError):
    """The notebook does not run to its end on dummy data. `detail` is its error, which may be said."""

    code = "dummy-run-failed"
    kind = ErrorKind.RUN_FAILED

    def __init__(self, failed: FailedRun) -> None:
        where = "" if failed.cell is None else f" in cell {failed.cell + 1}"
        why = "" if failed.failure_class == "other-error" else f" ({failed.failure_class})"  # then `detail` says it
        super().__init__(
            f"The notebook fails on dummy data{where}{why}.",
            next_step="Mend it in the notebook and run it again: on dummy data the whole error is told.",
        )
        self.failed = failed

    @property
    def detail(self) -> str | None:
        return self.failed.detail


@frozen
class Layout:
    """Where placeholders stand (cells of the submitted source) and each code cell's execution number."""

    outputs: tuple[int, ...]
    execution_counts: Mapping[int, int]


@frozen
class Authorised:
    """What the dummy run fixed and the site authorised."""

    requests: RequestList
    layout: Layout
    definitions: Mapping[str, str]  # ehrql action -> digest


@frozen
class DummyRun:
    """A run on dummy data: what it fixes for the real one, and what it shows."""

    authorised: Authorised
    shown: Shown
    layers: Mapping[str, str]


@frozen
class RealRun:
    """A run on real records. `shown` if it succeeded, else `failed`, which is for level 4 at most.

    `executed` is the notebook as the run left it: level 3, opaque bytes, kept for nobody but
    named people; `layers` is the isolation that was in force.
    """

    shown: Shown | None
    failed: FailedRun | None
    layers: Mapping[str, str]
    executed: bytes | None = field(default=None, repr=False)


class DefinitionChanged(PlatformError):
    """A definition evaluates to another query behind the wall than at submit."""

    code = "definition-changed"
    kind = ErrorKind.REFUSED

    def __init__(self, action: str) -> None:
        super().__init__(
            f"The dataset definition of {action} does not give the same query each time it is read.",
            next_step="Take out what changes from one reading to the next (today's date, chance, the environment).",
        )


def dummy_run(
    plan: Plan,
    ports: Ports,
    banner: Banner,
    *,
    given: Mapping[PurePosixPath, Path] = NO_GIVEN,
    notify: Notify = silent,
) -> DummyRun:
    """Run the plan on dummy data. `given` extracts lend their schema, never their rows.

    Raises `DummyRunFailed` and, for mistakes in a definition, dummy tables or requests, a `LabError`.
    """
    with _workspace(ports) as folder:
        notify(Phase.PREPARING)
        definitions = extracts.evaluate(_wanted(plan, given), plan.study, ports)
        made = [
            extracts.make_dummy(definition, plan.study, _room(folder, n), ports, notebook=plan.notebook)
            for n, definition in enumerate(definitions)
        ]
        for n, (path, file) in enumerate(given.items(), start=len(made)):
            described = extracts.describe(path, file, folder, ports)
            made.append(extracts.invent(path, described.schema, plan.notebook, _room(folder, n), ports))
        notify(Phase.EXECUTING)
        run = run_notebook(plan, made, "dummy", ports)
        layers = run.result.layers
        ports.executor.discard(run.id)
        if run.refused is not None:
            raise run.refused
        if run.failed is not None or run.requests is None or run.cells is None:
            raise DummyRunFailed(run.failed or FailedRun("other-error", None, None))
        notify(Phase.CHECKING)
        layout = Layout(outputs=run.cells.outputs, execution_counts=run.cells.execution_counts)
        authorised = Authorised(run.requests, layout, {d.input.action: d.digest for d in definitions})
        outcomes = _gate(run.requests, made, folder, ports, dummy=True)
        return DummyRun(authorised, _show(plan, outcomes, layout, banner, ports, dummy=True), layers)


def dummy_dataset(study: Path, wanted: ExtractInput, output: Path, ports: Ports) -> None:
    """Make the dummy extract of one `generate-dataset` action at `output`, for work at the desk."""
    with _workspace(ports) as folder:
        (definition,) = extracts.evaluate([wanted], study, ports)
        made = extracts.make_dummy(definition, study, _room(folder, 0), ports)
        output.parent.mkdir(parents=True, exist_ok=True)
        draft = output.with_name(f".{output.name}.new")
        shutil.copyfile(made.file, draft)
        draft.replace(output)


def real_run(
    plan: Plan,
    authorised: Authorised,
    records: Path | None,
    ports: Ports,
    banner: Banner,
    *,
    given: Mapping[PurePosixPath, Path] = NO_GIVEN,
    notify: Notify = silent,
) -> RealRun:
    """Run the plan on the records in the folder `records` (None if every extract is handed in).

    Raises `DefinitionChanged`, and `LabError`s of ours, none of which says anything about the data.
    """
    if not ports.executor.confidential:
        raise ExecutorUnavailable(
            "There is no sandbox here, so nothing is run on real data.",
            next_step="`opensafely-lab doctor` says what is missing; runs on dummy data work.",
        )
    with _workspace(ports) as folder:
        notify(Phase.PREPARING)
        made = _real_extracts(plan, authorised, records, folder, ports, given)
        notify(Phase.EXECUTING)
        run = run_notebook(plan, made, "real", ports)
        executed = _executed(run)
        layers = run.result.layers
        ports.executor.discard(run.id)
        if run.failed is not None or run.requests is None:
            return RealRun(None, run.failed, layers, executed)
        if run.requests.text() != authorised.requests.text():
            return RealRun(None, FailedRun("requests-differ", None, None), layers, executed)
        notify(Phase.CHECKING)
        outcomes = _gate(authorised.requests, made, folder, ports, dummy=False)
        shown = _show(plan, outcomes, authorised.layout, banner, ports, dummy=False)
        return RealRun(shown, None, layers, executed)


def _real_extracts(
    plan: Plan,
    authorised: Authorised,
    records: Path | None,
    folder: Path,
    ports: Ports,
    given: Mapping[PurePosixPath, Path],
) -> list[Extract]:
    definitions = extracts.evaluate(_wanted(plan, given), plan.study, ports)
    _same_definitions(definitions, authorised)
    made = []
    for number, definition in enumerate(definitions):
        if records is None:
            raise PlatformError("There are no records to run on.", next_step="Name their folder with --data DIR.")
        made.append(extracts.make(definition, records, _room(folder, number), ports, dummy=False))
    made += [extracts.describe(path, file, folder, ports) for path, file in given.items()]
    return made


def _wanted(plan: Plan, given: Mapping[PurePosixPath, Path]) -> tuple[ExtractInput, ...]:
    return tuple(wanted for wanted in plan.inputs if wanted.output not in given)


def _same_definitions(definitions: Sequence[Definition], authorised: Authorised) -> None:
    now = {definition.input.action: definition.digest for definition in definitions}
    for action in sorted({*now, *authorised.definitions}):
        if now.get(action) != authorised.definitions.get(action):
            raise DefinitionChanged(action)


def _gate(
    requests: RequestList, made: Sequence[Extract], folder: Path, ports: Ports, *, dummy: bool
) -> tuple[Outcome, ...]:
    if not requests.requests:
        return ()
    message = {
        "requests": requests.text(),
        "extracts": [{"path": str(e.path), "file": str(e.file), "schema": tasks.schema_json(e.schema)} for e in made],
        "policy": ports.policy.name,
        "dummy": dummy,
    }
    answer = child.ask("gate", message, scratch=folder, limits=ports.child_limits)
    return tasks.outcomes_value(answer["outcomes"])


def _show(
    plan: Plan, outcomes: Sequence[Outcome], layout: Layout, banner: Banner, ports: Ports, *, dummy: bool
) -> Shown:
    notebook = results.build(plan.notebook, parameters=plan.parameters, outcomes=outcomes, layout=layout, banner=banner)
    return lay_out(
        notebook,
        outcomes,
        policy=ports.policy,
        dummy=dummy,
        placeholders=layout.outputs,
        outputs=plan.action.outputs,
    )


def _executed(run: NotebookRun) -> bytes | None:
    place = run.result.folder / "control" / "executed.ipynb"
    return place.read_bytes() if place.is_file() else None


@contextmanager
def _workspace(ports: Ports) -> Iterator[Path]:
    """A private folder for the extracts of one run; gone when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="osl-", dir=ports.scratch))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _room(folder: Path, number: int) -> Path:
    room = folder / str(number)
    room.mkdir(mode=0o700)
    return room
