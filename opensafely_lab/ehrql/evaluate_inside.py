"""Evaluate a definition and leave its query model as JSON. Runs inside, where there are no data.

    python -m opensafely_lab.ehrql.evaluate_inside --study /study --answer FILE DEFINITION -- ARGUMENTS

Nothing here is trusted by anyone: the definition can do to this process what it likes, and the
loader reads the answer accordingly. An error becomes one sentence with the line of the study's
file where it happened. Imports no database and no SQL.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from opensafely_lab import ehrql_finder
from opensafely_lab.ehrql import ABSENT, model_json
from opensafely_lab.ehrql.language import Dataset, dataset_model, set_arguments
from opensafely_lab.errors import LabError, UsageError

LONGEST_SENTENCE = 500


class NoDataset(UsageError):
    """A file that runs and defines nothing."""

    code = "no-dataset"


def evaluate(definition: Path, study: Path, arguments: Sequence[str]) -> str:
    """The canonical text of the dataset that the file defines."""
    os.chdir(study)
    ehrql_finder.install()
    # the study's own habits: modules beside the file and from the root, arguments in sys.argv
    sys.path[:0] = [str(definition.parent), str(study)]
    sys.argv = [str(definition), *arguments]
    set_arguments(arguments)
    with contextlib.redirect_stdout(sys.stderr):
        module = _load(definition)
    dataset = getattr(module, "dataset", None)
    if dataset is None:
        raise NoDataset("The file defines no `dataset`.", next_step="Write dataset = create_dataset().")
    if not isinstance(dataset, Dataset):
        raise NoDataset("`dataset` is not a dataset.", next_step="Write dataset = create_dataset().")
    return model_json.text(dataset_model(dataset))


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise NoDataset(
            "There is no such file, or it is not Python.", next_step="Add it, or correct its path in project.yaml."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def told(error: BaseException, study: Path, definition: Path) -> dict[str, Any]:
    """An error as one sentence, a next step, and the line of the study's own code that it came from."""
    file, line = _place(error, study)
    sentence, next_step = _sentence(error, definition.relative_to(study))
    return {
        "error": {
            "sentence": sentence[:LONGEST_SENTENCE],
            "next_step": next_step[:LONGEST_SENTENCE],
            "file": file or str(definition.relative_to(study)),
            "line": line,
        }
    }


def _place(error: BaseException, study: Path) -> tuple[str | None, int | None]:
    """The deepest line that is in the study."""
    if isinstance(error, SyntaxError) and error.filename:
        frames = [(error.filename, error.lineno)]
    else:
        frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    for name, line in reversed(frames):
        path = Path(name)
        if path.is_absolute() and path.is_relative_to(study):
            return str(path.relative_to(study)), line
    return None, None


def _sentence(error: BaseException, definition: Path) -> tuple[str, str]:
    if isinstance(error, LabError):
        return error.sentence, error.next_step
    if isinstance(error, SyntaxError):
        return f"This is not Python: {error.msg}.", "Look at that line, and at the brackets and quotes before it."
    if isinstance(error, NameError):
        said = str(error)
        return f"{said[:1].upper()}{said[1:]}.", "Is it spelled as where it is defined, and imported?"
    if isinstance(error, ImportError):
        absent = next((name for name in ABSENT if f"cannot import name '{name}'" in str(error)), None)
        if absent:
            return f"ehrql.{absent} is not part of this version of OpenSAFELY Lab yet.", "Do without it for now."
        return f"{error}.", "Only ehrQL, the study's own modules, pandas and the standard library can be imported."
    if isinstance(error, AttributeError):
        return str(error), ""
    if isinstance(error, RecursionError):
        return "The definition is nested too deeply.", "Split long chains of + or | into several variables."
    if isinstance(error, SystemExit):
        return "The definition ended the process.", "Check the arguments after -- in the action's run line."
    if isinstance(error, OSError):
        return (
            f"{type(error).__name__}: {error}.",
            "A definition sees the study, which it cannot change, and nothing else: no network, no records.",
        )
    return f"{type(error).__name__}: {error}.", f"`python {definition}` in the study's folder shows the whole error."


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="evaluate_inside")
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--answer", type=Path, required=True)
    parser.add_argument("definition", type=Path)
    parser.add_argument("arguments", nargs="*")
    given = parser.parse_args(words)
    study = given.study.resolve()
    definition = study / given.definition
    try:
        answer = evaluate(definition, study, given.arguments)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a definition raises is told
        answer = json.dumps(told(error, study, definition))
    given.answer.parent.mkdir(parents=True, exist_ok=True)
    given.answer.write_text(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
