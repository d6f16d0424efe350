"""TypeScript types and run-time decoders for the messages that the browser sees.

`python -m opensafely_lab.wire.typescript` prints `extension/src/wire.ts`; a test compares the two.
The decoders are as strict as the models: an unknown field or a wrong type is an error.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from opensafely_lab.wire.base import ParameterValue
from opensafely_lab.wire.lab import LabMessages

HEADER = """\
// Generated from opensafely_lab/wire/lab.py by `python -m opensafely_lab.wire.typescript`. Never edited.
import * as decode from './client/decode';
"""
ROOT = "LabMessages"
Schema = Mapping[str, Any]

# Unions that have a name in Python and would otherwise be written out wherever they are used.
_ALIASES: dict[str, list[Schema]] = {
    "ParameterValue": TypeAdapter[ParameterValue](ParameterValue).json_schema(mode="serialization")["anyOf"]
}


class _AllFieldsSent(GenerateJsonSchema):
    """We never dump with `exclude_unset`: a field with a default is there too."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return True


def generate() -> str:
    """The text of `wire.ts`."""
    schema = LabMessages.model_json_schema(mode="serialization", schema_generator=_AllFieldsSent)
    parts = [HEADER]
    for alias, options in _ALIASES.items():
        parts.append(_alias(alias, options))
    for name, definition in sorted(schema["$defs"].items()):
        parts.append(_enum(name, definition) if "enum" in definition else _record(name, definition))
    return "\n".join(parts)


def _alias(name: str, options: Sequence[Schema]) -> str:
    types = _union(_type(option) for option in options)
    decoders = ",\n  ".join(dict.fromkeys(_decoder(option) for option in options))
    return (
        f"export type {name} = {types};\n\n"
        f"export const {_value_name(name)}: decode.Decoder<{name}> = decode.anyOf<{name}>(\n  {decoders}\n);\n"
    )


def _enum(name: str, definition: Schema) -> str:
    values = [f"'{value}'" for value in definition["enum"]]
    return (
        f"{_comment(definition)}export type {name} = {' | '.join(values)};\n\n"
        f"export const {_value_name(name)}: decode.Decoder<{name}> = decode.oneOf<{name}>(\n  "
        + ",\n  ".join(values)
        + "\n);\n"
    )


def _record(name: str, definition: Schema) -> str:
    if definition.get("additionalProperties") is not False:
        raise ValueError(f"{name} admits unknown fields, so it is not a wire message.")
    fields: Mapping[str, Schema] = definition["properties"]
    types = "".join(f"  readonly {field}: {_type(schema)};\n" for field, schema in fields.items())
    decoders = ",\n".join(f"  {field}: fields.get('{field}', {_decoder(schema)})" for field, schema in fields.items())
    return (
        f"{_comment(definition)}export interface {name} {{\n{types}}}\n\n"
        f"export const {_value_name(name)}: decode.Decoder<{name}> = decode.record(fields => ({{\n{decoders}\n}}));\n"
    )


def _comment(definition: Schema) -> str:
    text = " ".join(definition.get("description", "").split())
    return f"/** {text.replace('*/', '')} */\n" if text else ""


def _value_name(type_name: str) -> str:
    return type_name[0].lower() + type_name[1:]


def _alias_of(schema: Schema) -> tuple[str, list[Schema]] | None:
    """The alias that a union is, or begins with, and the options that are left."""
    options = schema.get("anyOf", [])
    for name, aliased in _ALIASES.items():
        if options[: len(aliased)] == aliased:
            return name, options[len(aliased) :]
    return None


def _type(schema: Schema) -> str:
    if alias := _alias_of(schema):
        return _union([alias[0], *(_type(option) for option in alias[1])])
    if "$ref" in schema:
        return _ref(schema)
    if "anyOf" in schema:
        return _union(_type(option) for option in schema["anyOf"])
    match schema.get("type"):
        case "string":
            return "string"
        case "integer" | "number":
            return "number"
        case "boolean":
            return "boolean"
        case "null":
            return "null"
        case "array":
            item = _type(schema["items"])
            return f"ReadonlyArray<{item}>" if re.search(r"\W", item) else f"readonly {item}[]"
        case "object":
            return f"Readonly<Record<string, {_type(schema['additionalProperties'])}>>"
    raise ValueError(f"No TypeScript for {json.dumps(schema)}")


def _decoder(schema: Schema) -> str:
    if alias := _alias_of(schema):
        return _any_of([_value_name(alias[0]), *(_decoder(option) for option in alias[1])], _type(schema))
    if "$ref" in schema:
        return _value_name(_ref(schema))
    if "anyOf" in schema:
        return _any_of([_decoder(option) for option in schema["anyOf"]], _type(schema))
    match schema.get("type"):
        case "string":
            return "decode.text"
        case "integer":
            return "decode.integer"
        case "number":
            return "decode.number"
        case "boolean":
            return "decode.flag"
        case "null":
            return "decode.nothing"
        case "array":
            return f"decode.list({_decoder(schema['items'])})"
        case "object":
            return f"decode.dictionary({_decoder(schema['additionalProperties'])})"
    raise ValueError(f"No decoder for {json.dumps(schema)}")


def _any_of(decoders: Sequence[str], type_name: str) -> str:
    if len(decoders) == 1:
        return decoders[0]
    if len(decoders) == 2 and decoders[1] == "decode.nothing":
        return f"decode.nullable({decoders[0]})"
    return f"decode.anyOf<{type_name}>({', '.join(decoders)})"


def _union(types: Any) -> str:
    return " | ".join(dict.fromkeys(types))


def _ref(schema: Schema) -> str:
    return str(schema["$ref"]).rsplit("/", 1)[-1]


if __name__ == "__main__":
    sys.stdout.write(generate())
