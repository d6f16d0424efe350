"""What the trusted child can do: make an extract, invent a dummy one, describe one, run the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cattrs.preconf.json import JsonConverter, make_converter

from opensafely_lab.disclosure.outcome import Outcome
from opensafely_lab.errors import LabError
from opensafely_lab.expressions.schema import DatasetSchema

CONVERTER: JsonConverter = make_converter()


def schema_json(schema: DatasetSchema) -> Any:
    return CONVERTER.unstructure(schema)


def schema_value(obj: Any) -> DatasetSchema:
    return CONVERTER.structure(obj, DatasetSchema)


def outcomes_value(obj: Any) -> tuple[Outcome, ...]:
    return CONVERTER.structure(obj, tuple[Outcome, ...])


def extract(message: Mapping[str, Any]) -> Any:
    """Run a definition's query model on a folder of records.

    On dummy tables a mistake in them is told; of real ones, only which table is not there.
    """
    from opensafely_lab.ehrql import engine
    from opensafely_lab.ehrql.model_json import dataset_from_json

    dataset = dataset_from_json(message["model"])
    try:
        engine.run(dataset, engine.folder_source(Path(message["records"])), Path(message["output"]))
    except LabError as error:
        if not message["dummy"] and not isinstance(error, engine.TablesMissing):
            raise
        return {"refused": {"sentence": error.sentence, "next_step": error.next_step}}
    return {}


def describe(message: Mapping[str, Any]) -> Any:
    """The schema of a ready extract (`--extract`)."""
    from opensafely_lab.ehrql import engine

    try:
        return {"schema": schema_json(engine.describe(Path(message["file"])))}
    except LabError as error:
        return {"refused": {"sentence": error.sentence, "next_step": error.next_step}}


def dummy(message: Mapping[str, Any]) -> Any:
    """Dummy rows made from a schema, never from rows."""
    from opensafely_lab.ehrql import engine

    engine.dummy_extract(
        schema_value(message["schema"]),
        Path(message["output"]),
        seed=message["seed"],
        literals=message["literals"],
        beside=message["beside"],
    )
    return {}


def gate(message: Mapping[str, Any]) -> Any:
    """Answer the fixed list of requests over the extracts."""
    from opensafely_lab.disclosure.gate import answer
    from opensafely_lab.disclosure.policy import POLICIES
    from opensafely_lab.disclosure.requests import parse
    from opensafely_lab.ehrql import engine

    extracts = {entry["path"]: entry for entry in message["extracts"]}
    schemas = {path: schema_value(entry["schema"]) for path, entry in extracts.items()}
    outcomes = answer(
        parse(message["requests"].encode()),
        lambda request: engine.aggregate(request, Path(extracts[request.dataset]["file"]), schemas[request.dataset]),
        lambda path: schemas[path],
        POLICIES[message["policy"]],
        message["dummy"],
    )
    return {"outcomes": CONVERTER.unstructure(outcomes, unstructure_as=tuple[Outcome, ...])}


TASKS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "extract": extract,
    "describe": describe,
    "dummy": dummy,
    "gate": gate,
}
