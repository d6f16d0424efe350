"""A dataset as JSON: what crosses from the sandbox, parsed strictly.

A list of nodes, each made of earlier ones by number, so that what is shared stays shared. A table
is a reference, module.name, looked up here: a definition cannot bring a schema. Types and domains
are worked out and checked again as the nodes are built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from ..expressions.jsonio import literal_from_json, literal_to_json
from ..expressions.nodes import Call, Expr, ExpressionError, Literal, call
from .model.dataset import DatasetError, DatasetModel, DummyData, Node, Variable, in_order, parts, roots
from .model.nodes import (
    Aggregate,
    Count,
    CountEpisodes,
    Exists,
    Filter,
    Frame,
    PickOneRowPerPatient,
    Position,
    SelectColumn,
    SelectPatientTable,
    SelectTable,
    Sort,
)
from .schemas import TableSchema

VERSION = 1
MAX_BYTES = 64 * 2**20
MAX_NODES = 100_000
MAX_LITERALS = 2_000_000
MAX_DEPTH = 250
MAX_VARIABLES = 2_000
MAX_EXPANDED = 1_000_000  # nodes of one expression if nothing in it were shared: what walks over it may take

Json = dict[str, Any]
Reference = int | Json  # the number of an earlier node, or a literal as it is


def dataset_to_json(dataset: DatasetModel) -> Json:
    """The dataset as plain JSON values, the same for equal datasets."""
    written: list[Json] = []
    numbers: dict[Node, int] = {}

    def ref(node: Node) -> Reference:
        return literal_to_json(node) if isinstance(node, Literal) else numbers[node]

    for node in in_order(roots(dataset)):
        if not isinstance(node, Literal) and node not in numbers:
            written.append(_node_to_json(node, ref))
            numbers[node] = len(written) - 1
    dummy = dataset.dummy_data
    return {
        "version": VERSION,
        "nodes": written,
        "population": ref(dataset.population),
        "variables": [[v.name, ref(v.expr)] for v in dataset.variables],
        "dummy_data": None if dummy is None else _dummy_to_json(dummy, ref),
        "permissions": list(dataset.permissions),
    }


def _dummy_to_json(dummy: DummyData, ref: Callable[[Node], Reference]) -> Json:
    constraint = dummy.additional_population_constraint
    return {
        "population_size": dummy.population_size,
        "legacy": dummy.legacy,
        "timeout": dummy.timeout,
        "additional_population_constraint": None if constraint is None else ref(constraint),
    }


def _node_to_json(node: Node, ref: Callable[[Node], Reference]) -> Json:
    match node:
        case SelectTable() | SelectPatientTable():
            return {"table": node.table.reference}
        case Filter():
            return {"filter": ref(node.source), "condition": ref(node.condition)}
        case Sort():
            return {"sort": ref(node.source), "by": ref(node.by)}
        case PickOneRowPerPatient():
            return {"pick": ref(node.source), "position": node.position.value}
        case SelectColumn():
            return {"column": node.name, "of": ref(node.source)}
        case Exists():
            return {"exists": ref(node.source)}
        case Count():
            return {"count": ref(node.source)}
        case Aggregate():
            return {"aggregate": node.function, "of": ref(node.source)}
        case CountEpisodes():
            return {"episodes": ref(node.source), "longest_gap": node.longest_gap}
        case Call():
            return {"op": node.op, "args": [ref(arg) for arg in node.args]}
    raise ExpressionError("This cannot be part of a dataset.")


def text(dataset: DatasetModel) -> str:
    """The canonical text of a dataset: equal datasets, equal texts."""
    return json.dumps(
        dataset_to_json(dataset), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def digest(dataset: DatasetModel) -> str:
    """The SHA-256 of the canonical text."""
    return hashlib.sha256(text(dataset).encode()).hexdigest()


def from_bytes(data: bytes) -> DatasetModel:
    """The dataset that untrusted bytes say. Raises `ExpressionError`, and nothing else, on anything else."""
    if len(data) > MAX_BYTES:
        raise DatasetError("The definition is too large.")
    try:
        obj = json.loads(data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise _bad("it is not JSON") from None
    return dataset_from_json(obj)


def _no_constant(_: str) -> Any:
    raise ValueError("not a number")


def _once(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _bad(what: str) -> DatasetError:
    return DatasetError(f"The definition did not come back as a dataset: {what}.")


def dataset_from_json(obj: object) -> DatasetModel:
    """The dataset that plain JSON values say."""
    top = _keys(obj, {"version", "nodes", "population", "variables", "dummy_data", "permissions"})
    if type(top["version"]) is not int or top["version"] != VERSION:
        raise _bad("it is of another version")
    nodes, variables, permissions = top["nodes"], top["variables"], top["permissions"]
    if not isinstance(nodes, list) or len(nodes) > MAX_NODES:
        raise _bad("it has too many parts")
    if not isinstance(variables, list) or len(variables) > MAX_VARIABLES:
        raise _bad("it has too many columns")
    if not isinstance(permissions, list) or len(permissions) > 100 or not all(_short(p) for p in permissions):
        raise _bad("its permissions are no list of names")
    reader = _Reader()
    for node in nodes:
        reader.add(node)
    pairs = [v if isinstance(v, list) and len(v) == 2 and isinstance(v[0], str) else None for v in variables]
    if None in pairs:
        raise _bad("a column is not a name and a value")
    return DatasetModel(
        population=reader.expr(top["population"]),
        variables=tuple(Variable(pair[0], reader.expr(pair[1])) for pair in pairs if pair is not None),
        dummy_data=None if top["dummy_data"] is None else _dummy_from_json(top["dummy_data"], reader),
        permissions=tuple(permissions),
    )


def _short(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 100 and value.isprintable()


def _keys(obj: object, keys: set[str]) -> Json:
    if not isinstance(obj, dict) or set(obj) != keys:
        raise _bad("a part has other keys than it should")
    return obj


def _dummy_from_json(obj: object, reader: _Reader) -> DummyData:
    found = _keys(obj, {"population_size", "legacy", "timeout", "additional_population_constraint"})
    constraint = found["additional_population_constraint"]
    if type(found["legacy"]) is not bool:
        raise _bad("legacy is true or false")
    return DummyData(
        population_size=found["population_size"],
        legacy=found["legacy"],
        timeout=found["timeout"],
        additional_population_constraint=None if constraint is None else reader.expr(constraint),
    )


class _Reader:
    """Builds nodes one by one; equal nodes become the same object, so that comparing them is quick."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.known: dict[Node, Node] = {}
        self.depths: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self.literals = 0

    def add(self, obj: object) -> None:
        if not isinstance(obj, dict) or not obj:
            raise _bad("a part is no JSON object")
        node = self._build(obj)
        depth = 1 + max((self.depths.get(id(part), 0) for part in parts(node)), default=0)
        size = 1 + sum(self.sizes.get(id(part), 1) for part in parts(node))
        if depth > MAX_DEPTH:
            raise _bad("it is nested too deeply")
        if size > MAX_EXPANDED:
            raise _bad("it repeats itself too often")
        node = self.known.setdefault(node, node)
        self.depths[id(node)], self.sizes[id(node)] = depth, size
        self.nodes.append(node)

    def _build(self, obj: Json) -> Node:
        kind = next(iter(BUILDERS.keys() & obj.keys()), None) if len(obj.keys() & BUILDERS.keys()) == 1 else None
        if kind is None:
            raise _bad("a part is of no known kind")
        keys, build = BUILDERS[kind]
        return build(self, _keys(obj, keys))

    def node(self, reference: object) -> Node:
        if type(reference) is not int or not 0 <= reference < len(self.nodes):
            raise _bad("a part refers to one that does not come before it")
        return self.nodes[reference]

    def frame(self, reference: object) -> Frame:
        node = self.node(reference)
        if not isinstance(node, Frame):
            raise _bad("a value stands where rows are meant")
        return node

    def expr(self, reference: object) -> Expr:
        if isinstance(reference, dict):
            self.literals += 1
            if self.literals > MAX_LITERALS:
                raise _bad("it has too many constants")
            return literal_from_json(reference)
        node = self.node(reference)
        if not isinstance(node, Expr):
            raise _bad("rows stand where a value is meant")
        return node

    def text(self, value: object) -> str:
        if not isinstance(value, str):
            raise _bad("a name is not text")
        return value

    def table(self, obj: Json) -> Node:
        schema = table_schema(self.text(obj["table"]))
        return SelectPatientTable(schema) if schema.one_row_per_patient else SelectTable(schema)

    def pick(self, obj: Json) -> Node:
        if obj["position"] not in ("first", "last"):
            raise _bad("a row is picked first or last")
        return PickOneRowPerPatient(self.frame(obj["pick"]), Position(obj["position"]))

    def aggregate(self, obj: Json) -> Node:
        try:
            return Aggregate(self.text(obj["aggregate"]), self.expr(obj["of"]))
        except (ValueError, KeyError):
            raise _bad("there is no such aggregation") from None

    def call(self, obj: Json) -> Node:
        if not isinstance(obj["args"], list):
            raise _bad("arguments are a list")
        return call(self.text(obj["op"]), *(self.expr(arg) for arg in obj["args"]))


BUILDERS: dict[str, tuple[set[str], Callable[[_Reader, Json], Node]]] = {
    "table": ({"table"}, _Reader.table),
    "filter": ({"filter", "condition"}, lambda r, o: Filter(r.frame(o["filter"]), r.expr(o["condition"]))),
    "sort": ({"sort", "by"}, lambda r, o: Sort(r.frame(o["sort"]), r.expr(o["by"]))),
    "pick": ({"pick", "position"}, _Reader.pick),
    "column": ({"column", "of"}, lambda r, o: SelectColumn(r.frame(o["of"]), r.text(o["column"]))),
    "exists": ({"exists"}, lambda r, o: Exists(r.frame(o["exists"]))),
    "count": ({"count"}, lambda r, o: Count(r.frame(o["count"]))),
    "aggregate": ({"aggregate", "of"}, _Reader.aggregate),
    "episodes": ({"episodes", "longest_gap"}, lambda r, o: CountEpisodes(r.expr(o["episodes"]), o["longest_gap"])),
    "op": ({"op", "args"}, _Reader.call),
}


def table_schema(reference: str) -> TableSchema:
    """The table of a reference, from the modules that this package ships and no others."""
    # Tables are written in the language, which builds nodes: looked up when needed, not on import.
    from .tables import known_table

    schema = known_table(reference)
    if schema is None:
        raise DatasetError(
            "The definition uses a table that is not one of ehrql.tables.",
            next_step="Use the tables that come with ehrQL.",
        )
    return schema
