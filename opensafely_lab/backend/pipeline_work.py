"""The backend's real work: the one chain, on this backend's records."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from attrs import evolve

from opensafely_lab.backend.settings import AgentSettings
from opensafely_lab.backend.work import Document, Order, Probe, RunFailure, Work, WorkResult
from opensafely_lab.disclosure.requests import parse
from opensafely_lab.errors import LabError
from opensafely_lab.notebooks.result import Banner
from opensafely_lab.pipeline.chain import Authorised, DefinitionChanged, Layout, RealRun, real_run
from opensafely_lab.pipeline.machine import machine_ports
from opensafely_lab.pipeline.plan import Plan, load_plan
from opensafely_lab.pipeline.ports import Phase, Ports
from opensafely_lab.pipeline.sandboxed import RunCancelled
from opensafely_lab.pipeline.shown import NOTEBOOK
from opensafely_lab.wire.base import JobCode

CODES = {Phase.PREPARING: JobCode.PREPARING, Phase.EXECUTING: JobCode.EXECUTING, Phase.CHECKING: JobCode.CHECKING}


class PipelineWork:
    """Carries out jobs by `pipeline.chain`. See `work.Work`.

    `state` is where sandbox and scratch live, `records` the folder of tables, `backend` its name.
    """

    def __init__(
        self,
        backend: str,
        state: Path,
        records: Path,
        *,
        cache: Path | None = None,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.backend = backend
        self.records = records
        self.ports: Ports = machine_ports(state, cache=cache)
        self.today = today

    def probe(self) -> Probe:
        report = self.ports.executor.probe()
        return Probe(
            executor=report.executor,
            layers={layer.name: layer.detail for layer in report.layers},
            ready=report.ok,
        )

    def reap(self) -> None:
        self.ports.executor.reap()

    def run(self, order: Order, tell: Callable[[JobCode], None]) -> WorkResult:
        executor = self.ports.executor.name
        request = order.assignment.request
        ports = evolve(self.ports, policy=order.policy, scratch=order.scratch, cancelled=order.cancelled)
        begun = False

        def notify(phase: Phase) -> None:
            nonlocal begun
            begun = begun or phase is Phase.EXECUTING
            tell(CODES[phase])

        try:
            # Everything the author sent is checked here again: the site's word is a request.
            plan = load_plan(order.checkout, request.action, request.parameters, from_text=False)
            layout = Layout(tuple(request.layout.outputs), request.layout.execution_counts)
            authorised = Authorised(parse(request.requests.encode()), layout, request.definitions)
            done = real_run(
                plan,
                authorised,
                self.records,
                ports,
                self._banner(plan, order),
                notify=notify,
            )
        except RunCancelled:
            return WorkResult(JobCode.CANCELLED, executor, {})
        except DefinitionChanged:
            return WorkResult(JobCode.REFUSED, executor, {})
        except LabError as error:
            if error.kind.value == "platform":
                raise
            # Once the notebook has run there are two ends; a third would be one more that it could choose.
            return WorkResult(JobCode.RUN_FAILED if begun else JobCode.REFUSED, executor, {})
        return self._result(done, plan, order)

    def _banner(self, plan: Plan, order: Order) -> Banner:
        request = order.assignment.request
        return Banner(
            "level4",
            plan.action.name,
            str(plan.action.notebook),
            order.policy.name,
            commit=request.commit,
            backend=self.backend,
            project=request.project,
            workspace=request.workspace,
            finished_day=self.today().date().isoformat(),
        )

    def _result(self, done: RealRun, plan: Plan, order: Order) -> WorkResult:
        executor = self.ports.executor.name
        kept = {}
        if done.executed is not None:
            kept["executed.ipynb"] = order.scratch / "executed.ipynb"
            kept["executed.ipynb"].write_bytes(done.executed)
        if done.shown is None:
            failed = done.failed
            failure = None if failed is None else RunFailure(failed.failure_class, failed.cell)
            return WorkResult(JobCode.RUN_FAILED, executor, done.layers, failure=failure, kept=kept)
        files = {str(path): data for path, data in done.shown.files if len(path.parts) > 1}
        document = Document(
            name=f"{plan.action.name}.{NOTEBOOK.name}",
            notebook=done.shown.notebook,
            disclosure=done.shown.disclosure,
            files=files,
        )
        return WorkResult(JobCode.SUCCEEDED, executor, done.layers, document=document, kept=kept)


def make(settings: AgentSettings) -> Work:
    """The real thing, on the records of `settings.data`."""
    return PipelineWork(
        settings.backend,
        settings.folder / "work",
        Path(settings.data),
        cache=Path(settings.cache) if settings.cache else None,
    )
