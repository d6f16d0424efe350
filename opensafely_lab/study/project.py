"""`project.yaml` read into values: versions 1 to 5 as published studies write them, and `notebook:v1`.

Every mistake is found in one reading and told with its line. Nothing is executed. Our addition to the
published format: an action `notebook:v1 PATH.ipynb`, whose `outputs` are optional and whose
`config: parameters:` say what each parameter may be.

Beyond the published validators it refuses what makes their scheduler die: cycles, an action that
needs itself, an empty file, a list at the top, tabs, a version that does not exist yet.
Source: OpenSAFELY's project pipeline reference, and 111 published project files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any

from attrs import evolve, field, frozen

from opensafely_lab.errors import Refused
from opensafely_lab.study import yamltext
from opensafely_lab.study.parameters import (
    MAX_PARAMETERS,
    ParameterError,
    ParameterSpec,
    make_spec,
    mistake_in_name,
)
from opensafely_lab.study.patterns import matches, mistake_in_pattern
from opensafely_lab.study.runline import (
    BadRunLine,
    DatasetArgs,
    RunLine,
    dataset_args,
    is_generate_dataset,
    notebook_path,
    parse_run,
    writes,
)
from opensafely_lab.study.yamltext import Listing, Mistake, Node, Table, Text, shown

LATEST_VERSION = 5
LEVELS = ("highly_sensitive", "moderately_sensitive", "minimally_sensitive")
MAX_ACTIONS = 5_000
MAX_TOLD = 20  # mistakes in one message

_VERSION = re.compile(r"([0-9]{1,4})(\.[0-9]{1,4})?\Z")
_ACTION_NAME = re.compile(r"[^\W_][\w.+-]{0,127}\Z", re.ASCII)
_ACTION_KEYS = ("run", "needs", "outputs", "config", "dummy_data_file")
_PAIRS_LOOKED_AT = 500_000


class ProjectError(Refused):
    """project.yaml cannot be used; `mistakes` are all that were found, in the order of the file."""

    code = "project-yaml"

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(sorted(mistakes, key=lambda m: m.line or 0))
        told = self.mistakes[:MAX_TOLD]
        if len(self.mistakes) == 1:
            sentence = f"project.yaml has a mistake: {told[0]}."
        else:
            lines = "".join(f"\n- {mistake}" for mistake in told)
            more = f"\n- and {len(self.mistakes) - MAX_TOLD} more" if len(self.mistakes) > MAX_TOLD else ""
            sentence = f"project.yaml has {len(self.mistakes)} mistakes:{lines}{more}\n"
        super().__init__(sentence, next_step="Correct project.yaml, save it and try again.")


class UnknownAction(Refused):
    """The name of no action."""

    code = "unknown-action"


@frozen
class Output:
    """Files that an action declares: a level, a label, and a path in which `*` may stand for a name."""

    level: str
    label: str
    pattern: str


@frozen
class Action:
    """One named step. `parameters` and `notebook` are there for `notebook:v1` only."""

    name: str
    run: RunLine
    needs: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    parameters: Mapping[str, ParameterSpec] = field(factory=dict)
    config: Mapping[str, Any] = field(factory=dict)
    line: int = 0

    @property
    def is_notebook(self) -> bool:
        return self.run.image == "notebook"

    @property
    def notebook(self) -> PurePosixPath:
        """The notebook that a `notebook:v1` action runs. Raises `UnknownAction` for any other action."""
        if not self.is_notebook:
            raise UnknownAction(
                f"Action {self.name} runs no notebook.", next_step="Choose an action whose `run` begins `notebook:v1`."
            )
        return notebook_path(self.run)

    @property
    def dataset(self) -> DatasetArgs | None:
        """The words of `generate-dataset`, if that is what the action runs."""
        return dataset_args(self.run) if is_generate_dataset(self.run) else None


@frozen
class ExtractInput:
    """A dataset that an action needs: which action makes it, where it lies, which definition says what it is.

    `args` are all words of that action's `run`, `user_args` those after `--`.
    """

    action: str
    output: PurePosixPath
    definition: PurePosixPath
    args: tuple[str, ...]
    user_args: tuple[str, ...]
    dummy_tables: PurePosixPath | None
    dummy_data_file: PurePosixPath | None


@frozen
class Project:
    """A study's project.yaml. `warnings` are sentences about what works and had better be changed."""

    version: int
    actions: Mapping[str, Action]
    warnings: tuple[str, ...] = ()

    def action(self, name: str) -> Action:
        """Raises `UnknownAction`."""
        found = self.actions.get(name)
        if found is None:
            raise UnknownAction(
                f"project.yaml has no action `{shown(name)}`.",
                next_step=f"Its actions are: {_few(self.actions)}." if self.actions else "Add an action to it.",
            )
        return found

    def notebook_actions(self, notebook: PurePosixPath) -> tuple[Action, ...]:
        """The actions that run this notebook."""
        return tuple(a for a in self.actions.values() if a.is_notebook and a.notebook == notebook)

    def action_of(self, notebook: PurePosixPath) -> Action:
        """The one action that runs this notebook. Raises `UnknownAction`."""
        found = self.notebook_actions(notebook)
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownAction(
                f"{notebook} is run by {len(found)} actions: {_few(a.name for a in found)}.",
                next_step="Say which action you mean.",
            )
        raise UnknownAction(
            f"{notebook} is run by no action of project.yaml.",
            next_step=f"Add one to project.yaml with the line `run: notebook:v1 {notebook}`.",
        )

    def order(self, name: str) -> tuple[Action, ...]:
        """The action and all it needs, directly or not, each after what it needs. Raises `UnknownAction`."""
        done: dict[str, Action] = {}
        stack = [(self.action(name), False)]
        while stack:
            action, visited = stack.pop()
            if visited:
                done[action.name] = action
            elif action.name not in done:
                stack.append((action, True))
                stack.extend((self.actions[need], False) for need in reversed(action.needs) if need not in done)
        return tuple(done.values())

    def inputs(self, name: str) -> tuple[ExtractInput, ...]:
        """The datasets that the action's needed `generate-dataset` actions make, in the order of `needs`."""
        found = [self.extract(need) for need in self.action(name).needs]
        return tuple(extract for extract in found if extract is not None)

    def extract(self, name: str) -> ExtractInput | None:
        """The dataset that a `generate-dataset` action makes; None for any other action."""
        action = self.action(name)
        said = action.dataset
        if said is None:
            return None
        return ExtractInput(
            action=name,
            output=PurePosixPath(said.output),
            definition=said.definition,
            args=action.run.args,
            user_args=said.user_args,
            dummy_tables=said.dummy_tables,
            dummy_data_file=said.dummy_data_file,
        )


def read_project(data: bytes) -> Project:
    """The project of a file's bytes. Raises `ProjectError`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ProjectError([Mistake(line, "it is not UTF-8 text")]) from None
    return parse_project(text)


def parse_project(text: str) -> Project:
    """Raises `ProjectError` with every mistake that was found."""
    try:
        root, mistakes = yamltext.read(text)
    except yamltext.Unreadable as error:
        raise ProjectError([error.mistake]) from None
    if root is None or yamltext.is_null(root):
        raise ProjectError([Mistake(None, "it is empty; it needs a `version` and `actions`")])
    if not isinstance(root, Table):
        what = "a list" if isinstance(root, Listing) else "a single text"
        raise ProjectError([Mistake(root.line, f"it is {what}; it must have the keys `version` and `actions`")])
    reader = _Reader(mistakes)
    project = reader.project(root)
    if reader.mistakes:
        raise ProjectError(reader.mistakes)
    return project


class _Reader:
    """Walks the tree and collects mistakes; what it returns is of use only if there were none."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        self.warnings: list[str] = []
        self.version = LATEST_VERSION

    def wrong(self, line: int | None, sentence: str) -> None:
        self.mistakes.append(Mistake(line, sentence))

    def project(self, root: Table) -> Project:
        self.version = self._version(root)
        for key, _ in root.entries:
            if key.text not in ("version", "actions", "expectations"):
                self.wrong(key.line, f"there is the unexpected key `{shown(key.text)}`")
        self._expectations(root)
        actions = self._actions(root)
        self._check_needs(actions)
        self._check_run_lines(actions)
        self._check_outputs(actions)
        return Project(self.version, actions, tuple(self.warnings))

    def _version(self, root: Table) -> int:
        node = root.get("version")
        if node is None:
            self.wrong(None, f"it has no `version`; the current latest version is {LATEST_VERSION}")
            return LATEST_VERSION
        found = _VERSION.match(node.text) if isinstance(node, Text) else None
        if found is None:
            self.wrong(node.line, f"`version` must be a number from 1 to {LATEST_VERSION}")
            return LATEST_VERSION
        version = int(found[1])
        if not 1 <= version <= LATEST_VERSION:
            self.wrong(
                node.line,
                f"version {version} does not exist; the current latest version is {LATEST_VERSION}",
            )
            return LATEST_VERSION
        if version < LATEST_VERSION:
            self.warnings.append(
                f"project.yaml is using a deprecated version ({shown(found[0])}); update to version {LATEST_VERSION}."
            )
        return version

    def _expectations(self, root: Table) -> None:
        node = root.get("expectations")
        if self.version == 3 and not isinstance(node, Table):
            self.wrong(node.line if node else None, "version 3 needs `expectations` with a `population_size`")
        if self.version >= 4 and node is not None:
            self.wrong(node.line, "`expectations` is no longer used from version 4; remove it")

    def _actions(self, root: Table) -> dict[str, Action]:
        node = root.get("actions")
        if node is None:
            self.wrong(None, "it has no `actions`")
            return {}
        if not isinstance(node, Table):
            self.wrong(node.line, "`actions` must be a mapping from names to actions")
            return {}
        if not node.entries:
            self.wrong(node.line, "`actions` has no action in it")
        if len(node.entries) > MAX_ACTIONS:
            self.wrong(node.line, f"it has more than {MAX_ACTIONS} actions")
            return {}
        return {key.text: self._action(key, body) for key, body in node.entries}

    def _action(self, key: Text, body: Node) -> Action:
        name, nothing = key.text, Action(key.text, RunLine("", "", ()), line=key.line)
        said = f"action `{shown(name)}`"
        if not _ACTION_NAME.match(name):
            self.wrong(
                key.line, f"{said} must be named with letters, digits, `_`, `-` and `.`, a letter or digit first"
            )
        if name == "run_all" and self.version >= 5:
            self.wrong(key.line, "`run_all` is a reserved name; an action cannot have it")
        if not isinstance(body, Table):
            self.wrong(body.line, f"{said} must be a mapping with `run` and `outputs`")
            return nothing
        for part, _ in body.entries:
            if part.text not in _ACTION_KEYS:
                close = " (did you mean `needs`?)" if part.text in ("need", "depends", "depends_on") else ""
                self.wrong(part.line, f"{said} has the unexpected key `{shown(part.text)}`{close}")
        run = self._run(said, key, body)
        needs = self._needs(said, body)
        config = self._config(said, body)
        dummy = body.get("dummy_data_file")
        if dummy is not None and not isinstance(dummy, Text):
            self.wrong(dummy.line, f"{said} has a `dummy_data_file` that is no text")
        if run is None:
            self._outputs(said, key, body, optional=True)
            return evolve(nothing, needs=needs)
        notebook = run.image == "notebook"
        if not notebook and get_close_matches(run.image, ["notebook"]):
            said = f"{said} uses the image `{shown(run.image)}` (did you mean `notebook`?), and"
        outputs = self._outputs(said, key, body, optional=notebook)
        parameters = self._parameters(said, body) if notebook else {}
        self._check_image(said, run, body, outputs)
        return Action(name, run, needs, outputs, parameters, config, key.line)

    def _run(self, said: str, key: Text, body: Table) -> RunLine | None:
        node = body.get("run")
        if node is None:
            self.wrong(key.line, f"{said} has no `run`")
            return None
        if not isinstance(node, Text):
            self.wrong(node.line, f"{said} has a `run` that is no text")
            return None
        try:
            return parse_run(node.text)
        except BadRunLine as error:
            self.wrong(node.line, f"{said} {error}")
            return None

    def _check_image(self, said: str, run: RunLine, body: Table, outputs: tuple[Output, ...]) -> None:
        node = body.get("run")
        line = node.line if node else None
        if run.version == "latest" and self.version >= 5:
            self.wrong(line, f"{said} uses `{run.image}:latest`, which is not supported; give a version such as `:v2`")
        if run.image == "cohortextractor" and self.version >= 4:
            self.wrong(line, f"{said} uses cohortextractor, which is not supported from version 4; use `ehrql:v1`")
        try:
            if run.image == "notebook":
                if run.version != "v1":
                    self.wrong(line, f"{said} uses `{run.name}`; there is only `notebook:v1`")
                notebook_path(run)
            elif is_generate_dataset(run):
                self._check_dataset(said, line, dataset_args(run), outputs)
        except BadRunLine as error:
            self.wrong(line, f"{said} {error}")

    def _check_dataset(self, said: str, line: int | None, args: DatasetArgs, outputs: tuple[Output, ...]) -> None:
        if any(output.level != "highly_sensitive" for output in outputs):
            self.wrong(line, f"{said} makes a dataset, so all its outputs must be highly_sensitive")
        if outputs and not any(writes(args.output, output.pattern) for output in outputs):
            self.wrong(
                line,
                f"{said} has outputs that do not match the `--output` argument of its `run`: "
                f"got `{shown(args.output)}`, declared is `{shown(outputs[0].pattern)}`",
            )

    def _needs(self, said: str, body: Table) -> tuple[str, ...]:
        node = body.get("needs")
        if node is None or yamltext.is_null(node):
            return ()
        if not isinstance(node, Listing):
            example = shown(node.text) if isinstance(node, Text) else "other_action"
            self.wrong(node.line, f"{said} has `needs` that is no list; write `needs: [{example}]`")
            return ()
        found: dict[str, None] = {}
        for item in node.items:
            if not isinstance(item, Text):
                self.wrong(item.line, f"{said} has an item in `needs` that is no name of an action")
            elif not item.text:
                self.wrong(item.line, f"{said} has an empty item in `needs`")
            elif len(item.text.split()) > 1:
                self.wrong(
                    item.line, f"{said} has `{shown(item.text)}` in `needs`; separate the names of actions with commas"
                )
            else:
                found[item.text] = None
        return tuple(found)

    def _config(self, said: str, body: Table) -> dict[str, Any]:
        node = body.get("config")
        if node is None or yamltext.is_null(node):
            return {}
        if not isinstance(node, Table):
            self.wrong(node.line, f"{said} has a `config` that is no mapping")
            return {}
        config: dict[str, Any] = yamltext.value(node)
        if len(json.dumps(config)) > 100_000:
            self.wrong(node.line, f"{said} has a `config` of more than 100,000 characters")
            return {}
        return config

    def _outputs(self, said: str, key: Text, body: Table, *, optional: bool) -> tuple[Output, ...]:
        node = body.get("outputs")
        if node is None or yamltext.is_null(node):
            if not optional:
                self.wrong(key.line, f"{said} has no `outputs`; it must have at least one of {', '.join(LEVELS)}")
            return ()
        if not isinstance(node, Table):
            self.wrong(node.line, f"{said} has `outputs` that is no mapping from levels to outputs")
            return ()
        found: list[Output] = []
        known = 0
        for level, files in node.entries:
            if level.text not in LEVELS:
                self.wrong(
                    level.line,
                    f"{said} has outputs of the unknown level `{shown(level.text)}`; "
                    f"the levels are {', '.join(LEVELS)}",
                )
                continue
            known += 1
            if not isinstance(files, Table) or not files.entries:
                self.wrong(files.line, f"{said} must have a name and a path under `{level.text}`")
                continue
            for label, path in files.entries:
                found.extend(self._output(said, level.text, label, path))
        if not node.entries and not optional:
            self.wrong(node.line, f"{said} must have at least one output of {', '.join(LEVELS)}")
        return tuple(found)

    def _output(self, said: str, level: str, label: Text, path: Node) -> list[Output]:
        if not isinstance(path, Text):
            self.wrong(path.line, f"{said} has an output `{shown(label.text)}` whose path is no text")
            return []
        wrong = mistake_in_pattern(path.text, level)
        if wrong:
            self.wrong(path.line, f"output path `{shown(path.text)}` {wrong}")
            return []
        return [Output(level, label.text, path.text)]

    def _parameters(self, said: str, body: Table) -> dict[str, ParameterSpec]:
        config = body.get("config")
        if not isinstance(config, Table):
            return {}
        for key, _ in config.entries:
            if key.text != "parameters":
                self.wrong(key.line, f"{said} has the unexpected key `{shown(key.text)}` in its `config`")
        node = config.get("parameters")
        if node is None or yamltext.is_null(node):
            return {}
        if not isinstance(node, Table) or len(node.entries) > MAX_PARAMETERS:
            self.wrong(node.line, f"{said} must have a mapping of up to {MAX_PARAMETERS} names under `parameters`")
            return {}
        found: dict[str, ParameterSpec] = {}
        for name, said_of_it in node.entries:
            wrong = mistake_in_name(name.text)
            if wrong:
                self.wrong(name.line, f"{said} has the parameter `{shown(name.text)}`, but a name {wrong}")
            elif not isinstance(said_of_it, Table):
                self.wrong(
                    said_of_it.line,
                    f"{said} must say of parameter `{name.text}` what it may be, such as `{{type: int, min: 0}}`",
                )
            else:
                try:
                    found[name.text] = make_spec(name.text, yamltext.value(said_of_it))
                except ParameterError as error:
                    self.wrong(said_of_it.line, f"{said}: {error.sentence.removesuffix('.')}")
        return found

    def _check_needs(self, actions: Mapping[str, Action]) -> None:
        for action in actions.values():
            said = f"action `{shown(action.name)}`"
            for need in action.needs:
                if need == action.name:
                    self.wrong(action.line, f"{said} needs itself")
                elif need not in actions:
                    self.wrong(action.line, f"{said} references an unknown action in its `needs` list: {shown(need)}")
        cycle = find_cycle({name: a.needs for name, a in actions.items()})
        if cycle:
            some = [*cycle[:6], "…"] if len(cycle) > 6 else cycle
            self.wrong(actions[cycle[0]].line, f"actions need each other in a circle: {' → '.join(map(shown, some))}")

    def _check_run_lines(self, actions: Mapping[str, Action]) -> None:
        seen: dict[RunLine, str] = {}
        for action in actions.values():
            if not action.run.image:
                continue
            first = seen.setdefault(action.run, action.name)
            # One notebook may be run by several actions that differ in their parameters.
            if first != action.name and not (action.is_notebook and actions[first].config != action.config):
                self.wrong(
                    action.line,
                    f"action `{shown(action.name)}` has the same `run` as action `{shown(first)}`",
                )

    def _check_outputs(self, actions: Mapping[str, Action]) -> None:
        declared = [(action, output.pattern) for action in actions.values() for output in action.outputs]
        owner: dict[str, Action] = {}
        for action, pattern in declared:
            if pattern in owner and self.version >= 2:
                self.wrong(
                    action.line,
                    f"output path `{shown(pattern)}` is not unique: "
                    f"actions `{shown(owner[pattern].name)}` and `{shown(action.name)}` declare it",
                )
            owner.setdefault(pattern, action)
        wild = [(action, pattern) for action, pattern in declared if "*" in pattern]
        if len(wild) * len(declared) > _PAIRS_LOOKED_AT:
            return
        for action, pattern in wild:
            for other, path in declared:
                if other.name != action.name and "*" not in path and matches(pattern, path):
                    self.warnings.append(
                        f"{shown(path)} is declared by action {other.name} and also matches `{shown(pattern)}` "
                        f"of action {action.name}: which of them makes it cannot be told."
                    )


def find_cycle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Actions that need each other in a circle, the first named again at the end; [] if there are none."""
    finished: set[str] = set()
    for start in needs:
        if start in finished:
            continue
        path: list[str] = [start]
        on_path = {start: 0}
        todo = [iter(needs[start])]
        while todo:
            need = next(todo[-1], None)
            if need is None:
                finished.add(path[-1])
                del on_path[path.pop()]
                todo.pop()
            elif need in on_path:
                if need != path[-1]:  # an action that needs itself is told apart
                    return [*path[on_path[need] :], need]
            elif need in needs and need not in finished:
                on_path[need] = len(path)
                path.append(need)
                todo.append(iter(needs[need]))
    return []


def _few(names: Iterable[str], limit: int = 12) -> str:
    found = list(names)
    return ", ".join(map(shown, found[:limit])) + (", …" if len(found) > limit else "")
