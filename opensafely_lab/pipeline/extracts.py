"""From dataset definitions to extracts: evaluated without data, run where the data are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import frozen

from opensafely_lab.ehrql import loader
from opensafely_lab.ehrql.model import DatasetModel, dataset_schema
from opensafely_lab.ehrql.model_json import dataset_to_json, digest
from opensafely_lab.errors import LabError, PlatformError, Refused
from opensafely_lab.expressions.schema import DatasetSchema
from opensafely_lab.notebooks.prepared import literals_beside, string_literals
from opensafely_lab.notebooks.source import SubmittedNotebook
from opensafely_lab.pipeline import child, tasks
from opensafely_lab.pipeline.isolation import SandboxIsolation
from opensafely_lab.pipeline.ports import Ports
from opensafely_lab.study.project import ExtractInput

DUMMY_SEED = 20_260_201


class DummyDataUnusable(Refused):
    """The study's dummy tables, or a ready extract, cannot be read."""

    code = "dummy-data"


class RecordsMissing(PlatformError):
    """The folder of records lacks a table that the definition needs."""

    code = "records-missing"


@frozen
class Extract:
    """One level 3 file as a job gets it: where the study expects it, where it is, what it holds."""

    path: PurePosixPath
    file: Path
    schema: DatasetSchema


@frozen
class Definition:
    """A dataset definition, evaluated: the input it makes and its frozen query model."""

    input: ExtractInput
    model: DatasetModel

    @property
    def digest(self) -> str:
        return digest(self.model)


def evaluate(inputs: Iterable[ExtractInput], study: Path, ports: Ports) -> tuple[Definition, ...]:
    """The definitions of these inputs, each evaluated in a sandbox without data. Raises `DefinitionError`."""
    isolation = SandboxIsolation(ports)
    return tuple(
        Definition(wanted, loader.evaluate(wanted.definition, study, isolation, wanted.user_args)) for wanted in inputs
    )


def make(definition: Definition, records: Path, folder: Path, ports: Ports, *, dummy: bool) -> Extract:
    """Run a definition on a folder of table files; the extract is written into `folder`."""
    extract = Extract(definition.input.output, folder / definition.input.output.name, dataset_schema(definition.model))
    message = {
        "model": dataset_to_json(definition.model),
        "records": str(records),
        "output": str(extract.file),
        "dummy": dummy,
    }
    answer = child.ask("extract", message, scratch=folder, limits=ports.child_limits)
    _refuse(answer, DummyDataUnusable if dummy else RecordsMissing)
    return extract


def make_dummy(
    definition: Definition, study: Path, folder: Path, ports: Ports, *, notebook: SubmittedNotebook | None = None
) -> Extract:
    """The extract on the study's dummy tables; without any, rows invented from the definition's schema."""
    wanted = definition.input
    if wanted.dummy_data_file is not None:
        raise DummyDataUnusable(
            f"The action {wanted.action} names a dummy data file; a run here makes its dataset from dummy tables.",
            next_step="Use --dummy-tables FOLDER in its `run` line, or leave both out.",
        )
    if wanted.dummy_tables is not None:
        return make(definition, study / wanted.dummy_tables, folder, ports, dummy=True)
    return invent(wanted.output, dataset_schema(definition.model), notebook, folder, ports)


def describe(path: PurePosixPath, file: Path, folder: Path, ports: Ports) -> Extract:
    """A ready extract that is handed in, with the schema that its file declares."""
    answer = _refuse(child.ask("describe", {"file": str(file)}, scratch=folder, limits=ports.child_limits))
    return Extract(path, file, tasks.schema_value(answer["schema"]))


def invent(
    path: PurePosixPath, schema: DatasetSchema, notebook: SubmittedNotebook | None, folder: Path, ports: Ports
) -> Extract:
    """Dummy rows made from a schema and the notebook's own words, never from rows."""
    file = folder / path.name
    beside = literals_beside(notebook, [column.name for column in schema.columns]) if notebook else {}
    message = {
        "schema": tasks.schema_json(schema),
        "output": str(file),
        "seed": DUMMY_SEED,
        "literals": sorted(string_literals(notebook)) if notebook else [],
        "beside": {column: sorted(texts) for column, texts in beside.items()},
    }
    child.ask("dummy", message, scratch=folder, limits=ports.child_limits)
    return Extract(path, file, schema)


def _refuse(answer: Any, kind: type[LabError] = DummyDataUnusable) -> Any:
    refused = answer.get("refused")
    if refused:
        raise kind(refused["sentence"], next_step=refused["next_step"])
    return answer
