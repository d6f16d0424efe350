"""YAML text to a small tree of text, lists and mappings that remembers its lines.

PyYAML only scans and parses; the tree is built here, so that nesting, size and aliases are bounded
while they are read, duplicate keys are found, no tag makes an object, and a plain scalar means what
YAML 1.2 says it does (an action may be called `on`; `2010-01-01` stays text).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml
from attrs import field, frozen

MAX_BYTES = 2_000_000  # the longest published project files have some ten thousand lines
MAX_DEPTH = 24
MAX_NODES = 400_000  # with aliases written out

_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_STR_TAGS = (None, "!", "tag:yaml.org,2002:str")
_INT = re.compile(r"[-+]?[0-9]{1,18}\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?\Z")


@frozen
class Mistake:
    """One thing wrong with the file; `line` counts from 1, or is None for the file as a whole."""

    line: int | None
    sentence: str

    def __str__(self) -> str:
        return self.sentence if self.line is None else f"line {self.line}: {self.sentence}"


@frozen(eq=False)
class Text:
    text: str
    plain: bool  # written without quotes, so that `1` and `true` mean a number and a truth value
    line: int


@frozen(eq=False)
class Listing:
    items: tuple[Node, ...]
    line: int


@frozen(eq=False)
class Table:
    entries: tuple[tuple[Text, Node], ...]
    line: int

    def get(self, key: str) -> Node | None:
        return next((node for name, node in self.entries if name.text == key), None)


Node = Text | Listing | Table


class Unreadable(Exception):
    """The text is no YAML that we read; carries the one mistake that ended it."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


def read(text: str) -> tuple[Node | None, list[Mistake]]:
    """The tree of one YAML document (None if it is empty) and the duplicate keys found on the way.

    Raises `Unreadable`.
    """
    if len(text) > MAX_BYTES:
        raise Unreadable(Mistake(None, f"it is longer than {MAX_BYTES // 1_000_000} MB"))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Unreadable(Mistake(None, "it holds characters that cannot be written as UTF-8")) from None
    builder = _Builder()
    try:
        for event in _events(text):
            builder.take(event)
    except yaml.YAMLError as error:
        raise Unreadable(_told(error, text)) from None
    return builder.root, builder.mistakes


def value(node: Node) -> Any:
    """The node as JSON has it: None, bool, int, float, str, list, dict. Keys are text.

    A number too long for a number stays text, so that whoever wants a number refuses it.
    """
    match node:
        case Listing():
            return [value(item) for item in node.items]
        case Table():
            return {key.text: value(entry) for key, entry in node.entries}
        case Text():
            return scalar(node)


def scalar(node: Text) -> bool | int | float | str | None:
    text = node.text
    if not node.plain:
        return text
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def is_null(node: Node) -> bool:
    return isinstance(node, Text) and scalar(node) is None


def _events(text: str) -> Iterator[Any]:
    yield from yaml.parse(text, Loader=_Loader)


@frozen
class _Open:
    """A list or mapping that is being read."""

    mapping: bool
    line: int
    anchor: str | None
    nodes_before: int
    nodes: list[Node] = field(factory=list)


class _Builder:
    """Takes the parser's events one by one; never deeper than MAX_DEPTH, never more than MAX_NODES."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.mistakes: list[Mistake] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int]] = {}  # the node and how many nodes it holds
        self._nodes = 0
        self._documents = 0

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise Unreadable(Mistake(line, "a second YAML document begins here (`---`); there can be only one"))
        elif isinstance(event, yaml.AliasEvent):
            known = self._anchors.get(str(event.anchor))
            if known is None:
                raise Unreadable(Mistake(line, f"`*{event.anchor}` refers to nothing that was defined before"))
            self._count(known[1], line)
            self._place(known[0])
        elif isinstance(event, yaml.ScalarEvent):
            self._count(1, line)
            self._refuse_tag(event, line)
            node = Text(event.value, plain=not event.style, line=line)
            if event.anchor:
                self._anchors[event.anchor] = (node, 1)
            self._place(node)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(self._open) >= MAX_DEPTH:
                raise Unreadable(Mistake(line, f"it is nested more than {MAX_DEPTH} levels deep"))
            self._refuse_tag(event, line)
            self._count(1, line)
            mapping = isinstance(event, yaml.MappingStartEvent)
            self._open.append(_Open(mapping, line, event.anchor, self._nodes - 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self._open.pop()
            closed = self._table(done) if done.mapping else Listing(tuple(done.nodes), done.line)
            if done.anchor:
                self._anchors[done.anchor] = (closed, self._nodes - done.nodes_before)
            self._place(closed)

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise Unreadable(Mistake(line, f"it holds more than {MAX_NODES} values, aliases written out"))

    def _refuse_tag(self, event: Any, line: int) -> None:
        tag = event.tag
        if tag not in _STR_TAGS and tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise Unreadable(Mistake(line, "it uses a YAML tag (`!…`), which is not supported"))

    def _place(self, node: Node) -> None:
        if self._open:
            self._open[-1].nodes.append(node)
        else:
            self.root = node

    def _table(self, done: _Open) -> Table:
        entries: dict[str, tuple[Text, Node]] = {}
        for key, node in zip(done.nodes[::2], done.nodes[1::2], strict=True):
            if not isinstance(key, Text):
                raise Unreadable(Mistake(key.line, "a key must be a word, not a list or a mapping"))
            if key.text == "<<" and key.plain:
                for name, inherited in self._merged(key, node):
                    entries.setdefault(name.text, (name, inherited))
            elif key.text in entries and entries[key.text][0].line >= done.line:
                first = entries[key.text][0].line
                self.mistakes.append(Mistake(key.line, f"the key `{shown(key.text)}` was already used on line {first}"))
            else:
                entries[key.text] = (key, node)
        return Table(tuple(entries.values()), done.line)

    @staticmethod
    def _merged(key: Text, node: Node) -> tuple[tuple[Text, Node], ...]:
        tables = node.items if isinstance(node, Listing) else (node,)
        found: list[tuple[Text, Node]] = []
        for table in tables:
            if not isinstance(table, Table):
                raise Unreadable(Mistake(key.line, "`<<` must be followed by an alias of a mapping"))
            found.extend(table.entries)
        return tuple(found)


def shown(text: str, limit: int = 60) -> str:
    """A text as it may stand in a sentence: one line, printable, not long."""
    flat = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text[: limit * 4].split()))
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def _told(error: yaml.YAMLError, text: str) -> Mistake:
    """PyYAML's complaint as a sentence; its own words where they are fit to read."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return Mistake(None, "it holds a character that YAML does not allow, such as a control character")
    line = int(mark.line) + 1
    lines = text.split("\n")
    for number in (line, line - 1):
        if 0 < number <= len(lines):
            indent = lines[number - 1][: len(lines[number - 1]) - len(lines[number - 1].lstrip())]
            if "\t" in indent:
                return Mistake(number, "it is indented with a tab; YAML needs spaces")
    problem = str(getattr(error, "problem", "") or "")
    if "mapping values are not allowed" in problem:
        return Mistake(line, "there is a second `: ` here; put quotes around a text that holds one")
    if "unexpected end of stream" in problem:
        return Mistake(line, "a quote is opened here and never closed")
    return Mistake(
        line, f"this is not valid YAML ({shown(problem, 120)}); look at the indentation and brackets near it"
    )
